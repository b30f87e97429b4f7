"""The waterfall of each request of a capture: boundaries of both sides, then the tokenizer's turns.

Without the server's own trace a request has the client's parts only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from analyzers.intervals import Times
from analyzers.request_rows import RequestRows, Rows, join_requests
from analyzers.timeline import Timeline
from analyzers.tokenizer_service import find_service
from analyzers.tokenizer_turns import PIECES, Line, Service, cut_turns
from analyzers.waterfall import (
    BOTH,
    CLIENT,
    SERVER,
    UNKNOWN,
    Chain,
    Cut,
    Waterfalls,
    cut,
    earlier,
    stack,
    waterfalls,
)
from collectors.schema import OK, WARM_UP

FRONTEND: Final = "frontend"  # the part that the tokenizer's turns cut further


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Requests that the same sides saw; ``rows`` are theirs in `RequestRows`."""

    rows: Rows
    chain: Chain
    falls: Waterfalls
    disorder: Times  # ns, `Cut.disorder`


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredRequests:
    """All requests of a capture that ended well, by which sides saw them."""

    rows: RequestRows
    groups: list[Group]
    no_turns: str | None  # why no frontend was cut further


def measure_requests(timeline: Timeline) -> MeasuredRequests:
    """Cut every request of the capture that ended well."""
    rows = timeline.once(join_requests)
    is_ok = np.array([status == OK for status in rows.status], np.bool_)
    sides = (
        (BOTH, rows.has_client & rows.has_server),
        (CLIENT, rows.has_client & ~rows.has_server),
        (SERVER, ~rows.has_client & rows.has_server),
    )
    chosen = [(chain, np.flatnonzero(is_ok & is_of)) for chain, is_of in sides]
    cuts = [
        (chain, own, cut(stack(chain, rows.instants, own))) for chain, own in chosen if len(own)
    ]
    service = find_service(timeline)
    turns = None if isinstance(service, str) else _turns(rows, cuts, service)
    groups = []
    for chain, own, made in cuts:
        falls = waterfalls(chain, made)
        if turns is not None and FRONTEND in chain.parts:
            falls = falls.split(FRONTEND, {name: values[own] for name, values in turns.items()})
        groups.append(Group(own, chain, falls, made.disorder))
    return MeasuredRequests(rows, groups, service if isinstance(service, str) else None)


@dataclass(frozen=True, slots=True, eq=False)
class ScenarioRows:
    """One scenario's requests; numbers of `RequestRows`, those that failed too, in ``asked``.

    ``group`` holds those that were seen best, at ``at``.
    """

    name: str | None
    asked: Rows
    group: Group
    at: Rows

    @property
    def rows(self) -> Rows:
        """Those that were seen best, as numbers of `RequestRows`."""
        return self.group.rows[self.at]


def scenarios(measured: MeasuredRequests) -> Iterator[ScenarioRows]:
    """Yield the scenarios of which some request ended well, in order, but not the warm-up.

    Where a client asked, what others asked meanwhile is in none of them.
    """
    rows = measured.rows
    among = np.flatnonzero(rows.has_client)
    if not len(among):
        among = np.arange(len(rows.request))
    for name in dict.fromkeys(rows.scenario[row] for row in among):
        if name == WARM_UP:
            continue
        asked = np.array([row for row in among if rows.scenario[row] == name], np.intp)
        for group in measured.groups:  # those that were seen best come first
            at = np.flatnonzero(np.isin(group.rows, asked))
            if len(at):
                yield ScenarioRows(name, asked, group, at)
                break


def _turns(
    rows: RequestRows, cuts: list[tuple[Chain, Rows, Cut]], service: Service
) -> dict[str, Times]:
    """Return the pieces of every request's frontend time; `UNKNOWN` where it is not cut.

    Requests that failed, or that the server did not report, took turns too.
    """
    count = len(rows.request)
    arrived = np.full(count, UNKNOWN, np.int64)
    queued = rows.instants["queued"].copy()
    for chain, own, made in cuts:
        if FRONTEND in chain.parts:
            arrived[own] = made.instants[:, chain.boundaries.index("arrived")]
            queued[own] = made.instants[:, chain.boundaries.index("queued")]
    let_go = earlier(rows.instants["headers"], queued)
    is_cut = np.flatnonzero((arrived != UNKNOWN) & (queued != UNKNOWN))
    is_other = let_go != UNKNOWN
    is_other[is_cut] = False
    line = Line(
        arrived=arrived[is_cut],
        queued=queued[is_cut],
        let_go=np.maximum(let_go[is_cut], arrived[is_cut]),
        tokens=rows.prompt_tokens[is_cut],
        others=let_go[is_other],
    )
    turns = {name: np.full(count, UNKNOWN, np.int64) for name in PIECES}
    for name, values in cut_turns(line, service).items():
        turns[name][is_cut] = values
    return turns
