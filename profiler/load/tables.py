"""Summaries of runs as terminal tables, at most 100 columns wide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from rich.console import Console

from profiler.load.scenario import Scenario
from profiler.render.console import plain_table, safe
from profiler.render.requests import PARTS

Json = dict[str, Any]

_DETAIL_CHARS: Final = 60
_LATENCIES: Final = {
    "to headers": "headers",
    "to first token": "first_token",
    "per output token": "per_output_token",
    "between tokens": "inter_token",
    "end to end": "end_to_end",
}


def describe(scenario: Scenario) -> str:
    """Return in a few words what a scenario does."""
    if scenario.rate_hz is not None:
        who = f"{scenario.rate_hz:g} requests/s ({scenario.arrivals})"
    else:
        who = f"{scenario.users} user" + ("s" if scenario.users != 1 else "")
    if scenario.prompt_tokens is not None:
        size = f"prompts of {scenario.prompt_tokens:,} tokens"
    else:
        size = f"prompts of {scenario.prompt_chars:,} characters"
    shared = ", all the same" if scenario.shared_prompt else ""
    count = scenario.request_count
    length = f"{scenario.seconds:g} s" if count is None else f"{count:,} requests"
    return f"{who}, {size}{shared}, {scenario.max_tokens:,} tokens an answer, {length}"


def print_run(out: Console, summary: Json) -> None:
    """Print one run."""
    counts, throughput = summary["requests"], summary["throughput"]
    rates = [
        f"{throughput[f'{key}_per_second']:,.1f} {name}/s"
        for key, name in (
            ("requests", "requests"),
            ("prompt_tokens", "prompt tokens"),
            ("output_tokens", "output tokens"),
        )
        if throughput[f"{key}_per_second"] is not None
    ]
    out.print(
        f"[bold]{counts['ok_count']:,} answered, {counts['failed_count']:,} failed[/]"
        + (f", {counts['interrupted_count']:,} cut off" if counts["interrupted_count"] else "")
        + (f"; {', '.join(rates)}" if rates else "")
    )
    table = plain_table("", ">mean", ">p50", ">its 95 % interval", ">p90", ">p95", ">p99", ">max")
    for label, key in _LATENCIES.items():
        spread = summary["latency"][key]
        if spread is not None:
            mean, p50, *others = (
                _time(spread[f"{name}_seconds"])
                for name in ("mean", "p50", "p90", "p95", "p99", "max")
            )
            table.add_row(label, mean, p50, _interval(spread), *others)
    if table.row_count:
        out.print(table)
    _print_doubts(out, summary)


def print_matrix(out: Console, summaries: Sequence[Json]) -> None:
    """Print one row for each run: medians, and what each cost the client."""
    table = plain_table(
        "scenario", ">users", ">prompt", ">ok", ">failed", ">headers", ">first token",
        ">per token", ">end to end", ">client CPU",
    )  # fmt: skip
    for summary in summaries:
        scenario, counts = summary["scenario"], summary["requests"]
        spreads = summary["latency"]
        client = summary["client"]
        table.add_row(
            safe(scenario["name"]),
            "open" if scenario["users"] is None else str(scenario["users"]),
            f"{scenario['prompt_tokens'] or scenario['prompt_chars']:,}",
            str(counts["ok_count"]),
            str(counts["failed_count"]),
            *(
                "?" if spreads[key] is None else _time(spreads[key]["p50_seconds"])
                for key in ("headers", "first_token", "per_output_token", "end_to_end")
            ),
            "?" if client is None else f"{client['cpu_ratio']:.0%}",
        )
    out.print(table)
    out.print("medians; prompt: its tokens, or its characters where none were asked", style="dim")
    if any("server" in summary for summary in summaries):
        _print_server(out, summaries)
    for summary in summaries:
        for warning in summary["warnings"]:
            out.print(f"[yellow]{safe(summary['scenario']['name'])}[/]: {safe(warning)}")


def _print_server(out: Console, summaries: Sequence[Json]) -> None:
    """Print what the captures say: the published study's proxy first, then what was measured."""
    table = plain_table(
        "scenario", ">study's proxy: CPU", ">host", ">device", ">unattributed", ">first token",
        ">largest host part",
    )  # fmt: skip
    for summary in summaries:
        fall = (summary.get("server") or {}).get("waterfall")
        name = safe(summary["scenario"]["name"])
        if fall is None:
            table.add_row(name, *["?"] * 6)
            continue
        ratios = [fall[f"{key}_ratio"] for key in ("proxy", "host", "device", "unattributed")]
        ttft = fall["ttft"]
        table.add_row(
            name,
            *("?" if ratio is None else f"{ratio:.1%}" for ratio in ratios),
            "?" if ttft is None else _time(ttft["p50_seconds"]),
            _largest_host_part(fall),
        )
    out.print(table)
    out.print(
        "shares of the requests' wall time; unattributed: of the median request; everything: "
        "cputax analyze DIR/SCENARIO/server.capture",
        style="dim",
    )


def _largest_host_part(fall: Json) -> str:
    parts = [
        one
        for one in fall["parts"]
        if one["part"] not in ("prefill", "decode", "unattributed") and one["share_ratio"]
    ]
    if not parts:
        return "?"
    largest = max(parts, key=lambda one: one["share_ratio"])
    label = PARTS.get(largest["part"], (largest["part"], ""))[0]
    return f"{safe(label)} {largest['share_ratio']:.0%}"


def _print_doubts(out: Console, summary: Json) -> None:
    """Print what failed, whether prompts had their size, and what the client itself cost."""
    for kind, count in summary["failures"].items():
        detail = " ".join(summary["failure_details"][kind].split())[:_DETAIL_CHARS]
        out.print(f"[red]{count:,} x {safe(kind)}[/] {safe(detail)}")
    prompts = summary["prompt_tokens"]
    if prompts["exact_count"] is not None and prompts["exact_count"] < prompts["counted_count"]:
        wrong_count = prompts["counted_count"] - prompts["exact_count"]
        out.print(
            f"[yellow]{wrong_count:,} prompts did not have {prompts['asked']:,} tokens[/] "
            "by the server's own count"
        )
    client, lag = summary["client"], summary["lag_seconds"]
    if lag is not None:
        late = ", ".join(f"{name} {_time(lag[name])}" for name in ("p50", "p99", "max"))
        out.print(f"requests were sent late by {late}", style="dim")
    if client is not None:
        out.print(
            f"the client used {client['cpu_ratio']:.0%} of a core "
            f"({client['cpu_peak_ratio']:.0%} in its busiest second); "
            f"its event loop was late by p99 {_time(client['loop_lag_p99_seconds'])}",
            style="dim",
        )
    for warning in summary["warnings"]:
        out.print(f"[yellow]{safe(warning)}[/]")


def _interval(spread: Json) -> str:
    """Return the interval of the median; empty where neither bound is known."""
    low, high = spread["p50_low_seconds"], spread["p50_high_seconds"]
    if low is None and high is None:
        return ""
    return " - ".join("?" if bound is None else _time(bound) for bound in (low, high))


def _time(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1e3:.1f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} us"
