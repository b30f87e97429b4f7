"""The trace's clock against the recording's, with an error that is stated.

Kineto writes wall time: it reads the CPU's time stamp counter and ties it to CLOCK_REALTIME at the
profiler's start and stop (c10/util/ApproximateClock.h of PyTorch). Ours ties CLOCK_REALTIME to
CLOCK_MONOTONIC before the start and after the stop; the two differ by what the wall clock was
stepped in between, and the truth lies between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from collectors.clock import Anchor
from probes.torch_profiler.slice_child import Call

# What Kineto's own conversion may err by: it keeps the tightest of many pairs of reads, each some
# ten nanoseconds wide, and writes microseconds with three decimals.
CONVERSION_NS: Final = 1_000


@dataclass(frozen=True, slots=True)
class ClockFit:
    """What to add to the trace's times, and by how much that may be wrong."""

    offset_ns: int
    error_ns: int


def fit(anchors: Sequence[Anchor]) -> ClockFit:
    """Return the offset from CLOCK_REALTIME to CLOCK_MONOTONIC over the time of ``anchors``."""
    offsets = [anchor.monotonic_ns - anchor.realtime_ns for anchor in anchors]
    low, high = min(offsets), max(offsets)
    read_ns = max(anchor.uncertainty_ns for anchor in anchors)
    return ClockFit((low + high) // 2, (high - low + 1) // 2 + read_ns + CONVERSION_NS)


def bounds_ns(first_ns: int, last_ns: int, started: Call, stopped: Call) -> tuple[int, int]:
    """Return the least and the greatest error of the clock that the calls allow, in ns.

    Nothing is recorded before the start was asked for, nor after the stop was answered: that
    bounds the error from both sides, without any clock but ours.

    Args:
        first_ns: when the trace's first event began, on our clock by the fit.
        last_ns: when its last one ended.
        started: the call that started the profiler.
        stopped: the call that stopped it.
    """
    return started.begin_ns - first_ns, stopped.end_ns - last_ns
