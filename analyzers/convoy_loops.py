"""How the requests of a scenario came: by users who each wait for their answer, or otherwise.

A capture does not say what the load was, but it shows: where N users ask again as soon as they have
their answer, as many requests are in flight as there are users, and whenever one ends the next is
due at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np

from analyzers.convoy import NOBODY, Rows
from analyzers.intervals import Times

# So soon after an end the next request is due. The load client took 0.01 to 0.75 ms, measured.
AT_ONCE_NS: Final = 5_000_000
# So soon after the last end of a batch the next batch's first request; 1 to 9 ms, measured.
NEXT_BATCH_NS: Final = 50_000_000
MOST_RATIO: Final = 0.95  # of the requests must keep to it: a client may be late now and then


class Coming(StrEnum):
    """What makes requests come."""

    USERS = "users"  # each asks again when its answer is there
    BATCHES = "batches"  # each asks once, and the next batch begins when all have their answer
    OPEN = "open"  # neither was seen: they come when they do


@dataclass(frozen=True, slots=True, eq=False)
class Loop:
    """How requests came; ``previous`` is the one whose end made each due, or `NOBODY`.

    In batches nobody follows a single one, and none meets another batch's: they can be replayed as
    they came.
    """

    coming: Coming
    user_count: int | None
    previous: Rows


def find_loop(due_ns: Times, end_ns: Times) -> Loop:
    """Return how requests came that were due and ended at these instants.

    Give all requests of the load, those that failed too; one without an end never made another due.
    """
    count = len(due_ns)
    nobody = np.full(count, NOBODY, np.intp)
    users = _most_in_flight(due_ns, end_ns)
    if users >= count:  # nobody asked twice
        return Loop(Coming.OPEN, None, nobody)
    by_due, by_end = np.argsort(due_ns, kind="stable"), np.argsort(end_ns, kind="stable")
    # With at most N in flight, the k-th end is over when the (N + k)-th is due.
    after, before = by_due[users:], by_end[: count - users]
    is_at_once = due_ns[after] - end_ns[before] <= AT_ONCE_NS
    if is_at_once.mean() >= MOST_RATIO:
        previous = nobody.copy()
        previous[after[is_at_once]] = before[is_at_once]
        return Loop(Coming.USERS, users, previous)
    if _is_in_batches(due_ns[by_due], end_ns[by_due], users):
        return Loop(Coming.BATCHES, users, nobody)
    return Loop(Coming.OPEN, None, nobody)


def _most_in_flight(due_ns: Times, end_ns: Times) -> int:
    begun = np.arange(1, len(due_ns) + 1)
    ended = np.searchsorted(np.sort(end_ns), np.sort(due_ns), side="right")
    return int((begun - ended).max(initial=0))


def _is_in_batches(due_ns: Times, end_ns: Times, users: int) -> bool:
    """Return whether requests, in order, came N at a time, soon after all others' end."""
    firsts = np.arange(0, len(due_ns), users)
    pause_ns = due_ns[firsts[1:]] - np.maximum.reduceat(end_ns, firsts)[:-1]
    return bool(((pause_ns >= 0) & (pause_ns <= NEXT_BATCH_NS)).mean() >= MOST_RATIO)
