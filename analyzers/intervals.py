"""Algebra of half-open intervals ``[start, end)`` in ns, on numpy arrays.

An `Intervals` is always sorted, disjoint and free of empty parts; touching parts are joined.
Everything is exact: lengths are integers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Intervals:
    """Disjoint intervals in order: ``start[i] < end[i] < start[i + 1]``."""

    start: Times
    end: Times

    def __len__(self) -> int:
        return len(self.start)

    def total(self) -> int:
        """Return the summed length."""
        return int((self.end - self.start).sum())

    def lengths(self) -> Times:
        """Return the length of each interval."""
        return self.end - self.start

    def pairs(self) -> list[tuple[int, int]]:
        """Return the intervals as Python pairs."""
        return list(zip(self.start.tolist(), self.end.tolist(), strict=True))


def intervals(start: Times, end: Times) -> Intervals:
    """Return the union of any intervals: unsorted, overlapping; those with end <= start vanish."""
    return joined(start, end, within_ns=0)


def joined(start: Times, end: Times, *, within_ns: int) -> Intervals:
    """Return the union of any intervals, with holes of up to ``within_ns`` closed."""
    keep = end > start
    order = np.argsort(start[keep], kind="stable")
    starts, ends = start[keep][order], end[keep][order]
    if not len(starts):
        return empty()
    reach = np.maximum.accumulate(ends)
    is_first = np.concatenate(([True], starts[1:] > reach[:-1] + within_ns))
    is_last = np.concatenate((is_first[1:], [True]))
    return Intervals(starts[is_first], reach[is_last])


def empty() -> Intervals:
    """Return no intervals."""
    none = np.empty(0, np.int64)
    return Intervals(none, none)


def union(a: Intervals, b: Intervals) -> Intervals:
    """Return what is in ``a`` or in ``b``."""
    return intervals(np.concatenate((a.start, b.start)), np.concatenate((a.end, b.end)))


def intersection(a: Intervals, b: Intervals) -> Intervals:
    """Return what is in both."""
    return _sweep(a, b, wanted_depth=2)


def difference(a: Intervals, b: Intervals) -> Intervals:
    """Return what is in ``a`` and not in ``b``."""
    if not len(a):
        return empty()
    low, high = int(a.start[0]), int(a.end[-1])
    b = clip(b, low, high)
    holes = intervals(np.concatenate(([low], b.end)), np.concatenate((b.start, [high])))
    return intersection(a, holes)


def clip(a: Intervals, start: int, end: int) -> Intervals:
    """Return what of ``a`` lies in ``[start, end)``."""
    return intervals(np.maximum(a.start, start), np.minimum(a.end, end))


def covered_before(a: Intervals, times: Times) -> Times:
    """Return for each time how much of ``a`` lies before it: differences give overlaps."""
    if not len(a):
        return np.zeros(len(times), np.int64)
    before = np.concatenate(([0], np.cumsum(a.lengths())))
    index = np.searchsorted(a.start, times, side="right") - 1
    inside = np.minimum(times, a.end[index]) - a.start[index]
    return np.where(index < 0, 0, before[index] + inside)


def _sweep(a: Intervals, b: Intervals, *, wanted_depth: int) -> Intervals:
    """Return where at least ``wanted_depth`` of the two are open."""
    times = np.concatenate((a.start, b.start, a.end, b.end))
    steps = np.repeat(np.array([1, -1]), len(a) + len(b))
    # At equal times ends come first: intervals that only touch do not overlap.
    order = np.lexsort((steps, times))
    depth = np.cumsum(steps[order])
    is_open = depth >= wanted_depth
    was_open = np.concatenate(([False], is_open[:-1]))
    sorted_times = times[order]
    return intervals(sorted_times[is_open & ~was_open], sorted_times[~is_open & was_open])
