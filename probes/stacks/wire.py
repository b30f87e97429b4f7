"""The sampler's output: one JSON object a line, about twice a second. Times are CLOCK_MONOTONIC.

==============  ==================================================================================
``seen``        per process: [PID, looks, first look, last look, largest gap] (ns)
``runs``        [PID, thread id, start ns, duration ns, stack]: one thread showed one stack
``frames``      [function, file], numbered on from those sent before
``stacks``      [parent stack, frame], likewise; parent -1 is the root
``gaps``        [PID, start ns, end ns, reason]: nothing was seen of a process
``events``      [PID, what, errno]: `TAKEN_UP`, `EXITED` or `REFUSED`
``unread``      per process: [PID, stacks that changed too fast to be read], since it began
``missed``      slots slept through, since the sampler began
``cpu_ns``      the sampler's own CPU time, since it began
==============  ==================================================================================
"""

from __future__ import annotations

from typing import Final

# A batch is sent when it spans this much time: with the recorder's half second it keeps what a kill
# can cost below a second.
BATCH_NS: Final = 400_000_000

TAKEN_UP: Final = "taken-up"  # sampling of this process began
EXITED: Final = "exited"  # it exited or replaced its program; the others go on
REFUSED: Final = "refused"  # the kernel refused, see errno
