"""What a thread was in at each instant, from slices that lie inside of each other.

A profiler inside the process writes down calls with their start and end; calls of calls lie within
them. At an instant the thread was in the innermost one that was open.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from analyzers.gpu.step_functions import NOTHING, Labels, Steps, distinct, no_steps
from analyzers.intervals import Times

# A call that ends after its caller is cut off there: clocks are rounded. In real traces one round
# does; more are for traces that nobody's stack could have made.
ROUNDS: Final = 8
NO_PARENT: Final = -1

Index = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Nest:
    """Calls in order of start, outer ones first.

    ``slice`` is each one's number in what was given, ``parent`` its caller's place here, ``levels``
    are the places by depth, outermost first.
    """

    start: Times
    end: Times
    slice: Index
    parent: Index
    levels: list[Index]

    def innermost(self) -> Steps:
        """Return the place here of the innermost open call at each instant."""
        if not len(self.start):
            return no_steps()
        edge = distinct(np.concatenate((self.start, self.end)))
        place = np.searchsorted(self.start, edge[:-1], side="right") - 1
        # The call that began last may be over by then: go up to one that is not.
        todo = np.arange(len(place))
        while len(todo):
            todo = todo[self.end[place[todo]] <= edge[todo]]
            place[todo] = self.parent[place[todo]]
            todo = todo[place[todo] != NO_PARENT]
        return Steps(edge, np.where(place == NO_PARENT, NOTHING, place).astype(np.int32))

    def inherited(self, own: Labels) -> Labels:
        """Return for each call its own label, or that of the nearest caller which has one."""
        found = own.copy()
        for level in self.levels[1:]:
            lacks = level[found[level] == NOTHING]
            found[lacks] = found[self.parent[lacks]]
        return found


def nest(start: Times, end: Times, rank: NDArray[np.integer[Any]]) -> Nest:
    """Return calls as they lie in each other; of two with equal times that of low rank is outside.

    Calls without length are left out.
    """
    keep = np.flatnonzero(end > start)
    order = keep[np.lexsort((rank[keep], -end[keep], start[keep]))]
    start, end = start[order], end[order]
    parent, levels = _parents(start, end)
    for _ in range(ROUNDS):
        of_parent = np.where(parent == NO_PARENT, np.iinfo(np.int64).max, end[parent])
        overhangs = (end > of_parent) & (of_parent > start)
        if not overhangs.any():
            break
        end = np.where(overhangs, of_parent, end)
        parent, levels = _parents(start, end)
    return Nest(start, end, order, parent, levels)


def _parents(start: Times, end: Times) -> tuple[Index, list[Index]]:
    """Return each call's caller, and the calls by depth: how many were open when it began."""
    count = len(start)
    depth = np.arange(count) - np.searchsorted(np.sort(end), start, side="right")
    parent = np.full(count, NO_PARENT, np.int64)
    levels = list(_by_value(depth))
    for above, level in pairwise(levels):
        caller = above[np.searchsorted(above, level) - 1]
        is_open = (caller < level) & (end[caller] > start[level])
        parent[level[is_open]] = caller[is_open]
    return parent, levels


def _by_value(values: Index) -> Iterator[Index]:
    """Yield the places of 0, 1, 2, ... as long as there are any."""
    order = np.argsort(values.astype(np.int32), kind="stable")
    counts = np.bincount(values) if len(values) else np.empty(0, np.int64)
    yield from np.split(order, np.cumsum(counts)[:-1])
