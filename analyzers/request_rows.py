"""The requests of a capture as both sides saw them: the client's row joined with the server's.

Both carry the client's X-Request-Id. Arrays have one element per request; an instant that was not
seen is `UNKNOWN`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from analyzers.engine_steps import EngineTimes, measure_lateness
from analyzers.intervals import Times
from analyzers.timeline import Timeline
from analyzers.waterfall import UNKNOWN
from collectors.schema import CLIENT, CLIENT_BOUNDARIES, OTLP, SERVER_BOUNDARIES

# The server's instants come as wall time and durations. A row that has them further than this
# outside of what the client saw speaks of another clock, or of another request.
CONTRADICTION_NS: Final = 5_000_000

# Boundaries by their names in a waterfall, and the columns they come from.
_CLIENT_COLUMNS: Final = {
    "due": "time_ns",
    **{name.removesuffix("_ns").removesuffix("_token"): name for name in CLIENT_BOUNDARIES},
}
_SERVER_COLUMNS: Final = {
    "arrived": "time_ns",
    "queued": "queued_ns",
    "scheduled": "scheduled_ns",
    "engine_first": "first_token_ns",
    "engine_last": "last_token_ns",
    "finished": "done_ns",
}

Bools = NDArray[np.bool_]
Rows = NDArray[np.intp]  # of `RequestRows`, one number each


@dataclass(frozen=True, slots=True, eq=False)
class RequestRows:
    """All requests, those without a client's row last."""

    request: list[str]
    scenario: list[str | None]
    status: list[str]
    prompt_tokens: Times  # UNKNOWN where nobody counted
    output_tokens: Times
    instants: dict[str, Times]  # by boundary
    has_client: Bools
    has_server: Bools
    contradicted_count: int  # server rows that were dropped: see `CONTRADICTION_NS`

    def seen(self, *boundaries: str) -> Bools:
        """Return which requests have all of these boundaries."""
        rows = [self.instants[name] != UNKNOWN for name in boundaries]
        both: Bools = np.logical_and.reduce(rows)
        return both


def join_requests(timeline: Timeline) -> RequestRows:
    """Return all requests of the capture."""
    table = timeline.capture.table("requests")
    client = _first_of_each(table.filter(pc.equal(table["source"], CLIENT)))
    server = _first_of_each(table.filter(pc.equal(table["source"], OTLP)))
    row_of = {request: row for row, request in enumerate(server["request"].to_pylist())}
    asked = client["request"].to_pylist()
    # Of each request: its row in either table, -1 for none.
    matched = [row_of.pop(request, -1) for request in asked]
    alone = list(row_of.values())
    client_rows = np.array([*range(len(asked)), *[-1] * len(alone)], np.int64)
    server_rows = np.array([*matched, *alone], np.int64)
    instants = {
        **{name: _pick(client, one, client_rows) for name, one in _CLIENT_COLUMNS.items()},
        **{name: _pick(server, one, server_rows) for name, one in _SERVER_COLUMNS.items()},
    }
    is_contradicted = _is_contradicted(instants)
    for name in _SERVER_COLUMNS:
        instants[name] = np.where(is_contradicted, UNKNOWN, instants[name])
    late = measure_lateness(
        EngineTimes(
            arrived=instants["arrived"],
            queued=instants["queued"],
            first=instants["engine_first"],
            last=instants["engine_last"],
            decode=_pick(server, "decode_duration_ns", server_rows),
        )
    )
    for name in ("queued", "scheduled"):
        instants[name] = np.where(instants[name] == UNKNOWN, UNKNOWN, instants[name] - late)

    def counted(name: str) -> Times:
        by_server = _pick(server, name, server_rows)
        return np.where(by_server != UNKNOWN, by_server, _pick(client, name, client_rows))

    others = server.take(pa.array(alone, pa.int64()))
    return RequestRows(
        request=[*asked, *others["request"].to_pylist()],
        scenario=[*client["scenario"].to_pylist(), *others["scenario"].to_pylist()],
        status=[*client["status"].to_pylist(), *others["status"].to_pylist()],
        prompt_tokens=counted("prompt_tokens"),
        output_tokens=counted("output_tokens"),
        instants=instants,
        has_client=client_rows >= 0,
        has_server=(server_rows >= 0) & ~is_contradicted,
        contradicted_count=int(is_contradicted.sum()),
    )


def seen_boundaries(timeline: Timeline) -> list[dict[str, Any]]:
    """Return for each source how many rows it has, and how many of them have each boundary."""
    table = timeline.capture.table("requests")
    found = []
    for source, names in ((CLIENT, CLIENT_BOUNDARIES), (OTLP, SERVER_BOUNDARIES)):
        rows = table.filter(pc.equal(table["source"], source))
        if rows.num_rows:
            counts = {name: rows.num_rows - rows[name].null_count for name in ("time_ns", *names)}
            found.append({"source": source, "row_count": rows.num_rows, "boundaries": counts})
    return found


def _first_of_each(table: pa.Table) -> pa.Table:
    """Drop all but the first row of a request: a server has one for each choice or prompt."""
    first: dict[str, int] = {}
    for row, request in enumerate(table["request"].to_pylist()):
        first.setdefault(request, row)
    return table.take(pa.array(first.values(), pa.int64()))


def _pick(table: pa.Table, name: str, rows: Times) -> Times:
    """Return a column's values at ``rows``; UNKNOWN at -1, where it is null or not recorded yet."""
    if name not in table.column_names:
        return np.full(len(rows), UNKNOWN, np.int64)
    values = np.asarray(table[name].fill_null(UNKNOWN).to_numpy(), np.int64)
    return np.append(values, UNKNOWN)[rows]


def _is_contradicted(instants: dict[str, Times]) -> Bools:
    """Return where the server says it was at work before the request was there, or after."""
    too_early = _is_before(instants["arrived"], instants["serialised"])
    too_late = _is_before(instants["done"], instants["engine_last"])
    either: Bools = too_early | too_late
    return either


def _is_before(earlier: Times, later: Times) -> Bools:
    is_seen = (earlier != UNKNOWN) & (later != UNKNOWN)
    before: Bools = is_seen & (earlier < later - CONTRADICTION_NS)
    return before
