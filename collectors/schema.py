"""The Arrow schemas of a capture, in one place.

Times are int64 nanoseconds on the host's CLOCK_MONOTONIC, ``[start, end)``. A *track* is who a row
belongs to (a process or a thread of it). A null is "unknown", never zero.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa

SCHEMA_VERSION: Final = 1


def _schema(*fields: tuple[str, pa.DataType, bool]) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=null) for name, kind, null in fields])


I16, I32, I64, F64, TEXT = pa.int16(), pa.int32(), pa.int64(), pa.float64(), pa.utf8()

TRACKS = _schema(
    ("track", I32, False),
    ("kind", TEXT, False),  # process, thread
    ("parent", I32, True),  # the process of a thread, the parent process of a process
    ("pid", I32, False),
    ("tid", I32, True),  # the kernel's thread id, as seen from the host
    ("name", TEXT, False),
    ("role", TEXT, False),  # of the process: api_server, engine_core, worker, ...
    ("rank", I32, True),
    ("inner_tid", I32, True),  # tid inside the process's own PID namespace; null: the same
)
FRAMES = _schema(("frame", I32, False), ("function", TEXT, False), ("file", TEXT, False))
# A prefix tree: a stack is named by its leaf; parent -1 is the root.
STACKS = _schema(("stack", I32, False), ("parent", I32, False), ("frame", I32, False))
# A run of samples in which one thread showed the same Python stack: from the tick that first saw it
# to the tick that saw another. A sleeping thread has a stack too: it is not a claim of work.
SAMPLES = _schema(
    ("time_ns", I64, False),
    ("duration_ns", I64, False),
    ("track", I32, False),
    ("stack", I32, False),
)
# Cumulative since the thread began; a row only when something changed, and one at start and stop.
THREAD_COUNTERS = _schema(
    ("time_ns", I64, False),
    ("track", I32, False),
    ("run_ns", I64, False),
    ("wait_ns", I64, False),  # runnable, waiting for a CPU
    ("timeslice_count", I64, False),
    ("voluntary_count", I64, True),
    ("involuntary_count", I64, True),
    ("cpu", I16, True),  # where it last ran
)
# One look at a process's GIL.
GIL = _schema(
    ("time_ns", I64, False),
    ("track", I32, False),  # the process
    ("holder", I32, True),  # thread track; null: nobody holds it
    ("waiter_count", I16, True),  # null: this build's layout is unknown
    ("switch_count", I64, False),
    ("waiters", pa.list_(I32), True),  # thread tracks; null: not looked this time
)
COUNTER_TYPES = _schema(
    ("counter", I32, False),
    ("name", TEXT, False),
    ("labels", TEXT, False),
    ("unit", TEXT, False),
    ("kind", TEXT, False),  # level, total (total: cumulative, only differences mean something)
)
COUNTERS = _schema(
    ("time_ns", I64, False), ("track", I32, False), ("counter", I32, False), ("value", F64, False)
)
GAPS = _schema(
    ("probe", TEXT, False),
    ("start_ns", I64, False),
    ("end_ns", I64, False),
    ("lost_count", I64, True),  # null: nobody knows how much
    ("reason", TEXT, False),
    ("track", I32, True),
)

TABLES: Final[dict[str, pa.Schema]] = {
    "tracks": TRACKS,
    "frames": FRAMES,
    "stacks": STACKS,
    "samples": SAMPLES,
    "thread_counters": THREAD_COUNTERS,
    "gil": GIL,
    "counter_types": COUNTER_TYPES,
    "counters": COUNTERS,
    "gaps": GAPS,
}
