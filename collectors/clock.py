"""Clock anchors: the same instant read on several clocks, with the error of that reading.

A capture's times are CLOCK_MONOTONIC. Wall time is for people and stands only in the manifest;
foreign timelines (BOOTTIME on AMD GPUs, wall time in traces) are converted through an anchor.
"""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Anchor:
    """One instant on three clocks, all in ns; each offset is good to ``uncertainty_ns``."""

    monotonic_ns: int
    realtime_ns: int
    boottime_ns: int
    uncertainty_ns: int

    def monotonic_from_realtime_ns(self, realtime_ns: int) -> int:
        """Wall time to capture time; a later clock step makes this wrong by the step."""
        return self.monotonic_ns + (realtime_ns - self.realtime_ns)


def read_anchor(attempts: int = 9) -> Anchor:
    """Read the clocks between two reads of CLOCK_MONOTONIC and keep the tightest of ``attempts``.

    The true instant lies within half the bracket's width of its middle.
    """
    best: Anchor | None = None
    for _ in range(attempts):
        before_ns = time.monotonic_ns()
        realtime_ns = time.time_ns()
        boottime_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        after_ns = time.monotonic_ns()
        half_ns = (after_ns - before_ns + 1) // 2
        if best is None or half_ns < best.uncertainty_ns:
            best = Anchor(before_ns + half_ns, realtime_ns, boottime_ns, half_ns)
    assert best is not None
    return best
