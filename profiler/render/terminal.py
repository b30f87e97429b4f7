"""The analysis as terminal tables, at most 100 columns wide.

Works on the documented JSON of `analyzers.analysis.Analysis.to_json`, so that what is printed and
what is exported are one thing. Percent and milliseconds are made here and nowhere else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final

from rich.console import Console
from rich.padding import Padding

from analyzers.analysis import ANALYZERS
from analyzers.timeline import PROBES
from collectors.manifest import IMPORTED
from profiler.render.console import console, duration, heading, percent, plain_table, safe
from profiler.render.convoys import print_convoys
from profiler.render.gpu import print_gpu
from profiler.render.probes import print_probes
from profiler.render.requests import print_requests
from profiler.render.sched import print_scheduling

BAR_WIDTH: Final = 24
TOP_STAGES: Final = 6
TOP_THREADS: Final = 8
SMALL_RATIO: Final = 0.005

Json = Mapping[str, Any]


def print_findings(analysis: Json, *, limit: int | None = None) -> None:
    """Print the findings, most costly first, at most ``limit`` of them."""
    _print_findings(console(), analysis, limit=limit)


def print_analysis(analysis: Json, *, show_all: bool = False) -> None:
    """Print everything: findings, requests, GPUs, CPU by stage, GIL, run queue, and the gaps."""
    out = console()
    _print_title(out, analysis)
    _print_findings(out, analysis, show_all=show_all)
    print_requests(out, analysis, show_all=show_all)
    print_convoys(out, analysis, show_all=show_all)
    print_gpu(out, analysis, show_all=show_all)
    _print_stages(out, analysis, show_all)
    _print_gil(out, analysis, show_all)
    print_scheduling(out, analysis, show_all=show_all)
    _print_server(out, analysis)
    print_probes(out, analysis)


def _print_title(out: Console, analysis: Json) -> None:
    target, capture = analysis["target"], analysis["capture"]
    if target["kind"] == IMPORTED:
        sources = capture["sources"]
        more = f" and {len(sources) - 1} more" if len(sources) > 1 else ""
        parts = [f"imported {sources[0]}{more}"]
    else:
        parts = [f"{target['kind']} PID {target['root_pid']}"]
    parts += [str(target[key]) for key in ("model", "version") if target.get(key)]
    parts.append(f"{duration(capture['duration_seconds'])} recorded")
    if capture["is_partial"]:
        parts.append("partial")
    out.print(safe(" · ".join(parts)), style="bold")


def _print_findings(
    out: Console, analysis: Json, *, limit: int | None = None, show_all: bool = False
) -> None:
    claims = [finding for finding in analysis["findings"] if not finding["abstained"]]
    silent = [
        finding
        for finding in analysis["findings"]
        if finding["abstained"] and not _is_unasked(finding, analysis)
    ]
    heading(out, "What stands out")
    if not claims:
        below = ": see below what could not be answered" if silent and limit is None else ""
        out.print(f"  nothing{below}", style="dim")
    for number, finding in enumerate(claims[:limit], 1):
        out.print(Padding(f"[bold]{number}.[/] {safe(finding['statement'])}", (0, 0, 0, 2)))
        details = [f"[cyan]{finding['slug']}[/]{_size(finding['quantity'])}"]
        if finding.get("remedy"):
            details.append(f"[green]try:[/] {safe(finding['remedy'])}")
        caveats = finding["caveats"] if show_all else finding["caveats"][:1]
        details += [f"[dim]note: {safe(caveat)}[/]" for caveat in caveats]
        for detail in details:
            out.print(Padding(detail, (0, 0, 0, 5)))
    if limit is not None and len(claims) > limit:
        out.print(f"  and {len(claims) - limit} more", style="dim")
    if limit is None and silent:
        heading(out, "What could not be answered")
        for finding in silent:
            reason = finding.get("reason") or finding["statement"]
            out.print(Padding(f"[cyan]{finding['slug']}[/] {safe(reason)}", (0, 0, 0, 2)))
    if limit is not None or len(claims) + len(silent) == len(analysis["findings"]):
        return
    if analysis["target"]["kind"] == IMPORTED:
        out.print(f"\n{_NOT_IN_IMPORTS}", style="dim")
    else:
        out.print("\nadd --otlp to see where each request's time went (docs/otlp.md)", style="dim")


def _is_unasked(finding: Json, analysis: Json) -> bool:
    """Whether it is missing because nobody meant to record it.

    Requests without a client and --otlp; in an imported trace, what only an attach can see.
    """
    if analysis["target"]["kind"] == IMPORTED:
        return finding["slug"] in _OF_ATTACH
    names = {probe["name"] for probe in analysis["probes"]}
    has_none = analysis["requests"] is None and names.isdisjoint(PROBES["requests"])
    return has_none and finding["slug"] in _OF_REQUESTS


_OF_REQUESTS: Final = {one.name for one in ANALYZERS if "requests" in one.tables}
_OF_ATTACH: Final = {one.name for one in ANALYZERS if not {"slices", "samples"} & {*one.tables}}
_NOT_IN_IMPORTS: Final = (
    "requests, the GIL, CPU time and the server's metrics are not in an imported trace: "
    "cputax attach records them"
)


def _size(quantity: Json | None) -> str:
    if quantity is None:
        return ""
    unit = quantity["unit"]
    text = f"  {_amount(quantity['value'], unit)}"
    if quantity["low"] is not None and quantity["high"] is not None:
        text += f" ({_amount(quantity['low'], unit)} to {_amount(quantity['high'], unit)})"
    return text


def _amount(value: float, unit: str) -> str:
    if unit == "ratio":
        return f"{value:.1%}"
    if unit == "s":
        return duration(value)
    return f"{value:.3g} {unit}"


def _print_stages(out: Console, analysis: Json, show_all: bool) -> None:
    if not analysis["stages"]:
        return
    window_s = analysis["capture"]["duration_seconds"]
    processes = analysis["target"]["processes"]
    total_s = sum(process["cpu_seconds"] or 0.0 for process in processes)
    heading(out, "Where the CPU time went", f"{total_s:.1f} s = {total_s / window_s:.2f} cores")
    coverage = {row["role"]: row["classified_ratio"] for row in analysis["coverage"]}
    by_role = defaultdict(list)
    for row in analysis["stages"]:
        by_role[row["role"]].append(row)
    table = plain_table("role", "stage", ">CPU", ">share", "")
    for role, rows in by_role.items():
        pids = ", ".join(str(one["pid"]) for one in processes if one["role"] == role)
        role_s = sum(row["cpu_seconds"] for row in rows)
        if role_s <= 0 and not show_all:
            continue
        seen = coverage.get(role)
        note = "" if seen is None else f"{seen:.1%} of non-idle samples classified"
        label = f"[bold]{safe(role)}[/] {pids}"
        cores = f"[bold]{role_s / window_s:.2f} cores[/]"
        table.add_row(label, cores, f"{role_s:.2f} s", "", f"[dim]{note}[/]")
        rows = sorted(rows, key=lambda row: -row["cpu_seconds"])
        shown = rows if show_all else rows[:TOP_STAGES]
        for row in shown:
            ratio = row["share_ratio"] or 0.0
            if ratio < SMALL_RATIO and not show_all:
                continue
            colour = "yellow" if row["stage"] in _UNKNOWN or row.get("is_wait") else "blue"
            bar = f"[{colour}]{'█' * round(ratio * BAR_WIDTH)}[/]"
            table.add_row("", row["stage"], f"{row['cpu_seconds']:.2f} s", f"{ratio:.1%}", bar)
    out.print(table)


_UNKNOWN: Final = frozenset({"unknown", "unattributed", "native"})


def _print_gil(out: Console, analysis: Json, show_all: bool) -> None:
    rows = sorted(analysis["gil"], key=lambda row: -(row["held_ratio"] or 0.0))
    rows = [row for row in rows if show_all or _matters(row, "held_ratio", "wanted_ratio")]
    if not rows:
        return
    heading(out, "Who held the GIL, and who waited for it", "share of the time")
    table = plain_table("role", ">PID", "thread", ">held", ">waited", "held it mostly in")
    for row in rows if show_all else rows[:TOP_THREADS]:
        stages = ", ".join(
            f"{one['stage']} {one['share_ratio']:.0%}" for one in row["holding_stages"][:2]
        )
        table.add_row(
            safe(row["role"]), str(row["pid"]), safe(row["name"]),
            percent(row["held_ratio"]), percent(row["wanted_ratio"]), safe(stages),
        )  # fmt: skip
    out.print(table)


def _print_server(out: Console, analysis: Json) -> None:
    server = analysis.get("server") or {}
    if server.get("ttft_mean_seconds") is None:
        return
    heading(out, "The server's own counters", "means per request in this window")
    table = plain_table(*[f">{name}" for name in _SERVER_COLUMNS])
    table.add_row(*[_server_cell(server, key) for key in _SERVER_COLUMNS.values()])
    out.print(table)


_SERVER_COLUMNS: Final = {
    "requests": "first_token_count",
    "first token": "ttft_mean_seconds",
    "queue": "queue_mean_seconds",
    "prefill": "prefill_mean_seconds",
    "the rest": "residual_mean_seconds",
    "decode": "decode_mean_seconds",
    "cache hits": "prefix_cache_hit_ratio",
    "running": "running_mean_count",
    "waiting": "waiting_mean_count",
}


def _server_cell(server: Json, key: str) -> str:
    value = server.get(key)
    if value is None:
        return "?"
    if key.endswith("_seconds"):
        return duration(value)
    return f"{value:.1%}" if key.endswith("_ratio") else f"{value:.4g}"


def _matters(row: Json, *keys: str) -> bool:
    return any((row[key] or 0.0) >= SMALL_RATIO for key in keys)
