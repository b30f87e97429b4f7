"""Where requests stood in line for something that serves one at a time, and what would lift it.

For each scenario and each such resource that could be seen: the wait that was measured beside the
one that arrivals and service times predict by replay (`analyzers.convoy`), into which no measured
wait goes. The resource with the most wait is named. Where users ask again as soon as they have
their answer the loop is replayed: the measured arrivals have the measured waits in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from analyzers.base import Analyzer, Outcome
from analyzers.convoy import convoys
from analyzers.convoy_gains import FACTORS, Gain, what_if
from analyzers.convoy_lines import Line, Lines, measure_lines
from analyzers.convoy_loops import Coming
from analyzers.convoy_visits import Resource, Unseen
from analyzers.findings import Finding, Quantity, Rank, abstention
from analyzers.gil import measure_gil
from analyzers.looks import counters_by_thread
from analyzers.request_parts import measure_requests
from analyzers.server import NOTABLE_RATIO, measure_server, milliseconds
from analyzers.timeline import Timeline
from analyzers.tokenizer_cost import API_SERVER
from analyzers.waterfall import UNKNOWN

SLUG: Final = "request-convoy"
# In sentences: "... stand in line for ...".
PHRASES: Final = {
    Resource.TOKENIZER: "the tokenizer",
    Resource.EVENT_LOOP: "the API server's event loop",
    Resource.PREFILL: "the engine's prefill",
}
_GIVEN: Final = {
    Coming.USERS: "{users} users, their time elsewhere and its service times",
    Coming.BATCHES: "arrivals and service times",
    Coming.OPEN: "arrivals and service times",
}
# The options of vLLM that make more of something; the second is there from 0.32 on. It has none
# that reuses prefixes before the engine: a prompt that the engine's cache holds is tokenized again.
OPTIONS: Final = {
    "api_servers": "--api-server-count",
    "tokenizer_workers": "--renderer-num-workers",
    "engines": "--data-parallel-size",
    "prefix_reuse": None,
}


def run(timeline: Timeline) -> Outcome:
    """Report each scenario's lines; a finding where the longest is worth one."""
    sections, findings = [], []
    for one in timeline.once(measure_lines):
        longest = one.longest
        gains = [] if longest is None else _gains(timeline, longest)
        resources = [_row(line) for line in one.lines]
        resources += [_unknown(unseen) for unseen in one.unseen]
        sections.append(
            {
                "name": one.name,
                "count": len(one.rows),
                "coming": one.loop.coming.value,
                "user_count": one.loop.user_count,
                "resource": None if longest is None else longest.visits.resource.value,
                "resources": [*resources, _step_row(timeline, one), _gil_row(timeline)],
                "gains": [_gain_row(gain) for gain in gains],
            }
        )
        if longest is not None and longest.measured_ns >= NOTABLE_RATIO * one.wall_ns:
            findings.append(_finding(timeline, one, longest, gains))
    reasons = {
        unseen.reason
        for one in timeline.once(measure_lines)
        for unseen in one.unseen
        if unseen.resource is Resource.TOKENIZER
    }
    findings += [
        abstention(SLUG, f"no line before the tokenizer can be told: {reason}")
        for reason in sorted(reasons)
    ]
    return Outcome({"convoys": sections}, findings)


def _row(line: Line) -> dict[str, Any]:
    visits, held = line.visits, convoys(line.played)
    measured, predicted = line.measured_ns, line.predicted_ns
    return {
        "resource": visits.resource.value,
        "pid": visits.threads[0].process.pid if visits.threads else None,
        "tids": [thread.tid for thread in visits.threads],
        "server_count": visits.serving.server_count,
        "compared_count": len(line.compared),
        "is_released_in_batches": visits.serving.batch_limit > 1,
        "utilisation_ratio": visits.utilisation_ratio,
        "service_mean_seconds": line.service_ns / 1e9,
        "measured_wait_seconds": measured / 1e9,
        "measured_by": visits.waited_by,
        "predicted_wait_seconds": predicted / 1e9,
        "predicted_to_measured_ratio": predicted / measured if measured else None,
        "is_line": line.is_line,
        "longest_convoy_seconds": held.longest_ns / 1e9,
        "most_behind_count": held.most_behind_count,
        "reason": None,
    }


_KEYS: Final = (
    "resource", "pid", "tids", "server_count", "compared_count", "is_released_in_batches",
    "utilisation_ratio", "service_mean_seconds", "measured_wait_seconds", "measured_by",
    "predicted_wait_seconds", "predicted_to_measured_ratio", "is_line", "longest_convoy_seconds",
    "most_behind_count", "reason",
)  # fmt: skip


def _unknown(unseen: Unseen) -> dict[str, Any]:
    """Return a row of nulls that says why nothing was predicted."""
    return dict.fromkeys(_KEYS) | {"resource": unseen.resource.value, "reason": unseen.reason}


def _step_row(timeline: Timeline, lines: Lines) -> dict[str, Any]:
    """Return the wait for the engine step that ran when a prompt was ready, at most."""
    reason = "where its steps begin and end is not seen: there is nothing to replay"
    row = _unknown(Unseen(Resource.SCHEDULER_STEP, reason))
    for group in timeline.once(measure_requests).groups:
        found = group.falls.parts.get("hand_over")
        if found is not None and (found != UNKNOWN).any():
            own = np.isin(group.rows, lines.rows) & (found != UNKNOWN)
            return row | {
                "compared_count": int(own.sum()),
                "measured_wait_seconds": float(found[own].mean()) / 1e9 if own.any() else None,
                "measured_by": "at most: from the tokenizer to the engine's queue; the event loop, "
                "serialising and IPC are in it",
            }
    return row


def _gil_row(timeline: Timeline) -> dict[str, Any]:
    """Return the wait for the API server's GIL per request, over the whole capture.

    It lies inside of the service times of the others: their threads wait for it while they serve.
    """
    gils = [one for one in timeline.once(measure_gil) if one.process.role == API_SERVER]
    if len(gils) != 1:
        several = "several API servers, each with its own"
        return _unknown(Unseen(Resource.GIL, several if gils else "nobody looked at it"))
    (gil,) = gils
    wanted = [one.wanted_ratio for one in gil.threads if one.wanted_ratio is not None]
    count = len(timeline.once(measure_requests).rows.request)
    reason = "who asks for it, and when, is not seen: there is nothing to replay"
    return _unknown(Unseen(Resource.GIL, reason)) | {
        "pid": gil.process.pid,
        "compared_count": count,
        "utilisation_ratio": gil.held.value,
        "measured_wait_seconds": sum(wanted) * gil.seen_ns / count / 1e9 if wanted else None,
        "measured_by": "all threads of the API server seen waiting for it, over the whole capture",
    }


def _gains(timeline: Timeline, line: Line) -> list[Gain]:
    """Return what would lift the line, as far as the server has options for it."""
    visits = line.visits
    is_tokenizer = visits.resource is Resource.TOKENIZER
    return what_if(
        line.demand,
        visits.serving,
        copied_as="engines" if visits.resource is Resource.PREFILL else "api_servers",
        workers=FACTORS if is_tokenizer and visits.serving.batch_limit == 1 else (),
        reuse_ratio=_reuse_ratio(timeline) if is_tokenizer else None,
    )


def _reuse_ratio(timeline: Timeline) -> float | None:
    """Return which share of the prompts began as earlier ones did: what the engine's cache held.

    None where that is nothing, or was not told.
    """
    server = timeline.once(measure_server)
    return (server.prefix_cache_hit_ratio or None) if server is not None else None


def _gain_row(gain: Gain) -> dict[str, Any]:
    option = OPTIONS[gain.lever]
    return {
        "lever": gain.lever,
        "amount": gain.amount,
        "option": None if option is None else f"{option} {gain.amount:.0f}",
        "wait_before_seconds": gain.mean_wait_before_ns / 1e9,
        "wait_after_seconds": gain.mean_wait_after_ns / 1e9,
        "saved_seconds": gain.saved_ns / 1e9,
    }


def _finding(timeline: Timeline, lines: Lines, line: Line, gains: Sequence[Gain]) -> Finding:
    visits, measured_s = line.visits, line.measured_ns / 1e9
    named = "Requests" if lines.name is None else f'Requests of "{lines.name}"'
    given = _GIVEN[lines.loop.coming].format(users=lines.loop.user_count)
    rows = [_gain_row(one) for one in gains]
    # Of each option the largest step.
    options = {row["lever"]: row for row in rows if row["option"] is not None}.values()
    said = [f"{one['option']} (to {milliseconds(one['wait_after_seconds'])})" for one in options]
    cpus, asked = timeline.capture.manifest.host.get("cpu_count"), _cpus_asked(timeline, line)
    of_host, first = "", ""
    if cpus and asked is not None:
        of_host = (
            f"; this host has {cpus} CPUs, and the server's threads ran on or waited for "
            f"{asked:.1f} of them"
        )
        is_full = asked >= cpus and visits.resource is not Resource.PREFILL
        first = "more CPUs first, then: " if is_full else ""
    return Finding(
        SLUG,
        f"{named} stand in line for {PHRASES[visits.resource]}, which is busy "
        f"{visits.utilisation_ratio:.0%} of the time, {milliseconds(line.service_ns / 1e9)} for "
        f"each: {milliseconds(measured_s)} of waiting measured, "
        f"{milliseconds(line.predicted_ns / 1e9)} predicted from {given}.",
        Rank.REQUEST_TIME,
        Quantity(measured_s, "s"),
        {"scenario": lines.name, **_row(line), "gains": rows},
        ("the gain is predicted for a free CPU or GPU for each, and for others that keep up"
         + of_host,),
        cost_seconds=measured_s * len(line.compared),
        remedy=f"{first}vllm serve ... {', or '.join(said)}",
    )  # fmt: skip


def _cpus_asked(timeline: Timeline, line: Line) -> float | None:
    """Return how many CPUs the server's threads ran on or waited for while the line stood."""
    if not timeline.capture.table("thread_counters").num_rows:
        return None
    start_ns, end_ns = int(line.visits.arrived_ns.min()), int(line.visits.left_ns.max())
    asked_ns = sum(
        float(((one.run_ns + one.wait_ns) * one.shares_of(start_ns, end_ns)).sum())
        for one in timeline.once(counters_by_thread).values()
    )
    return asked_ns / (end_ns - start_ns)


ANALYZER: Final = Analyzer(SLUG, ("requests",), run)
