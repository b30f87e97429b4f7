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
was seen to be over, ended in the middle of the last tick. Where several had come before the thread
rested and were let go only after, nobody saw the edges between their turns: they share that work by
the tokens of their prompts.

Assumed: one line, served in order; a template that was rendered while others were tokenized counts
as wait (whose it was cannot be told); and every request that took a turn has a row. The prompt of
one without (it was aborted, or its span came too late) is charged to the request after it. Where
the event loop is slow to let requests go, turns in a line without a pause end late by that: what
one gets too much its neighbours lack, so single requests are less sure than their mean.

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
    turns = _turns(line, seen, service.tick_ns)
    busy = intervals(
        np.concatenate((seen.start, turns.work)), np.concatenate((seen.end, turns.end))
    )
    template = intersection(service.template, seen)
    own = turns.end - turns.work
    own_template = covered_before(template, turns.end) - covered_before(template, turns.work)
    wait = covered_before(busy, turns.begin) - covered_before(busy, line.arrived)
    is_long = seen.lengths() >= FEWEST_TICKS * service.tick_ns
    enough = Intervals(seen.start[is_long], seen.end[is_long])
    is_cut = covered_before(enough, turns.end) > covered_before(enough, turns.work)
    blind = service.unseen
    is_cut &= covered_before(blind, line.queued) == covered_before(blind, line.arrived)
    pieces = (own_template, wait, own - own_template, line.queued - turns.end)
    return {
        name: np.where(is_cut, piece, UNKNOWN) for name, piece in zip(PIECES, pieces, strict=True)
    }


def _turns(line: Line, seen: Intervals, tick_ns: int) -> Turns:
    """Return the turns, one after another in the order in which requests were let go."""
    turns = Turns(line.arrived.copy(), line.arrived.copy(), line.arrived.copy())
    slack_ns = tick_ns + LATE_NS
    starts, ends = seen.start.tolist(), seen.end.tolist()
    ended, index = UNKNOWN, 0
    late: list[int] = []  # those that were let go only after the thread had come to rest
    for latest, row in _in_order(line):
        if row is None:
            ended, late = latest, []
            continue
        arrived = int(line.arrived[row])
        if late and arrived < ends[index] - slack_ns:
            late.append(row)
            _share(turns, line, late, ended)
            continue
        begin, late = max(arrived, ended), []
        while index < len(ends) and ends[index] <= begin:
            index += 1
        work = end = begin
        if index < len(ends) and starts[index] < latest:
            if starts[index] > begin + slack_ns:
                work = starts[index] - tick_ns // 2
            over = latest
            if latest > ends[index]:
                over, late = ends[index] - tick_ns // 2, [row]
            end = max(work, over)
        turns.begin[row], turns.work[row], turns.end[row] = begin, work, end
        ended = end
    return turns


def _in_order(line: Line) -> Iterator[tuple[int, int | None]]:
    """Yield when each was let go and its row, None for the others, the earliest first."""
    every = np.concatenate((line.let_go, line.others))
    for place in np.argsort(every, kind="stable").tolist():
        yield int(every[place]), place if place < len(line.let_go) else None


def _share(turns: Turns, line: Line, rows: list[int], end: int) -> None:
    """Divide the work that ended at ``end`` among requests by their prompts' tokens."""
    tokens = line.tokens[rows]
    if (tokens <= 0).any():  # not all are told
        tokens = np.ones(len(rows), np.int64)
    work = int(turns.work[rows[0]])
    edges = work + (end - work) * np.cumsum(tokens) // tokens.sum()
    begin = np.maximum(line.arrived[rows[1:]], edges[:-1])
    turns.begin[rows[1:]] = turns.work[rows[1:]] = begin
    turns.end[rows[0]] = edges[0]
    turns.end[rows[1:]] = np.maximum(begin, edges[1:])
