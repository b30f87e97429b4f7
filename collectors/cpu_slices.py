"""Why a thread leaves its CPU: the words of the ``leave`` column of ``cpu_slices``."""

from __future__ import annotations

from typing import Final

# Why a thread left its CPU. The kernel's switch record says "preempted" of a yield too.
PREEMPTED: Final = 1  # it would have gone on: pushed off by another, or its time was up
BLOCKED: Final = 2  # it waits for something, or has ended
YIELDED: Final = 3  # it would go on, and gave way by sched_yield(2)
READY: Final = 4  # one of these two: it would have gone on, and whether it gave way was not seen

NONE: Final = -1  # in a column that may be unknown: null in the table
