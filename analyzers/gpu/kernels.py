"""Which kernels a GPU's time went to, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analyzers.gpu.busy import Categories, Category, Rows
from analyzers.gpu.names import short_name
from collectors.slices import Slices


@dataclass(frozen=True, slots=True)
class KernelTime:
    """All launches of one kernel on one GPU."""

    text: str
    is_communication: bool
    launch_count: int
    total_ns: int  # added up: kernels that ran side by side count twice
    min_ns: int
    max_ns: int

    @property
    def mean_ns(self) -> float:
        """Return the mean of its launches."""
        return self.total_ns / self.launch_count

    def to_json(self, busy_ns: int) -> dict[str, Any]:
        """Return the row of the document; ``busy_ratio`` is of the time the GPU was busy."""
        return {
            "name": short_name(self.text),
            "full_name": self.text,
            "is_communication": self.is_communication,
            "launch_count": self.launch_count,
            "total_ns": self.total_ns,
            "mean_ns": self.mean_ns,
            "min_ns": self.min_ns,
            "max_ns": self.max_ns,
            "busy_ratio": self.total_ns / busy_ns if busy_ns else None,
        }


def kernel_times(
    slices: Slices, rows: Rows, categories: Categories, names: Sequence[tuple[str, str]]
) -> list[KernelTime]:
    """Return the kernels among these slices of one device, the one with most time first."""
    name, duration_ns = slices.name[rows], slices.duration_ns[rows]
    counts = np.bincount(name, minlength=len(names))
    is_kernel = (categories == Category.KERNEL) | (categories == Category.COMMUNICATION)
    found = np.flatnonzero(is_kernel & (counts > 0))
    # A sum of less than 2^53 ns, 104 days, is exact in the floats that bincount adds with.
    total = np.bincount(name, duration_ns, minlength=len(names))
    low = np.full(len(names), np.iinfo(np.int64).max)
    high = np.zeros(len(names), np.int64)
    np.minimum.at(low, name, duration_ns)
    np.maximum.at(high, name, duration_ns)
    order = found[np.argsort(-total[found], kind="stable")]
    return [
        KernelTime(
            names[one][1], bool(categories[one] == Category.COMMUNICATION),
            int(counts[one]), int(total[one]), int(low[one]), int(high[one]),
        )
        for one in order.tolist()
    ]  # fmt: skip
