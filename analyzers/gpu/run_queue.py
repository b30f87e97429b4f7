"""How much of the time between launches a thread had no CPU.

Context switches say it exactly, where wake-ups were recorded with them. Without those, counters do:
they say how long a thread waited for a CPU between two looks, 50 ms apart, and not when; a wait
counts when it is over. But the waits must fit: a thread that makes calls every few microseconds was
not waiting there. A thread that is on time but for its waits makes pauses as long as they are, so
the wait of an interval is laid into the pause, or the few pauses, between calls that it fills best.
Waits that are ordinary for this thread each time it is woken are spread over its work where they
add up, and left out where they do not. Pauses in which the thread was seen waiting for something
else take only what fits nowhere else: it was woken and had no CPU yet.

It is never more than the counters say; `Waiting.bounds` is what can be true. A thread that gave way
by itself is not taken to wait: it polls.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from analyzers.gpu.step_functions import distinct
from analyzers.intervals import (
    Intervals,
    Times,
    covered_before,
    difference,
    intersection,
    intervals,
)
from analyzers.looks import Counters, counters_by_thread
from analyzers.sched.histories import read_histories
from analyzers.sched.totals import Wake, measure_totals
from analyzers.scheduling import NOTABLE_RATIO
from analyzers.timeline import Timeline, column, rows_by

# A longer wait is not what every wake-up costs: the scheduler let somebody else go on.
ORDINARY_NS: Final = 100_000
# Of the pauses of one interval, the longest; and how many of them may share its wait.
PAUSES: Final = 8
SHARED_BY: Final = 3
# As shares of the wait: how much worse it is to explain it with one pause more, and what may be
# left over, because what every wake-up costs is not known that well.
ANOTHER_PAUSE: Final = 0.05
LEFT_OVER: Final = 0.05

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """Disjoint stretches in order, and in which share of their room the thread had no CPU."""

    start: Times
    end: Times
    ratio: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """Where one thread waited for a CPU: while it seemed at work, and while it seemed to wait.

    Without ``counters`` switches told it, and both are the same: surer than what seemed.
    """

    counters: Counters | None
    at_work: Placed
    in_waits: Placed

    def bounds(self, start: Times, end: Times) -> tuple[int, int]:
        """Return the least and the most that the thread can have waited in disjoint intervals."""
        if self.counters is None:
            waits = intervals(self.at_work.start, self.at_work.end)
            exact = int((covered_before(waits, end) - covered_before(waits, start)).sum())
            return exact, exact
        edges, wait = self.counters.edges, self.counters.wait_ns
        late = np.diff(covered_before(intervals(start, end), edges))
        low = np.minimum(np.maximum(0, wait - (np.diff(edges) - late)), late)
        # A wait may have begun in the interval before the one that counts it.
        before = np.concatenate(([0], late[:-1]))
        high = np.minimum(wait, late + before)
        return int(low.sum()), min(int(high.sum()), int(late.sum()))


def find_waiting(
    timeline: Timeline, thread: int, walls: Times, waits: Intervals, others: Intervals
) -> Waiting | None:
    """Return where a thread waited for a CPU; None if neither switches nor counters tell.

    Args:
        timeline: the capture.
        thread: its track.
        walls: when its calls began and ended, in order.
        waits: when it was seen waiting for something.
        others: when it surely did not wait for a CPU: it waited for the GIL, or was in a call.
    """
    waiting = _by_switches(timeline, thread)
    if waiting is not None:
        return waiting
    counters = timeline.once(counters_by_thread).get(thread)
    if counters is None or not counters.wait_ns.any():
        return None
    edges = counters.edges
    count = _timeslices(timeline, thread, edges)
    bounds = distinct(np.concatenate((edges[:1], walls, edges[-1:])))
    bounds = bounds[(bounds >= edges[0]) & (bounds <= edges[-1])]
    free = difference(intervals(edges[:1], edges[-1:]), others)
    work, seeming = difference(free, waits), intersection(free, waits)
    wait = counters.wait_ns.astype(np.float64)
    mean = wait / np.maximum(count, 1)
    usual = min(ORDINARY_NS, float(np.median(mean[count > 0]))) if count.any() else 0.0
    ordinary = np.minimum(wait, usual * count)
    beyond = wait - ordinary
    long = np.where(beyond > ORDINARY_NS, beyond, 0.0)
    at_work, left = _best_fit(long, count, work, bounds, edges)
    in_waits, _ = _best_fit(left, count, seeming, bounds, edges)
    notable = np.where(ordinary >= NOTABLE_RATIO * np.diff(edges), ordinary, 0.0)
    return Waiting(counters, _with_spread(at_work, notable, work, edges), in_waits)


def _by_switches(timeline: Timeline, thread: int) -> Waiting | None:
    """Return what switches tell; None when they do not, or do not tell when it was woken."""
    for totals in timeline.once(measure_totals):
        if totals.thread.track == thread and totals.wake is Wake.MEASURED:
            waits = timeline.once(read_histories).waits(totals.place)
            placed = Placed(waits.start, waits.end, np.ones(len(waits)))
            return Waiting(None, placed, placed)
    return None


def _best_fit(
    wait: Floats, count: Times, room: Intervals, bounds: Times, edges: Times
) -> tuple[Placed, Floats]:
    """Lay the wait of each interval into pauses, and return what found no room.

    A pause that begins before the interval counts whole: its wait counts when it is over. So the
    last interval comes first, and what it takes of an earlier one is gone.
    """
    start, end = bounds[:-1], bounds[1:]
    size = np.diff(covered_before(room, bounds))
    found: list[tuple[int, int, float]] = []
    left = wait.copy()
    free_until = int(edges[-1])
    for number in np.flatnonzero(wait)[::-1].tolist():
        low, high = int(edges[number]), min(int(edges[number + 1]), free_until)
        first, last = np.searchsorted(end, low, side="right"), np.searchsorted(start, high)
        begins, rooms = start[first:last], size[first:last].copy()
        if len(rooms) and end[last - 1] > high:  # the last pause goes on
            rooms[-1] = _room_between(room, int(begins[-1]), high)
        for one, share in _fill(wait[number], int(count[number]), rooms):
            begun = int(begins[one])
            found.append((begun, min(int(end[first + one]), high), share / int(rooms[one])))
            left[number] -= share
            if begun < low:
                free_until = begun
        if left[number] <= LEFT_OVER * wait[number]:
            left[number] = 0.0
    found.sort()
    placed = Placed(
        np.array([one for one, _, _ in found], np.int64),
        np.array([one for _, one, _ in found], np.int64),
        np.array([one for _, _, one in found], np.float64),
    )
    return placed, left


def _room_between(room: Intervals, start: int, end: int) -> int:
    """Return how much of the room lies in ``[start, end)``, without looking at all of it."""
    first = int(np.searchsorted(room.end, start, side="right"))
    last = int(np.searchsorted(room.start, end))
    low, high = np.maximum(room.start[first:last], start), np.minimum(room.end[first:last], end)
    return int((high - low).sum())


def _fill(wait: float, count: int, rooms: Times) -> Iterator[tuple[int, float]]:
    """Yield which pauses take how much of the wait: the few that it fills best.

    Where no few can hold it, all that can hold the mean of its ``count`` waits share it, or the
    longest takes what it can.
    """
    wide = np.flatnonzero(rooms >= ORDINARY_NS)
    longest = wide[np.argsort(-rooms[wide], kind="stable")]
    candidates = [(int(rooms[one]), one) for one in longest[:PAUSES].tolist()]
    if not candidates:
        return
    typical = min(wait / max(1, count), candidates[0][0])
    best = [(int(rooms[one]), one) for one in longest.tolist() if rooms[one] >= typical]
    least = float("inf")
    for many in range(1, SHARED_BY + 1):
        for group in combinations(candidates, many):
            whole = sum(room for room, _ in group)
            badness = max(0.0, whole / wait - 1) + ANOTHER_PAUSE * many
            if whole >= (1 - LEFT_OVER) * wait and badness < least:
                best, least = list(group), badness
    whole = sum(room for room, _ in best)
    for room, one in best:
        yield one, min(float(room), wait * room / whole)


def _with_spread(placed: Placed, wait: Floats, work: Intervals, edges: Times) -> Placed:
    """Spread waits evenly over the work of their interval, in addition to what is placed there."""
    if not wait.any():
        return placed
    room = np.diff(covered_before(work, edges)).astype(np.float64)
    even = np.divide(wait, room, out=np.zeros(len(wait)), where=room > 0)
    bounds = distinct(np.concatenate((edges, placed.start, placed.end)))
    start, end = bounds[:-1], bounds[1:]
    interval = np.searchsorted(edges, start, side="right") - 1
    ratio = even[np.clip(interval, 0, len(even) - 1)]
    if len(placed.start):
        index = np.searchsorted(placed.start, start, side="right") - 1
        is_in = (index >= 0) & (start < placed.end[index])
        ratio = ratio + np.where(is_in, placed.ratio[index], 0.0)
    return Placed(start, end, np.minimum(1.0, ratio))


def _timeslices(timeline: Timeline, thread: int, edges: Times) -> Times:
    """Return how many times the thread was given a CPU in each interval."""
    table = timeline.capture.table("thread_counters")
    rows = timeline.once(_rows_by_track)[thread]
    times = column(table, "time_ns")[rows]
    total = column(table, "timeslice_count")[rows]
    at_edge = total[np.maximum(np.searchsorted(times, edges, side="right") - 1, 0)]
    return np.maximum(np.diff(at_edge), 0)


def _rows_by_track(timeline: Timeline) -> dict[int, NDArray[np.int64]]:
    return rows_by(timeline.capture.table("thread_counters"), "track")
