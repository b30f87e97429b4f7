"""The sampler's output: batches of fixed little-endian records on a stream.

A batch is a header, then its samples, then the thread ids of the waiters that the samples name in
order, then its events. Nothing here needs numpy: the sampler child imports it; `probes.gil.decode`
reads it.
"""

from __future__ import annotations

import struct
from typing import Final

# A batch is sent when it spans this much time: with the recorder's half second it keeps what a kill
# can cost below a second.
BATCH_NS: Final = 400_000_000
MAGIC: Final = b"cGIL"

# magic, sample count, waiter id count, event count; cumulative since the sampler began: samples
# dropped because nobody read the stream, sampling slots missed because it ran too late, largest
# distance between two sampling instants in this batch (ns), the sampler's own CPU time (ns).
HEADER: Final = struct.Struct("<4sIIIQQQQ")

# time_ns (CLOCK_MONOTONIC), switch count, PID, holder's thread id (0: free, -1: unknown),
# waiter count (-1: unknown), how many waiter ids belong to it (-1: not looked), how much later than
# meant it was taken (ns).
SAMPLE: Final = struct.Struct("<qqiihhI")

WAITER: Final = struct.Struct("<i")

# time_ns, PID, code (below), errno.
EVENT: Final = struct.Struct("<qihh")
TAKEN_UP: Final = 1  # sampling of this process began
EXITED: Final = 2  # it exited or replaced its program; the others go on
REFUSED: Final = 3  # the kernel refused, see errno
