"""When turns at one thread ended: the course that explains best what was seen.

Five things tell of the end of a turn, each alone too little:

* when the request was let go, at the latest. It hears of its prompt through the event loop, mostly
  at once, now and then much later (the loop was at work, or waited for a CPU);
* the pace: a turn is as long as its prompt has tokens, nearly. It may take longer than its
  neighbours' pace (the thread waited for a CPU), hardly shorter;
* the thread's stacks, at ticks: it rested, or it was at work while nobody else had come;
* a look at the thread between its work on two prompts, or with the GIL: an end is near;
* the GIL, where it was looked at: a tokenizer works without it, and takes it to hand over.

Each is given a cost, and the course of ends with the least sum of costs is found by dynamic
programming over candidates, coarse ones first and then finer ones around the best. Turns follow one
another: where somebody waits, the end of one is the beginning of the next, so that a late header
makes one turn too long *and* the next too short, and both costs pull it back.

The costs stand for the logarithm of how improbable something is. Both lateness and a turn's excess
have long tails: they grow with the logarithm, so that a large one weighs little more than half of
it, and is not spread over the neighbours. The constants are those that got most turns right in
eight recordings of the oracle on two quiet CPUs, with 8 and 32 users.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from analyzers.gil_holds import Hold, Holds
from analyzers.intervals import Intervals, Times
from analyzers.waterfall import UNKNOWN

# A header's way through the event loop to the client: with 32 users 1 in 100 was faster.
FASTEST_NS: Final = 300_000
_LATE_WEIGHT: Final = 1.0
_LATE_NS: Final = 400_000
_EXCESS_WEIGHT: Final = 2.5
_EXCESS_RATIO: Final = 0.35  # of what the pace says
_SHORTFALL_RATIO: Final = 0.2  # likewise
_RESTED: Final = 12.0  # it would have ended after the thread was seen to rest
_STILL_AT_WORK: Final = 4.0  # the thread was seen at work after it, and nobody else had come
# It would have ended where the thread held the GIL, may have, hardly had, and had not.
_HOLD_COSTS: Final = {Hold.SEEN: 0.0, Hold.SWITCHED: 2.0, Hold.KEPT: 8.0, Hold.OTHERS: 14.0}
# A look between two prompts that is in the middle of this one: handing over takes so long before
# the end, rendering the template so long after the beginning.
_MARKED: Final = 6.0
_HANDING_OVER_NS: Final = 1_300_000
_RENDERING_NS: Final = 400_000
_BACKWARDS: Final = 50.0  # it would have ended before it began
# The pace is the median over so many turns on each side: the speed of a CPU changes with what its
# neighbours do.
_PACE_TURNS: Final = 12
_COARSE_COUNT: Final = 80
_SHORTEST_NS: Final = 100_000  # of the differences between coarse candidates
_FINE_COUNT: Final = 31
_ROUNDS: Final = 3
_NEVER: Final = np.iinfo(np.int64).max

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Queue:
    """Turns in the order in which they were let go, one element each; ns.

    ``arrived`` is UNKNOWN for a turn of which only ``let_go`` is known: it ended then.
    """

    arrived: Times
    let_go: Times
    tokens: Times  # of the prompt; all positive


@dataclass(frozen=True, slots=True, eq=False)
class Stacks:
    """When the thread was seen at work, or not seen at all: when it was not seen to rest.

    Looks at it are ``tick_ns`` apart and come up to ``late_ns`` late. ``holds`` are of the GIL.
    ``marks``, ascending, are looks at it between the work on two prompts, or with the GIL.
    """

    seen: Intervals
    tick_ns: int
    late_ns: int
    marks: Times
    holds: Holds | None = None

    def work_begins(self, begin: NDArray[np.generic]) -> Floats:
        """Return when the thread went to work in turns that begin at ``begin``.

        Work first seen within a late tick began with the turn; later work began half a tick before
        it was seen.
        """
        starts = np.append(self.seen.start, _NEVER).astype(np.float64)
        begun = np.asarray(begin, np.float64)
        first = starts[np.searchsorted(self.seen.end, begun, side="right")]
        is_later = first > begun + self.tick_ns + self.late_ns
        return np.where(is_later, first - self.tick_ns / 2, begun)

    def marks_inside(self, begin: Floats, ends: Floats) -> NDArray[np.intp]:
        """Return [end, begin]: how many marks lie far from both ends of such turns."""
        first = np.searchsorted(self.marks, begin + _RENDERING_NS)
        last = np.searchsorted(self.marks, ends - _HANDING_OVER_NS)
        inside: NDArray[np.intp] = np.maximum(last[:, None] - first, 0)
        return inside

    def rests(self, arrived: NDArray[np.generic]) -> Floats:
        """Return when the thread first rested after ``arrived``: nobody waits then, nor is served.

        A rest within a late tick may have been before.
        """
        ends = np.append(self.seen.end, _NEVER).astype(np.float64)
        since = np.asarray(arrived, np.float64) + self.tick_ns + self.late_ns
        return ends[np.searchsorted(self.seen.end, since, side="right")]


def find_ends(queue: Queue, stacks: Stacks) -> Times:
    """Return when each turn ended: from its arrival until it was let go."""
    if not len(queue.let_go):
        return np.empty(0, np.int64)
    is_known = queue.arrived != UNKNOWN
    earliest = np.where(is_known, queue.arrived, queue.let_go).astype(np.float64)
    latest = np.where(is_known, np.maximum(queue.let_go - FASTEST_NS, earliest), queue.let_go)
    ends = np.clip(stacks.rests(earliest), earliest, latest)
    candidates = _coarse(earliest, latest.astype(np.float64))
    for number in range(_ROUNDS):
        usual = _pace(queue, stacks, ends, is_first=number == 0) * queue.tokens
        chosen = _cheapest(queue, stacks, candidates, _own_costs(queue, stacks, candidates), usual)
        ends = candidates[np.arange(len(ends)), chosen]
        candidates = _finer(candidates, chosen, earliest, latest)
    return np.rint(ends).astype(np.int64)


def begins(arrived: Times, ends: NDArray[np.generic]) -> Floats:
    """Return when turns began: at their arrival, or when the turn before was over."""
    before = np.concatenate(([UNKNOWN], np.asarray(ends, np.float64)[:-1]))
    return np.maximum(arrived, before)


def _coarse(earliest: Floats, latest: Floats) -> Floats:
    """Return [turn, candidate]: near the latest end closely, further away more widely spaced."""
    room = np.maximum(latest - earliest, 0.0)[:, None]
    grown = (np.maximum(room, _SHORTEST_NS) / _SHORTEST_NS) ** np.linspace(
        0.0, 1.0, _COARSE_COUNT - 1
    )
    back = np.concatenate((np.zeros_like(room), _SHORTEST_NS * grown), axis=1)
    ends: Floats = latest[:, None] - np.minimum(back, room)
    return ends


def _finer(
    candidates: Floats, chosen: NDArray[np.intp], earliest: Floats, latest: Floats
) -> Floats:
    """Return [turn, candidate] around the chosen ones, as far as to their neighbours."""
    rows = np.arange(len(chosen))
    best = candidates[rows, chosen]
    ordered = np.sort(candidates, axis=1)
    place = np.array([np.searchsorted(row, one) for row, one in zip(ordered, best, strict=True)])
    low = ordered[rows, np.maximum(place - 1, 0)]
    high = ordered[rows, np.minimum(place + 1, ordered.shape[1] - 1)]
    reach = np.maximum(np.maximum(best - low, high - best), _SHORTEST_NS)
    around = best[:, None] + reach[:, None] * np.linspace(-1.0, 1.0, _FINE_COUNT)
    inside: Floats = np.clip(around, earliest[:, None], latest[:, None])
    return inside


def _pace(queue: Queue, stacks: Stacks, ends: Floats, *, is_first: bool) -> Floats:
    """Return the time per token around each turn, by the ends as they are thought now.

    At first all of the time for all of the tokens: of turns that were let go together the first
    looks long and the others like nothing, but their sum is right. Then the median, which a turn
    that took long does not move.
    """
    lasted = np.maximum(ends - stacks.work_begins(begins(queue.arrived, ends)), 1.0)
    is_known = queue.arrived != UNKNOWN
    if is_first:
        return _around(np.where(is_known, lasted, np.nan), np.nansum) / np.maximum(
            _around(np.where(is_known, queue.tokens, np.nan), np.nansum), 1.0
        )
    return _around(np.where(is_known, lasted / queue.tokens, np.nan), np.nanmedian)


def _around(values: Floats, statistic: Callable[..., Floats]) -> Floats:
    """Return a statistic of the known values around each; 1 where there are none."""
    padded = np.pad(values, _PACE_TURNS, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * _PACE_TURNS + 1)
    has_any = ~np.isnan(windows).all(axis=1)
    found = np.ones(len(values))
    found[has_any] = statistic(windows[has_any], axis=1)
    return found


def _own_costs(queue: Queue, stacks: Stacks, candidates: Floats) -> Floats:
    """Return what each candidate costs by itself, whatever its neighbours are."""
    late = np.maximum(queue.let_go[:, None] - FASTEST_NS - candidates, 0.0)
    costs: Floats = _LATE_WEIGHT * np.log1p(late / _LATE_NS)
    if stacks.holds is not None:
        costs += np.array([_HOLD_COSTS[one] for one in Hold])[stacks.holds.at(candidates)]
    seen, slack_ns = stacks.seen, stacks.tick_ns + stacks.late_ns
    starts, over = (np.append(one, _NEVER).astype(np.float64) for one in (seen.start, seen.end))
    costs += _RESTED * (candidates > stacks.rests(queue.arrived)[:, None])
    stretch = np.searchsorted(seen.end, candidates, side="right")
    following = np.append(queue.arrived[1:], _NEVER).astype(np.float64)
    alone = np.minimum(over[stretch], following[:, None]) - candidates
    costs += _STILL_AT_WORK * ((starts[stretch] <= candidates) & (alone > slack_ns))
    return costs


def _cheapest(
    queue: Queue, stacks: Stacks, candidates: Floats, own_costs: Floats, usual: Floats
) -> NDArray[np.intp]:
    """Return the candidate of each turn in the course with the least sum of costs."""
    count, width = candidates.shape
    came_from = np.zeros((count, width), np.intp)
    before = np.array([float(UNKNOWN)])
    sums = np.zeros(1)
    for turn in range(count):
        ends = candidates[turn]
        if queue.arrived[turn] == UNKNOWN:
            came_from[turn] = sums.argmin()
            sums = np.zeros(width)
        else:
            begin = np.maximum(float(queue.arrived[turn]), before)
            work = stacks.work_begins(begin)
            start = np.where(work < ends[:, None], work, begin)
            steps = sums + _length_costs((ends[:, None] - start) / usual[turn])
            steps += _MARKED * stacks.marks_inside(start, ends)
            came_from[turn] = steps.argmin(axis=1)
            sums = steps.min(axis=1) + own_costs[turn]
        before = ends
    chosen = np.empty(count, np.intp)
    best = int(sums.argmin())
    for turn in range(count - 1, -1, -1):
        chosen[turn] = best
        best = int(came_from[turn, best])
    return chosen


def _length_costs(ratio: Floats) -> Floats:
    """Return the costs of turns that took ``ratio`` of what the pace says."""
    excess = np.maximum(ratio - 1.0, 0.0)
    shortfall = np.clip(1.0 - ratio, 0.0, 1.0)
    costs: Floats = (
        _EXCESS_WEIGHT * np.log1p(excess / _EXCESS_RATIO)
        + (shortfall / _SHORTFALL_RATIO) ** 2
        + _BACKWARDS * (ratio <= 0.0)
    )
    return costs
