"""Record rows into DIRECTORY until the files may not grow; says what happened as JSON on stdout."""

import json
import resource
import sys
import time
from pathlib import Path

from collectors.capture import finalise
from collectors.recorder import RESERVE_BYTES
from tests.recordings import count, make_recorder

ROWS = 5_000

recorder = make_recorder(Path(sys.argv[1]))
limit_bytes = RESERVE_BYTES + 100_000
resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
appended_count = 0
while recorder.failure is None:
    count(recorder, range(appended_count, appended_count + ROWS))
    appended_count += ROWS
    recorder.flush()
for _ in range(3):  # what comes after is counted as well
    count(recorder, [0.0])
    appended_count += 1
recorder.close()
recorder.manifest.stopped_ns = time.monotonic_ns()
finalise(recorder.directory, recorder.manifest)
print(json.dumps({"slug": recorder.failure.slug, "appended_count": appended_count}))
