"""Where the time of each request went, from when it was due until its answer was parsed.

The client's boundaries and the server's own trace (OTLP) cut it: `analyzers.waterfall` has the
order and the rules. The frontend's time is cut further by the tokenizer's stacks:
`analyzers.tokenizer_turns`. Without the server's trace there are the client's parts, with the means
of the server's metrics in them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from analyzers.base import Analyzer, Outcome
from analyzers.findings import Finding, Quantity, Rank, abstention
from analyzers.percentiles import METHODS, spread_seconds
from analyzers.request_parts import (
    FRONTEND,
    MeasuredRequests,
    ScenarioRows,
    measure_requests,
    scenarios,
)
from analyzers.request_rows import RequestRows, seen_boundaries
from analyzers.request_scenarios import (
    MEANS,
    latencies,
    median_rows,
    part_rows,
    proxy_ratio,
    ratios,
    with_server_means,
)
from analyzers.scenario_metrics import measure_means
from analyzers.server import milliseconds
from analyzers.timeline import Timeline
from analyzers.tokenizer_turns import PIECES
from analyzers.waterfall import BOTH, CLIENT
from collectors.schema import INTERRUPTED, OK

SLUG: Final = "request-waterfall"
# Boundaries of one request that are out of order by more than this are worth a word.
DISORDER_NS: Final = 1_000_000
# In sentences: "... passes in ...".
PHRASES: Final = {
    "lag": "the client, before it began",
    "build": "the client, building the request",
    "serialise": "the client, serialising the request",
    "connect": "connecting",
    "wire": "sending, the wire and HTTP parsing",
    "to_headers": "the way to the response headers: sending, HTTP, template and tokenizer",
    FRONTEND: "the API server's frontend: template, tokenizer and the way to the engine",
    "template": "rendering the chat template",
    "tokenize_wait": "line for the tokenizer",
    "tokenize": "the tokenizer, at its own prompt",
    "hand_over": "the way from the tokenizer to the engine's queue",
    "queue": "the engine's queue",
    "first_output": "the first token's way from the engine to the client",
    "detokenize": "detokenizing the last output",
    "sse": "the way of the stream's end to the client",
    "send": "sending",
    "end": "the end of the stream",
    "parse": "the client, parsing the end of the answer",
}


def run(timeline: Timeline) -> Outcome:
    """Report each scenario's parts; a finding for the largest host part."""
    measured = timeline.once(measure_requests)
    found = [_scenario(timeline, measured.rows, one) for one in scenarios(measured)]
    section = {
        "sources": _sources(timeline, found),
        "interval_methods": METHODS,
        "contradicted_count": measured.rows.contradicted_count,
        "scenarios": found,
    }
    return Outcome({"requests": section}, _findings(measured, found))


def _scenario(timeline: Timeline, rows: RequestRows, one: ScenarioRows) -> dict[str, Any]:
    """Return the scenario's figures.

    Where the server's side of some requests was seen, only those have a waterfall: their parts do
    not compare with those of the others.
    """
    group, own, chosen = one.group, one.asked, one.rows
    statuses = [rows.status[row] for row in own]
    well = own[[status == OK for status in statuses]]
    falls = group.falls.of(one.at)
    parts = _without_doubles(part_rows(falls))
    if group.chain is CLIENT:
        start_ns = int(rows.instants["due"][own].min())
        means = measure_means(timeline, start_ns, int(rows.instants["done"][well].max()))
        if means is not None:
            parts = with_server_means(parts, means, float(falls.wall.mean()) / 1e9)
    return {
        "name": one.name,
        "seen_from": _SEEN_FROM.get(group.chain, "server"),
        "count": len(chosen),
        "failed_count": sum(status not in (OK, INTERRUPTED) for status in statuses),
        "interrupted_count": statuses.count(INTERRUPTED),
        "without_server_count": len(well) - len(chosen),
        "disorder_count": int((group.disorder[one.at] > DISORDER_NS).sum()),
        "wall": spread_seconds(falls.wall),
        **latencies(rows, well),
        "parts": parts,
        "median_request_seconds": float(falls.wall[median_rows(falls.wall)].mean()) / 1e9,
        **ratios(parts),
        "proxy_ratio": proxy_ratio(rows, chosen),
    }


def _without_doubles(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out the pieces when nobody's frontend was cut, and the whole when everybody's was."""
    is_cut = any(one["count"] for one in parts if one["part"] in PIECES)
    unwanted = (FRONTEND,) if is_cut else PIECES
    return [one for one in parts if one["count"] or one["part"] not in unwanted]


_SEEN_FROM: Final = {BOTH: "client and server", CLIENT: "client"}


def _sources(timeline: Timeline, scenarios: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return which boundaries were to be had, and from whom."""
    sources = seen_boundaries(timeline)
    by_client = _known(one for one in scenarios if one["seen_from"] == "client")
    by_both = _known(one for one in scenarios if one["seen_from"] != "client")
    pieces = [name for name in by_both if name in PIECES]
    if pieces:
        sources.append({"source": "stacks", "parts": sorted(pieces)})
    means = [name for name in by_client if name in MEANS]
    if means:
        sources.append({"source": "metrics", "parts": means})
    return sources


def _known(scenarios: Iterable[dict[str, Any]]) -> list[str]:
    """Return the parts that some of the scenarios have, in order."""
    parts = (part for one in scenarios for part in one["parts"])
    return list(dict.fromkeys(part["part"] for part in parts if part["count"]))


def _findings(measured: MeasuredRequests, scenarios: list[dict[str, Any]]) -> list[Finding]:
    found = [one for one in map(_largest_part, scenarios) if one is not None]
    # One is enough: the scenario that lost most. The others are in the section.
    findings = sorted(found, key=lambda one: -one.cost_seconds)[:1]
    if not scenarios:
        return [abstention(SLUG, "no request of the capture ended well")]
    if any(one["seen_from"] == "client" for one in scenarios):
        findings.append(
            abstention(
                "request-server-side",
                "the server's own boundaries of these requests were not seen",
                "start the server with --otlp-traces-endpoint http://127.0.0.1:4317 and record "
                "with --otlp (docs/otlp.md)",
            )
        )
    elif not any(part["part"] in PIECES for one in scenarios for part in one["parts"]):
        reason = measured.no_turns or "tokenizing was over before enough stacks were looked at"
        remedy = "record stacks, and more often: cputax attach PID --otlp --rate 1000"
        findings.append(abstention("request-tokenizer-turns", reason, remedy))
    return findings


def _largest_part(scenario: dict[str, Any]) -> Finding | None:
    """Return the largest host part of the scenario's median request."""
    hosts = [
        one
        for one in scenario["parts"]
        if one["part"] in PHRASES and (one["median_request_ratio"] or 0.0) > 0
    ]
    if not hosts:
        return None
    part = max(hosts, key=lambda one: one["median_request_ratio"])
    ratio = part["median_request_ratio"]
    request = scenario["median_request_seconds"]
    named = "" if scenario["name"] is None else f' of "{scenario["name"]}"'
    unattributed = scenario["unattributed_ratio"]
    return Finding(
        "request-largest-part",
        f"Of the {milliseconds(request)} of the median request{named}, the host's largest part is "
        f"{PHRASES[part['part']]}: {milliseconds(ratio * request)} ({ratio:.0%}).",
        Rank.REQUEST_TIME,
        Quantity(part["p50_seconds"], "s", part["p50_low_seconds"], part["p50_high_seconds"]),
        {
            "scenario": scenario["name"],
            "part": part["part"],
            "request_count": scenario["count"],
            "mean_seconds": part["mean_seconds"],
            "request_seconds": part["mean_seconds"] * part["count"],
        },
        (
            f"{unattributed:.1%} of that request's time is unattributed",
            "a host part is time that passed there, at work or waiting",
        ),
        cost_seconds=part["mean_seconds"] * part["count"],
    )


ANALYZER: Final = Analyzer(SLUG, ("requests",), run)
