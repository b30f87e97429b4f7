"""Record rows with a counter into DIRECTORY as fast as it goes, until killed.

After each write to disk it says on stdout how many rows that makes.
"""

import itertools
import sys
from pathlib import Path

from collectors.recorder import Recorder
from tests.recordings import count, make_recorder

ROWS = 50


class TalkingRecorder(Recorder):
    def flush(self):
        super().flush()
        print(self.row_count, flush=True)


recorder = make_recorder(Path(sys.argv[1]), TalkingRecorder)
for batch in itertools.count():
    count(recorder, range(batch * ROWS, (batch + 1) * ROWS))
