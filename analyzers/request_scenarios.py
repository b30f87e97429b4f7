"""Requests of one scenario in figures: where their time went, and how sure that is."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from analyzers.intervals import Times
from analyzers.percentiles import spread_seconds
from analyzers.request_rows import RequestRows, Rows
from analyzers.scenario_metrics import ServerMeans
from analyzers.waterfall import UNATTRIBUTED, UNKNOWN, Waterfalls

# The parts in which the model runs. The rest of a known part is the host's: it ran or waited there.
DEVICE_PARTS: Final = frozenset({"prefill", "decode"})
# Between two boundaries of the client's, host and device in one.
MIXED_PARTS: Final = frozenset({"to_first_token", "stream"})
# What the server's means tell of the time between the client's boundaries, in the chain's order.
MEANS: Final = ("hand_over", "queue", "prefill", "first_output", "decode")
# What the device's share of a request stands on; a trace of the GPU tells no request from another.
DEVICE_BASIS: Final = "model execution: prefill and decode by the server's stamps"


def median_rows(wall: Times) -> Rows:
    """Return the fifth of the requests around the median wall time, at least one.

    "The median request" is their mean, so that it does not hang on a single one.
    """
    order = np.argsort(wall, kind="stable")
    count = len(order)
    low = 2 * count // 5
    return order[low : max(low + 1, -(-3 * count // 5))]


def part_rows(falls: Waterfalls) -> list[dict[str, Any]]:
    """Return the figures of each part, in the order of the chain, unattributed last.

    ``share_ratio`` is of the summed wall time of all requests, ``median_request_ratio`` of that of
    `median_rows`; both add up to 1 over the parts. ``count`` requests have the part; the mean and
    the percentiles are theirs. A part that is known of no request has nulls.
    """
    median = median_rows(falls.wall)
    everywhere = np.arange(len(falls.wall))
    return [
        {
            "part": name,
            **(spread_seconds(values[values != UNKNOWN]) or _NO_SPREAD),
            "share_ratio": _share(values, falls.wall, everywhere),
            "median_request_ratio": _share(values, falls.wall, median),
        }
        for name, values in (*falls.parts.items(), (UNATTRIBUTED, falls.unattributed))
    ]


_NO_SPREAD: Final = {
    **dict.fromkeys(spread_seconds(np.zeros(1, np.int64)) or ()),
    "count": 0,
}


def _share(values: Times, wall: Times, rows: Rows) -> float | None:
    own = values[rows]
    known = own[own != UNKNOWN]
    wall_ns = int(wall[rows].sum())
    return float(known.sum()) / wall_ns if len(known) and wall_ns else None


def ratios(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return who had the requests: host, device, nobody.

    ``host_ratio`` and ``device_ratio`` are shares of the summed wall time, None where host and
    device could not be told apart. ``unattributed_ratio`` is that of the median request; where only
    the means of the server are known, that of the mean request.
    """
    share = {one["part"]: one["share_ratio"] for one in parts if one["share_ratio"] is not None}
    unattributed = parts[-1]
    is_of_median = unattributed["median_request_ratio"] is not None
    named = share.keys() - {UNATTRIBUTED}
    is_told_apart = not named & MIXED_PARTS and bool(named & DEVICE_PARTS)
    return {
        "host_ratio": sum(share[one] for one in named - DEVICE_PARTS) if is_told_apart else None,
        "device_ratio": sum(share[one] for one in named & DEVICE_PARTS) if is_told_apart else None,
        "device_basis": DEVICE_BASIS,
        "unattributed_ratio": unattributed[
            "median_request_ratio" if is_of_median else "share_ratio"
        ],
        "unattributed_of": "median request" if is_of_median else "mean request",
    }


def with_server_means(
    parts: list[dict[str, Any]], means: ServerMeans, wall_seconds: float
) -> list[dict[str, Any]]:
    """Return a client's parts with the server's in them, by their means only.

    Queue, prefill and decode lie inside of what the client saw as "to the first token" and as the
    stream (the headers leave before the engine is asked). Two more follow from the same means, each
    as what it was at least:

    * ``hand_over``, to the engine's queue and back from the engine: the server's time to first
      token without queue and prefill, less what was before the headers, which the client saw no
      shorter (it counts from the end of sending, before the server counts);
    * ``first_output``, from the server to the client: where the server's decode is longer than what
      the client saw from the first token to the end (the last one need not carry text), the first
      token was that late.

    What they leave is unattributed. Means of other requests may not fit in: they are cut to the
    room there is.
    """
    seen = {row["part"]: row["mean_seconds"] for row in parts}
    inside: dict[str, dict[str, float | None]] = {
        "to_first_token": {"queue": means.queue, "prefill": means.prefill},
        "stream": {"decode": means.decode},
    }
    found: list[dict[str, Any]] = []
    left = 0.0
    for row in parts:
        room, pieces = row["mean_seconds"], inside.get(row["part"])
        if room is None or pieces is None or None in pieces.values():
            found.append(row)
            continue
        known = {name: mean for name, mean in pieces.items() if mean is not None}
        if row["part"] == "to_first_token":
            known |= _at_least(means, seen)
        taken: dict[str, float] = {}
        for name, mean in known.items():
            taken[name] = min(mean, room)
            room -= taken[name]
        found += [
            _mean_only(name, row["count"], taken[name], wall_seconds)
            for name in MEANS
            if name in taken
        ]
        left += room
    last = found[-1]
    found[-1] = _mean_only(UNATTRIBUTED, last["count"], last["mean_seconds"] + left, wall_seconds)
    return found


def _at_least(means: ServerMeans, seen: dict[str, float | None]) -> dict[str, float]:
    """Return what ``hand_over`` and ``first_output`` were at least, seconds; see above."""
    found = {}
    to_headers, stream, end = (seen.get(name) for name in ("to_headers", "stream", "end"))
    if means.ttft is not None and to_headers is not None:
        engine = (means.queue or 0.0) + (means.prefill or 0.0)
        found["hand_over"] = max(0.0, means.ttft - engine - to_headers)
    if means.decode is not None and stream is not None and end is not None:
        found["first_output"] = max(0.0, means.decode - stream - end)
    return {name: mean for name, mean in found.items() if mean}


def _mean_only(name: str, count: int, mean: float, wall_seconds: float) -> dict[str, Any]:
    return {
        "part": name,
        **_NO_SPREAD,
        "count": count,
        "mean_seconds": mean,
        "share_ratio": mean / wall_seconds if wall_seconds else None,
        "median_request_ratio": None,
    }


def proxy_ratio(rows: RequestRows, chosen: Rows) -> float | None:
    """Return the published study's "CPU share" of these requests, for comparison only.

    Serialising, from there to the response headers, and parsing the end, over the time from
    serialising to the end: t_serialize + t_http_overhead + t_response_parse there. It counts all
    time to the headers as CPU, and no host time after them.
    """
    names = ("built", "serialised", "headers", "done", "parsed")
    chosen = chosen[rows.seen(*names)[chosen]]
    built, serialised, headers, done, parsed = (
        rows.instants[name][chosen].astype(np.float64) for name in names
    )
    whole = float((parsed - built).sum())
    host = (serialised - built) + (headers - serialised) + (parsed - done)
    return float(host.sum()) / whole if whole > 0 else None


def latencies(rows: RequestRows, chosen: Rows) -> dict[str, Any]:
    """Return the spreads of a user's latencies; None where nobody saw them.

    Time to first token and end to end count from when a request was due, or from its arrival where
    only the server saw it; the time per output token leaves the first token out.
    """
    at = rows.instants

    def between(start: str, end: str) -> Times:
        seen = chosen[rows.seen(start, end)[chosen]]
        return at[end][seen] - at[start][seen]

    is_from_client = bool(rows.has_client[chosen].all())
    begin, first, last, done = (
        ("due", "first", "last", "done")
        if is_from_client
        else ("arrived", "engine_first", "engine_last", "finished")
    )
    seen = chosen[rows.seen(first, last)[chosen]]
    gaps = rows.output_tokens[seen] - 1
    has_gaps = gaps > 0
    per_token = (at[last][seen] - at[first][seen])[has_gaps] // gaps[has_gaps]
    return {
        "ttft": spread_seconds(between(begin, first)),
        "e2e": spread_seconds(between(begin, done)),
        "tpot": spread_seconds(per_token),
    }
