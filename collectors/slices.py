"""Columns of the ``slices`` table as numpy arrays, and the kinds of things that last.

Numbers only, so that reading a trace and measuring it need nothing but numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray

# On a GPU's stream.
KERNEL: Final = "kernel"
MEMCPY: Final = "memcpy"
MEMSET: Final = "memset"
# On a thread.
API: Final = "api"  # a call of the GPU's runtime or driver
OP: Final = "op"  # an operator of the framework
PYTHON: Final = "python"  # a Python function, as a profiler inside the process saw it
ANNOTATION: Final = "annotation"  # a range that somebody named

DEVICE_KINDS: Final = (KERNEL, MEMCPY, MEMSET)
HOST_KINDS: Final = (API, OP, PYTHON, ANNOTATION)

NONE: Final = -1  # in a column that may be unknown: null in the table


@dataclass(frozen=True, slots=True, eq=False)
class Slices:
    """Equally long columns, as in `collectors.schema.SLICES`; `NONE` stands for null."""

    time_ns: NDArray[np.int64]
    duration_ns: NDArray[np.int64]
    track: NDArray[np.int32]
    name: NDArray[np.int32]
    correlation: NDArray[np.int64]
    launch_track: NDArray[np.int32]
    size_bytes: NDArray[np.int64]
    graph: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.time_ns)

    @property
    def end_ns(self) -> NDArray[np.int64]:
        """When each ended."""
        return self.time_ns + self.duration_ns

    def where(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> Slices:
        """Return some of them, by mask or by row numbers."""
        return Slices(*(getattr(self, field.name)[rows] for field in fields(self)))


def make_slices(
    time_ns: NDArray[np.int64], duration_ns: NDArray[np.int64],
    track: NDArray[np.int32], name: NDArray[np.int32], *,
    correlation: NDArray[np.int64] | None = None, launch_track: NDArray[np.int32] | None = None,
    size_bytes: NDArray[np.int64] | None = None, graph: NDArray[np.int64] | None = None,
) -> Slices:  # fmt: skip
    """Return slices of which some columns are unknown."""
    count = len(time_ns)
    return Slices(
        time_ns, duration_ns, track, name,
        np.full(count, NONE, np.int64) if correlation is None else correlation,
        np.full(count, NONE, np.int32) if launch_track is None else launch_track,
        np.full(count, NONE, np.int64) if size_bytes is None else size_bytes,
        np.full(count, NONE, np.int64) if graph is None else graph,
    )  # fmt: skip


def concatenate(batches: Sequence[Slices]) -> Slices:
    """Return all batches as one, in their order."""
    if not batches:
        no_times, no_ids = np.empty(0, np.int64), np.empty(0, np.int32)
        return make_slices(no_times, no_times, no_ids, no_ids)
    return Slices(
        *(np.concatenate([getattr(one, field.name) for one in batches]) for field in fields(Slices))
    )
