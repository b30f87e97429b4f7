"""Whose prompt the tokenizer worked on, and who stood in line meanwhile: each request's turn.

One thread renders templates and tokenizes, first come, first served, and lets each request go when
its prompt is done (vLLM 0.32 by default, the oracle). Such a server does not rest while somebody
waits, so

* the turn of a request *begins* when it arrived or when the turn before it ended, whichever is
  later;
* it *ends* when the thread was seen to have stopped, and not after the request was let go: not
  after its response headers were at the client (they leave once its prompt is tokenized), nor after
  it entered the engine's queue;
* ``template`` and ``tokenize`` are the work that the thread's stacks showed in the own turn, by
  stage; ``tokenize_wait`` is the work that they showed between the arrival and the own turn;
  ``hand_over`` runs from the end of the turn to the engine's queue: event loop, serialising, IPC,
  and the engine step that was running. What is left stays unattributed.

Stacks are seen at ticks, and a tick may come `LATE_NS` late. Work that was first seen within that
time after its turn began, began with it; holes in the work that are shorter are closed. Work that
was seen to be over, ended in the middle of the last tick.

Assumed: one line, served in order; a template that was rendered while others were tokenized counts
as wait (whose it was cannot be told); and every request that took a turn has a row. The prompt of
one without (it was aborted, or its span came too late) is charged to the request after it. Where
the event loop was slow to let requests go, turns in a line without a pause end late by that.

Not cut is a request in whose turn no work was seen, or only of a stretch shorter than
`FEWEST_TICKS` (a short prompt, a low rate), and one in whose frontend time the sampler was blind.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from analyzers.intervals import Intervals, Times, covered_before, intersection, intervals, joined
from analyzers.waterfall import UNKNOWN

PIECES: Final = ("template", "tokenize_wait", "tokenize", "hand_over")
FEWEST_TICKS: Final = 2.0
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


@dataclass(frozen=True, slots=True, eq=False)
class Turns:
    """Each request's turn ``[begin, end)``; ``work`` is when the thread began to work in it."""

    begin: Times
    work: Times
    end: Times


def cut_turns(
    arrived: Times, queued: Times, let_go: Times, others: Times, service: Service
) -> dict[str, Times]:
    """Return the pieces of each request's frontend time by name, in ns.

    Args:
        arrived: when each request came to the frontend.
        queued: when it entered the engine's queue, not before it arrived.
        let_go: by when it had left the tokenizer, at the latest; from ``arrived`` to ``queued``.
        others: the same for requests that took turns in the line but are not to be cut.
        service: what was seen of the tokenizer.

    The pieces (`PIECES`) of a request add up to no more than ``queued - arrived``. All of them are
    `UNKNOWN` for a request that is not cut.
    """
    slack_ns = service.tick_ns + LATE_NS
    seen = joined(service.busy.start, service.busy.end, within_ns=slack_ns)
    turns = _turns(arrived, let_go, others, seen, service.tick_ns)
    busy = intervals(
        np.concatenate((seen.start, turns.work)), np.concatenate((seen.end, turns.end))
    )
    template = intersection(service.template, seen)
    own = turns.end - turns.work
    own_template = covered_before(template, turns.end) - covered_before(template, turns.work)
    wait = covered_before(busy, turns.begin) - covered_before(busy, arrived)
    long = seen.lengths() >= FEWEST_TICKS * service.tick_ns
    enough = Intervals(seen.start[long], seen.end[long])
    is_cut = covered_before(enough, turns.end) > covered_before(enough, turns.work)
    is_cut &= covered_before(service.unseen, queued) == covered_before(service.unseen, arrived)
    pieces = (own_template, wait, own - own_template, queued - turns.end)
    return {
        name: np.where(is_cut, piece, UNKNOWN) for name, piece in zip(PIECES, pieces, strict=True)
    }


def _turns(
    arrived: Times, let_go: Times, others: Times, seen: Intervals, tick_ns: int
) -> Turns:
    """Return the turns, one after another in the order in which requests were let go."""
    turns = Turns(arrived.copy(), arrived.copy(), arrived.copy())
    starts, ends = seen.start.tolist(), seen.end.tolist()
    ended, index = UNKNOWN, 0
    for latest, row in _in_line(let_go, others):
        if row is None:
            ended = latest
            continue
        begin = max(int(arrived[row]), ended)
        while index < len(ends) and ends[index] <= begin:
            index += 1
        work = end = begin
        if index < len(ends) and starts[index] < latest:
            if starts[index] > begin + tick_ns + LATE_NS:
                work = starts[index] - tick_ns // 2
            over = ends[index] if latest <= ends[index] else ends[index] - tick_ns // 2
            end = max(work, min(latest, over))
        turns.begin[row], turns.work[row], turns.end[row] = begin, work, end
        ended = end
    return turns


def _in_line(let_go: Times, others: Times) -> Iterator[tuple[int, int | None]]:
    """Yield when each was let go and its row, None for the others, the earliest first."""
    every = np.concatenate((let_go, others))
    for place in np.argsort(every, kind="stable").tolist():
        yield int(every[place]), place if place < len(let_go) else None
