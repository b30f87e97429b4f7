"""The governor: how fast stacks may be sampled, given what the host has to spare.

On a saturated host each sample is paid for by the server. Time of niced tasks counts as spare: the
recorders are niced, so that is mostly they.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from probes.procfs import Procfs

WINDOW_NS: Final = 2_000_000_000  # /proc/stat counts in ticks of 10 ms
EASE_NS: Final = 10_000_000_000  # how long it must be quiet before the rate goes up again
FULL_SPARE_RATIO: Final = 0.15
HALF_SPARE_RATIO: Final = 0.05
LOWEST_HZ: Final = 10


class Governor:
    """Steps the rate down within two seconds and up only after ten quiet ones."""

    def __init__(self, requested_hz: int, procfs: Procfs) -> None:
        self.requested_hz = requested_hz
        self.rate_hz = requested_hz
        self.spare_ratio: float | None = None
        self._procfs = procfs
        self._looks: deque[tuple[int, int, int]] = deque()
        self._fitting_ns = 0  # when the rate was last all that the host could bear

    def look(self, now_ns: int) -> None:
        """Read the host's CPU times and settle the rate; call it a few times a second."""
        spare_ns, all_ns = self._procfs.spare_ns()
        self._looks.append((now_ns, spare_ns, all_ns))
        while now_ns - self._looks[0][0] > WINDOW_NS:
            self._looks.popleft()
        begin_ns, spare_then_ns, all_then_ns = self._looks[0]
        if now_ns - begin_ns < WINDOW_NS // 2 or all_ns == all_then_ns:
            return
        self.spare_ratio = (spare_ns - spare_then_ns) / (all_ns - all_then_ns)
        wanted_hz = self._rate_for(self.spare_ratio)
        if wanted_hz <= self.rate_hz:
            self.rate_hz, self._fitting_ns = wanted_hz, now_ns
        elif now_ns - self._fitting_ns > EASE_NS:
            self.rate_hz = wanted_hz

    def _rate_for(self, spare_ratio: float) -> int:
        if spare_ratio >= FULL_SPARE_RATIO:
            return self.requested_hz
        if spare_ratio >= HALF_SPARE_RATIO:
            return max(LOWEST_HZ, self.requested_hz // 2)
        return max(LOWEST_HZ, self.requested_hz // 5)
