"""The governor: how fast stacks may be sampled, given what a sample costs and what is to spare.

On a saturated host each sample is paid for by the server, so the recorders get a budget of CPU
time: a share of what is idle, and a small floor when nothing is. The rate that the budget buys
follows from the recorders' own measured cost; a server with many threads costs more per sample.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from probes.procfs import Procfs

WINDOW_NS: Final = 2_000_000_000
FIRST_WINDOW_NS: Final = 200_000_000  # /proc/stat counts in ticks of 10 ms
EASE_NS: Final = 10_000_000_000  # how long there must be room before the rate goes up again
SPARE_SHARE: Final = 0.25
FLOOR_SHARE: Final = 0.02  # of all CPUs
STEPS: Final = (1, 2, 5, 10)  # the rate is the requested one over one of these
LOWEST_HZ: Final = 10
# A first guess, until the recorders' own cost is known: a sample of a small process.
TYPICAL_SAMPLE_NS: Final = 800_000

RateT = TypeVar("RateT", bound=float)


@dataclass(frozen=True, slots=True)
class _Look:
    time_ns: int
    idle_ns: int
    recorder_ns: int


class _Eased(Generic[RateT]):
    """A rate that goes down at once, and up only after `EASE_NS` with room for more."""

    def __init__(self, requested_hz: RateT, procfs: Procfs) -> None:
        self.requested_hz = requested_hz
        self.rate_hz = requested_hz
        self._procfs = procfs
        self._fitting_ns = 0  # when the rate was last all that there was room for

    def _settle(self, wanted_hz: RateT, now_ns: int) -> None:
        if wanted_hz <= self.rate_hz:
            self.rate_hz, self._fitting_ns = wanted_hz, now_ns
        elif now_ns - self._fitting_ns > EASE_NS:
            self.rate_hz = wanted_hz


class Governor(_Eased[int]):
    """Steps the rate down within two seconds and up only after ten with room for it."""

    def __init__(self, requested_hz: int, procfs: Procfs) -> None:
        super().__init__(requested_hz, procfs)
        self._looks: deque[_Look] = deque()
        self._cpu_count = os.cpu_count() or 1

    def look(self, now_ns: int, recorder_ns: int = 0, round_ns: float = TYPICAL_SAMPLE_NS) -> None:
        """Read the host's CPU times and settle the rate; call it a few times a second.

        Args:
            now_ns: CLOCK_MONOTONIC.
            recorder_ns: CPU time that the recorders have used so far.
            round_ns: what one sample of every process costs them.
        """
        idle_ns, _ = self._procfs.idle_ns()
        self._looks.append(_Look(now_ns, idle_ns, recorder_ns))
        while now_ns - self._looks[0].time_ns > WINDOW_NS:
            self._looks.popleft()
        first = self._looks[0]
        window_ns = now_ns - first.time_ns
        if window_ns < FIRST_WINDOW_NS:
            return
        # What the recorders use now is theirs to use again.
        spare_ns = idle_ns - first.idle_ns + recorder_ns - first.recorder_ns
        budget_ns = max(SPARE_SHARE * spare_ns, FLOOR_SHARE * self._cpu_count * window_ns)
        self._settle(self._step_below(budget_ns / window_ns * 1e9 / max(1.0, round_ns)), now_ns)

    def _step_below(self, affordable_hz: float) -> int:
        steps = (self.requested_hz // step for step in STEPS)
        lowest_hz = min(self.requested_hz, LOWEST_HZ)
        return max(lowest_hz, next((hz for hz in steps if hz <= affordable_hz), lowest_hz))


class WakeGovernor(_Eased[float]):
    """How often a sampler that costs little itself may wake.

    Each wake-up takes a CPU from somebody when none is idle, and whoever is pushed off may wait for
    a whole time slice of another thread: so the number of wake-ups counts, not their length. Fewer
    as soon as a second shows less than one CPU to spare, more again after `EASE_NS`.
    """

    SPARE_CORES: Final = 1.0

    def __init__(self, requested_hz: float, procfs: Procfs, divisor: float) -> None:
        """``divisor``: of the rate while less than `SPARE_CORES` are idle."""
        super().__init__(requested_hz, procfs)
        self._divisor = divisor
        self._last: tuple[int, int] | None = None

    def look(self, now_ns: int) -> float:
        """Read the host's idle time since the last look, a second ago or so; return the rate."""
        idle_ns, _ = self._procfs.idle_ns()
        last, self._last = self._last, (now_ns, idle_ns)
        if last is None:
            return self.rate_hz
        spare_cores = (idle_ns - last[1]) / max(1, now_ns - last[0])
        is_scarce = spare_cores < self.SPARE_CORES
        self._settle(self.requested_hz / self._divisor if is_scarce else self.requested_hz, now_ns)
        return self.rate_hz
