"""What a capture's CPU slices say of one thread: how long it ran, and for what it waited."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from collectors.capture import Capture
from collectors.cpu_slices import BLOCKED, NONE, PREEMPTED, READY, YIELDED

KINDS = (PREEMPTED, BLOCKED, YIELDED, READY)


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


@dataclass(frozen=True)
class Seen:
    """One thread in one window."""

    on_ns: int
    leave_count: dict[int, int]  # by reason
    off_ns: dict[int, int]  # by reason, up to the next stay on a CPU
    woken_ns: int  # what of it came after it had been woken; of stays whose waking was seen
    woken_ratio: float  # of the stays after a blocked one


def cpu_slices(capture: Capture, tid: int) -> CpuSlices:
    """Return one thread's stays on a CPU in order of time."""
    tracks = capture.table("tracks").to_pylist()
    own = {row["track"] for row in tracks if row["kind"] == "thread" and row["tid"] == tid}
    table = capture.table("cpu_slices")
    columns = {
        field.name: table[field.name].combine_chunks().fill_null(NONE).to_numpy()
        for field in fields(CpuSlices)
    }
    every = CpuSlices(**columns)
    of_thread = every.where(np.isin(every.track, list(own)))
    return of_thread.where(np.argsort(of_thread.time_ns, kind="stable"))


def look(slices: CpuSlices, begin_ns: int, end_ns: int) -> Seen:
    """Cut one thread's stays to the window, and add up."""
    start, end = np.clip(slices.time_ns, begin_ns, end_ns), np.clip(slices.end_ns, begin_ns, end_ns)
    # Between one stay and the next it was away; before the first one we do not know why.
    gap_ns = start[1:] - end[:-1]
    leave, woken = slices.leave[:-1], slices.woken_ns[1:]
    is_inside = (slices.end_ns >= begin_ns) & (slices.end_ns < end_ns)
    is_woken = (leave == BLOCKED) & (woken != NONE)
    is_after_blocked = (leave == BLOCKED) & (gap_ns > 0)
    ready = np.clip(woken, end[:-1], start[1:])
    return Seen(
        int((end - start).sum()),
        {kind: int((is_inside & (slices.leave == kind)).sum()) for kind in KINDS},
        {kind: int(gap_ns[leave == kind].sum()) for kind in KINDS},
        int((start[1:] - ready)[is_woken].sum()),
        float(is_woken[is_after_blocked].mean()) if is_after_blocked.any() else 1.0,
    )


def successors(slices: CpuSlices, at_ns: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return the track that got the CPU at the leave nearest to each instant."""
    ends = slices.end_ns
    after = np.clip(np.searchsorted(ends, at_ns), 1, len(ends) - 1)
    is_before = at_ns - ends[after - 1] < ends[after] - at_ns
    return slices.next[np.where(is_before, after - 1, after)]
