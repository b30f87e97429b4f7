"""What the sampling of one process amounted to: rate, largest gap, and gaps worth a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

# A gap is worth a row when the interpreter may have switched threads several times in it (its
# switch interval is 5 ms), and at low rates when ten samples are missing.
GAP_MIN_NS: Final = 20_000_000
GAP_MIN_PERIODS: Final = 10


@dataclass(slots=True)
class Coverage:
    """Adds up the sampling instants of one process, batch by batch."""

    period_ns: int
    sample_count: int = 0
    unknown_holder_count: int = 0
    first_ns: int | None = None
    last_ns: int | None = None
    largest_gap_ns: int = 0

    def add(self, times_ns: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
        """Take a batch's instants, ascending; return the gaps ``[start, end)`` worth a row."""
        if not len(times_ns):
            return []
        if self.last_ns is None:
            self.first_ns = int(times_ns[0])
        else:
            times_ns = np.concatenate((np.asarray([self.last_ns], np.int64), times_ns))
        self.sample_count += len(times_ns) - (self.last_ns is not None)
        self.last_ns = int(times_ns[-1])
        distances = np.diff(times_ns)
        if len(distances):
            self.largest_gap_ns = max(self.largest_gap_ns, int(distances.max()))
        wide = np.flatnonzero(distances > self.gap_limit_ns)
        return [(int(times_ns[at]), int(times_ns[at + 1])) for at in wide]

    @property
    def gap_limit_ns(self) -> int:
        """The distance of two samples from which on it is a row in ``gaps``."""
        return max(GAP_MIN_NS, GAP_MIN_PERIODS * self.period_ns)

    @property
    def achieved_hz(self) -> float | None:
        """Samples a second over the time in which there were any; None below two."""
        if self.first_ns is None or self.last_ns is None or self.last_ns <= self.first_ns:
            return None
        return (self.sample_count - 1) * 1e9 / (self.last_ns - self.first_ns)

    def detail(self) -> dict[str, Any]:
        """Return what the manifest keeps."""
        return {
            "sample_count": self.sample_count,
            "achieved_hz": self.achieved_hz,
            "largest_gap_ns": self.largest_gap_ns,
            "unknown_holder_count": self.unknown_holder_count,
        }
