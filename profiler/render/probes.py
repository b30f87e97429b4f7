"""The table of what each probe saw and did not see, and what the recording cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from rich.console import Console

from analyzers.timeline import STACK_PROBES
from profiler.render.console import duration, plain_table, safe

Json = Mapping[str, Any]


def print_probes(out: Console, analysis: Json) -> None:
    """Print one row for each probe, and how much of a core the recording took."""
    out.print("\n[bold]How well it was seen[/]")
    gaps = {row["probe"]: row for row in analysis["gaps"]}
    table = plain_table("probe", "", ">asked", ">achieved", ">not seen", ">largest gap", "why")
    for probe in analysis["probes"]:
        if probe["level"] == NOT_APPLICABLE:
            continue
        gap = gaps.pop(probe["name"], None)
        table.add_row(*_probe_row(probe, gap))
    for name, gap in gaps.items():
        table.add_row(name, "", "", "", *_gap_cells(gap))
    out.print(table)
    overhead = analysis.get("overhead") or {}
    if overhead.keys() >= _OVERHEAD_KEYS:
        window_s = overhead["window_seconds"]
        readers = [row for row in analysis["probes"] if row["name"] in STACK_PROBES]
        stacks_s = sum(row["cpu_seconds"] or 0 for row in readers)
        own_s = overhead["recorder_cpu_seconds"] + overhead["probe_children_cpu_seconds"]
        out.print(
            f"  cputax itself used {own_s / window_s:.1%} of one core "
            f"({stacks_s / window_s:.1%} for stacks); the host was idle "
            f"{overhead['host_idle_ratio']:.0%} of the time",
            style="dim",
        )


NOT_APPLICABLE: Final = "not applicable"  # a machine without a GPU is not short of a probe
_OVERHEAD_KEYS: Final = {
    "window_seconds", "recorder_cpu_seconds", "probe_children_cpu_seconds", "host_idle_ratio",
}  # fmt: skip


def _probe_row(probe: Json, gap: Json | None) -> Iterable[str]:
    rates = [_rate(probe["requested_hz"]), _rate(probe["achieved_hz"])]
    cells = [safe(probe["name"]), probe["level"], *rates]
    if gap is None:
        largest_ns = probe["largest_gap_ns"]
        largest = "" if not largest_ns else duration(largest_ns / 1e9)
        return [*cells, "", largest, safe(probe["reason"] or "")]
    return [*cells, *_gap_cells(gap)]


def _gap_cells(gap: Json) -> list[str]:
    reasons = "; ".join(safe(reason[:60]) for reason in gap["reasons"][:2])
    return [f"{gap['gap_ratio']:.1%}", duration(gap["largest_gap_seconds"]), reasons]


def _rate(value_hz: float | None) -> str:
    if value_hz is None:
        return ""
    return f"{value_hz:.0f} Hz" if value_hz >= 10 else f"{value_hz:.1f} Hz"
