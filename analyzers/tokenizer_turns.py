"""Whose prompt the tokenizer worked on, and who stood in line meanwhile: each request's turn.

One thread renders templates and tokenizes, first come, first served, and lets each request go when
its prompt is done (vLLM 0.32 by default, the oracle). Such a server does not rest while somebody
waits, so

* the turn of a request *begins* when it arrived or when the turn before it ended, whichever is
  later;
* it *ends* before the request was let go: before its response headers were at the client (they
  leave once its prompt is tokenized) and before it entered the engine's queue. How long before is
  found for all turns together, by the tokens of their prompts and by when the thread was seen at
  work, at rest, and with the GIL: `analyzers.turn_ends`;
* ``template`` is the work of that stage that the thread's stacks showed in the own turn, and
  ``tokenize`` is the rest of it; ``tokenize_wait`` is the work between the arrival and the own
  turn; ``hand_over`` runs from the end of the turn to the engine's queue: event loop, serialising,
  IPC, and the engine step that was running. What is left stays unattributed.

Stacks are seen at ticks, and a tick may come `LATE_NS` late. Work that was first seen within that
time after its turn began, began with it; holes in the work that are shorter are closed. While the
sampler was blind the thread was neither at work nor at rest.

Assumed: one line, served in order; a template that was rendered while others were tokenized counts
as wait (whose it was cannot be told); and every request that took a turn has a row. The prompt of
one without (it was aborted, or its span came too late) is charged to the request after it.

Not cut is a request in whose own turn no work was seen, and one whose turn is shorter than
`FEWEST_TICKS_OF_TURN` (a short prompt, a low rate) unless it stood in a line of `FEWEST_TICKS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from analyzers.gil_holds import Holds
from analyzers.intervals import (
    Intervals,
    Times,
    covered_before,
    intersection,
    intervals,
    joined,
    union,
)
from analyzers.turn_ends import Queue, Stacks, begins, find_ends
from analyzers.waterfall import UNKNOWN

PIECES: Final = ("template", "tokenize_wait", "tokenize", "hand_over")
FEWEST_TICKS: Final = 2.0  # of work seen in one piece
FEWEST_TICKS_OF_TURN: Final = 1.5  # so that a tick hits it, even one that comes a little late
# Of 1,000 looks a second at the oracle under load, on two CPUs, 95 in 100 first looks at a
# tokenizing thread came within 4.2 ms of its beginning.
LATE_NS: Final = 4_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Service:
    """What was seen of the one tokenizer thread."""

    busy: Intervals  # its stacks showed template or tokenize
    template: Intervals
    unseen: Intervals  # the sampler was blind
    tick_ns: int
    between: Times  # looks at it between the work on two prompts, ascending
    holds: Holds | None = None  # of the GIL, by the thread

    @property
    def marks(self) -> Times:
        """Looks that no prompt is long into: between two, or with the GIL; ascending."""
        if self.holds is None:
            return self.between
        return np.sort(np.concatenate((self.between, self.holds.seen)))


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """The requests that stood in line, one element each; ns.

    ``let_go`` is by when a request had left the tokenizer, at the latest: from ``arrived`` to
    ``queued``, when it entered the engine's queue. ``tokens`` are its prompt's. ``others`` is
    ``let_go`` of requests that took turns but are not to be cut.
    """

    arrived: Times
    queued: Times
    let_go: Times
    tokens: Times
    others: Times


@dataclass(frozen=True, slots=True, eq=False)
class Turns:
    """Each request's turn ``[begin, end)``; ``work`` is when the thread began to work in it."""

    begin: Times
    work: Times
    end: Times


def cut_turns(line: Line, service: Service) -> dict[str, Times]:
    """Return the pieces of each request's frontend time by name, in ns.

    The pieces (`PIECES`) of a request add up to no more than ``queued - arrived``. All of them are
    `UNKNOWN` for a request that is not cut.
    """
    slack_ns = service.tick_ns + LATE_NS
    seen = joined(service.busy.start, service.busy.end, within_ns=slack_ns)
    not_at_rest = union(seen, service.unseen)
    closed = joined(not_at_rest.start, not_at_rest.end, within_ns=slack_ns)
    turns = _turns(line, Stacks(closed, service.tick_ns, LATE_NS, service.marks, service.holds))
    busy = intervals(
        np.concatenate((seen.start, turns.work)), np.concatenate((seen.end, turns.end))
    )
    template = intersection(service.template, seen)
    own = turns.end - turns.work
    own_template = _within(template, turns.work, turns.end)
    is_cut = _within(seen, turns.work, turns.end) > 0
    is_long = seen.lengths() >= FEWEST_TICKS * service.tick_ns
    enough = Intervals(seen.start[is_long], seen.end[is_long])
    is_cut &= (own >= FEWEST_TICKS_OF_TURN * service.tick_ns) | (
        _within(enough, turns.work, turns.end) > 0
    )
    pieces = (
        own_template,
        _within(busy, line.arrived, turns.begin),
        own - own_template,
        line.queued - turns.end,
    )
    return {
        name: np.where(is_cut, piece, UNKNOWN) for name, piece in zip(PIECES, pieces, strict=True)
    }


def _within(of: Intervals, start: Times, end: Times) -> Times:
    """Return how much of ``of`` lies in each ``[start, end)``."""
    return covered_before(of, end) - covered_before(of, start)


def _turns(line: Line, stacks: Stacks) -> Turns:
    """Return the turns, one after another in the order in which requests were let go."""
    count = len(line.let_go)
    nobody = np.full(len(line.others), UNKNOWN, np.int64)
    let_go = np.concatenate((line.let_go, line.others))
    tokens = line.tokens
    if (tokens <= 0).any():  # not all are told
        tokens = np.ones(count, np.int64)
    order = np.argsort(let_go, kind="stable")
    queue = Queue(
        arrived=np.concatenate((line.arrived, nobody))[order],
        let_go=let_go[order],
        tokens=np.concatenate((tokens, np.ones_like(nobody)))[order],
    )
    ends = find_ends(queue, stacks)
    begin = begins(queue.arrived, ends)
    work = np.minimum(stacks.work_begins(begin), ends)
    turns = Turns(*(np.empty(count, np.int64) for _ in range(3)))
    is_own = order < count
    for column, values in ((turns.begin, begin), (turns.work, work), (turns.end, ends)):
        column[order[is_own]] = values[is_own]
    return turns
