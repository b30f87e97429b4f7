"""Where a request's time went, as terminal tables: one per scenario, a line per part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from analyzers.request_scenarios import DEVICE_PARTS
from profiler.render.console import percent, safe

Json = Mapping[str, Any]

BAR_WIDTH: Final = 16
SMALL_RATIO: Final = 0.0005
# What the parts are called here, and what is in them; short, so that a line has room for both.
PARTS: Final = {
    "lag": ("lag", "due, not begun"),
    "build": ("build", "the prompt is made"),
    "serialise": ("serialise", "fields to bytes"),
    "connect": ("connect", ""),
    "send": ("send", "to the kernel"),
    "wire": ("wire", "send, wire, HTTP parse"),
    "template": ("template", ""),
    "tokenize_wait": ("tokenize wait", "behind other prompts"),
    "tokenize": ("tokenize", "the own prompt"),
    "hand_over": ("hand-over", "loop, IPC, engine step"),
    "frontend": ("frontend", "not cut further"),
    "queue": ("engine queue", ""),
    "prefill": ("prefill", ""),
    "first_output": ("first token out", "detokenize, SSE, wire"),
    "decode": ("decode", "to the last token"),
    "detokenize": ("detokenize", "the last output"),
    "sse": ("SSE", "the stream's end"),
    "to_headers": ("to headers", "wire, HTTP, tokenizer"),
    "to_first_token": ("to first token", "engine and way back"),
    "stream": ("stream", "first token to last"),
    "end": ("end", "after the last token"),
    "parse": ("client parse", ""),
    "unattributed": ("unattributed", ""),
}


def print_requests(out: Console, analysis: Json, *, show_all: bool = False) -> None:
    """Print the scenarios of the section ``requests``; nothing when there are none."""
    section = analysis.get("requests") or {}
    for scenario in section.get("scenarios", ()):
        _print_scenario(out, scenario, show_all)
    if section.get("scenarios"):
        out.print(f"  boundaries from: {_sources(section['sources'])}", style="dim")


def _print_scenario(out: Console, scenario: Json, show_all: bool) -> None:
    named = "" if scenario["name"] is None else f": {safe(scenario['name'])}"
    counts = [f"{scenario['count']} requests, seen from {scenario['seen_from']}"]
    for key, word in (
        ("failed_count", "failed"),
        ("interrupted_count", "cut off"),
        ("without_server_count", "more without the server's side"),
    ):
        if scenario[key]:
            counts.append(f"{scenario[key]} {word}")
    out.print(f"\n[bold]Where a request's time went{named}[/]  [dim]{', '.join(counts)}[/]")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("part", no_wrap=True)
    for heading in ("mean ms", "+-", "p50", "p99", "share"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", width=BAR_WIDTH, no_wrap=True)
    table.add_column("", style="dim", no_wrap=True)
    for part in scenario["parts"]:
        share = part["share_ratio"]
        is_rest = part["part"] == "unattributed"
        if show_all or is_rest or share is None or share >= SMALL_RATIO:
            table.add_row(*_cells(part, scenario["count"]))
    wall = scenario["wall"]
    table.add_row("[bold]all[/]", *_times(wall), "100.0%", "", "due to parsed")
    out.print(table)
    for line in _summary(scenario):
        out.print(f"  {line}", style="dim")


def _cells(part: Json, request_count: int) -> list[str]:
    name, note = PARTS.get(part["part"], (part["part"], ""))
    share = part["share_ratio"]
    colour = "yellow" if part["part"] == "unattributed" else "blue"
    if part["part"] in DEVICE_PARTS:
        colour = "green"
    if 0 < part["count"] < request_count:
        note = f"in {part['count']} of {request_count}"
    elif share is None:
        note = "not known"
    bar = f"[{colour}]{'█' * round((share or 0.0) * BAR_WIDTH)}[/]"
    return [name, *_times(part), "?" if share is None else f"{share:.1%}", bar, note]


def _times(spread: Json) -> list[str]:
    """Return mean, half of its interval, p50 and p99."""
    mean, high = spread["mean_seconds"], spread["mean_high_seconds"]
    half = None if mean is None or high is None else high - mean
    return [_ms(one) for one in (mean, half, spread["p50_seconds"], spread["p99_seconds"])]


def _ms(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    return f"{seconds * 1e3:,.0f}" if seconds >= 0.1 else f"{seconds * 1e3:.2f}"


def _summary(scenario: Json) -> list[str]:
    lines = []
    if scenario["device_ratio"] is not None:
        lines.append(
            f"host {percent(scenario['host_ratio'])}, "
            f"device {percent(scenario['device_ratio'])}: {scenario['device_basis']}"
        )
    lines.append(
        f"unattributed {percent(scenario['unattributed_ratio'])} of the "
        f"{scenario['unattributed_of']}; the published study's proxy would say: "
        f"CPU {percent(scenario['proxy_ratio'])}"
    )
    figures = (("first token", "ttft"), ("end to end", "e2e"), ("per output token", "tpot"))
    lines += [
        f"{name}: p50 {_ms(one['p50_seconds'])}, p90 {_ms(one['p90_seconds'])}, "
        f"p99 {_ms(one['p99_seconds'])}, max {_ms(one['max_seconds'])} ms"
        for name, key in figures
        for one in [scenario[key]]
        if one is not None
    ]
    return lines


def _sources(sources: list[dict[str, Any]]) -> str:
    said = [
        f"{one['source']} ({one['row_count']} requests)" if "row_count" in one else one["source"]
        for one in sources
    ]
    return ", ".join(said)
