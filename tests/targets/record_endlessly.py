"""Record rows with a counter into DIRECTORY until killed, for a minute at most.

After each write to disk it says on stdout how many rows that makes.
"""

import itertools
import sys
import time
from pathlib import Path

from collectors.recorder import Recorder
from tests.recordings import count, make_recorder

ROWS = 50


class TalkingRecorder(Recorder):
    def flush(self):
        super().flush()
        print(self.row_count, flush=True)


recorder = make_recorder(Path(sys.argv[1]), TalkingRecorder)
end = time.monotonic() + 60  # should the test be killed before it kills this
for batch in itertools.count():
    if time.monotonic() > end:
        break
    count(recorder, range(batch * ROWS, (batch + 1) * ROWS))
    time.sleep(0.0005)  # several of these run at once: leave them all some CPU
