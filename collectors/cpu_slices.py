"""The ``cpu_slices`` table as numpy columns, and the reasons for which a thread leaves its CPU."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray

# Why a thread left its CPU. The kernel's switch record says "preempted" of a yield too.
PREEMPTED: Final = 1  # it would have gone on: pushed off by another, or its time was up
BLOCKED: Final = 2  # it waits for something, or has ended
YIELDED: Final = 3  # it would go on, and gave way by sched_yield(2)
READY: Final = 4  # one of these two: it would have gone on, and whether it gave way was not seen

NONE: Final = -1  # in a column that may be unknown: null in the table


@dataclass(frozen=True, slots=True, eq=False)
class CpuSlices:
    """Equally long columns, as in `collectors.schema.CPU_SLICES`; `NONE` stands for null."""

    time_ns: NDArray[np.int64]
    duration_ns: NDArray[np.int64]
    track: NDArray[np.int32]
    cpu: NDArray[np.int16]
    leave: NDArray[np.int8]
    next: NDArray[np.int32]
    woken_ns: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.time_ns)

    @property
    def end_ns(self) -> NDArray[np.int64]:
        """When each ended."""
        return self.time_ns + self.duration_ns

    def where(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> CpuSlices:
        """Return some of them, by mask or by row numbers."""
        return CpuSlices(*(getattr(self, field.name)[rows] for field in fields(self)))
