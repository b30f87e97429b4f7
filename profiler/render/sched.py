"""Who waited for a CPU, who pushed whom off, and where threads and memory were."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rich.console import Console
from rich.padding import Padding

from profiler.render.console import duration, heading, percent, plain_table, safe

TOP_COUNT: Final = 8
BAR_WIDTH: Final = 24
NAME_CHARS: Final = 20  # of threads, where two stand in a line
SMALL_RATIO: Final = 0.005
SMALL_SECONDS: Final = 0.01
# How it is known when a thread was woken; words of `analyzers.sched.totals.Wake`.
_WAKES: Final = {
    "measured": "from each thread's wake-up on, as the kernel reported it",
    "inferred": "waits after wake-ups inferred from the kernel's totals",
    "unknown": "waits after wake-ups were not seen",
}

Json = Mapping[str, Any]


def print_scheduling(out: Console, analysis: Json, *, show_all: bool) -> None:
    """Print the waits for a CPU, and with context switches their causes."""
    _print_run_queue(out, analysis, show_all)
    if analysis["switches"] is not None:
        _print_stages(out, analysis, show_all)
        _print_pushes(out, analysis, show_all)
        _print_gil(out, analysis, show_all)
    _print_demand(out, analysis)
    _print_quotas(out, analysis)
    _print_memory(out, analysis)
    _print_counters(out, analysis, show_all)


def _print_run_queue(out: Console, analysis: Json, show_all: bool) -> None:
    rows = sorted(analysis["run_queue"], key=lambda row: -row["wait_seconds"])
    rows = [row for row in rows if show_all or row["wait_ratio"] >= SMALL_RATIO]
    if not rows:
        return
    switches = analysis["switches"]
    note = "" if switches is None else _WAKES[switches["wake"]]
    heading(out, "Who was ready to run and waited for a CPU", note)
    columns = ["role", ">PID", "thread", ">waited", ">of the time", ">ran"]
    columns += [">pushed off"] if switches is None else [">waking", ">pushed off", ">yielded"]
    table = plain_table(*columns)
    for row in rows if show_all else rows[:TOP_COUNT]:
        cells = [
            safe(row["role"]), str(row["pid"]), safe(row["name"]), f"{row['wait_seconds']:.2f} s",
            percent(row["wait_ratio"]), f"{row['cpu_seconds']:.2f} s",
        ]  # fmt: skip
        table.add_row(*cells, *_why(row, has_switches=switches is not None))
    out.print(table)


def _why(row: Json, *, has_switches: bool) -> list[str]:
    if not has_switches:
        pushed = row["involuntary_count"]
        return ["?" if pushed is None else f"{pushed} x"]
    return [
        "?" if row["waking_seconds"] is None else f"{row['waking_seconds']:.2f} s",
        _after(row["preempted_count"], row["preempted_seconds"]),
        _after(row["yielded_count"], row["yielded_seconds"]),
    ]


def _after(count: int | None, seconds: float | None) -> str:
    """Return how long it waited after so many times; a wait may be too short to show."""
    if count is None or seconds is None:
        return "?"
    return f"{seconds:.2f} s" if count else "never"


def _print_stages(out: Console, analysis: Json, show_all: bool) -> None:
    shortest = 0.0 if show_all else SMALL_SECONDS
    rows = [row for row in analysis["sched_stages"] if row["wait_seconds"] > shortest]
    if not rows:
        return
    heading(out, "In which stage threads waited for a CPU", "stacks joined with context switches")
    table = plain_table("role", "stage", ">waited", ">after waking", ">pushed off", "")
    longest = max(row["wait_seconds"] for row in rows)
    for row in rows if show_all else rows[:TOP_COUNT]:
        bar = "█" * round(BAR_WIDTH * row["wait_seconds"] / longest)
        table.add_row(
            safe(row["role"]), safe(row["stage"]), f"{row['wait_seconds']:.2f} s",
            f"{row['waking_seconds']:.2f} s", f"{row['preempted_seconds']:.2f} s",
            f"[blue]{bar}[/]",
        )  # fmt: skip
    out.print(table)


def _print_pushes(out: Console, analysis: Json, show_all: bool) -> None:
    found = analysis["preemptions"]
    pairs = [row for row in found["pairs"] if show_all or row["lost_seconds"] >= SMALL_SECONDS]
    if not pairs:
        return
    total = f"{found['count']} times, {found['lost_seconds']:.2f} s lost; yields are not counted"
    heading(out, "Who pushed whom off a CPU", total)
    table = plain_table("pushed off", ">PID", "by", ">PID", ">times", ">lost")
    for row in pairs if show_all else pairs[:TOP_COUNT]:
        by = row["by"]
        table.add_row(
            _who(row["role"], row["name"]), str(row["pid"]), _by(by),
            "" if by["pid"] is None else str(by["pid"]), str(row["count"]),
            duration(row["lost_seconds"]),
        )  # fmt: skip
    out.print(table)


def _who(role: str, name: str) -> str:
    brief = name if len(name) <= NAME_CHARS else name[: NAME_CHARS - 1] + "…"
    return f"{safe(brief)} [dim]{safe(role)}[/]"


def _by(by: Json) -> str:
    if by["kind"] == "thread":
        return _who(by["role"], by["name"])
    if by["kind"] == "outsider":
        return _who("not the server's", by["name"])
    return "[dim]nobody: stopped by a quota, or moved[/]" if by["kind"] == "idle" else "?"


def _print_gil(out: Console, analysis: Json, show_all: bool) -> None:
    rows = [
        row for row in analysis["gil_cpu"]
        if show_all or (row["without_cpu_ratio"] or 0.0) >= SMALL_RATIO
        or (row["waited_seconds"] or 0.0) >= SMALL_SECONDS
    ]  # fmt: skip
    if not rows:
        return
    heading(out, "The GIL and the CPU", "the GIL held, and no CPU to run on: all who want it wait")
    table = plain_table("role", ">PID", ">held", ">held, no CPU", ">waited", ">for such a holder")
    for row in rows:
        table.add_row(
            safe(row["role"]), str(row["pid"]), f"{row['held_seconds']:.2f} s",
            f"{row['without_cpu_seconds']:.2f} s, {percent(row['without_cpu_ratio'])}",
            _seconds(row["waited_seconds"]), _seconds(row["stalled_waiter_seconds"]),
        )  # fmt: skip
    out.print(table)


def _print_demand(out: Console, analysis: Json) -> None:
    demand = analysis["cpu_demand"]
    if demand is None:
        return
    heading(out, "Threads and CPUs")
    at_least = "at least " if demand["is_lower_bound"] else ""
    text = f"threads that wanted a CPU: {at_least}{demand['mean_count']:.1f} on average"
    if demand["source"] == "switches":
        text += f", {demand['p95_count']:.0f} at the 95th percentile"
    allowed = demand["quota_cpu_count"] or demand["allowed_cpu_count"]
    if allowed is not None:
        text += f"; {allowed:g} CPUs allowed, too few {percent(demand['above_ratio'])} of the time"
    _say(out, text)
    host = analysis["host"]
    if host is not None:
        interrupts = percent(host["irq_ratio"] + host["softirq_ratio"])
        _say(
            out,
            f"the host: {percent(host['busy_ratio'])} busy, {percent(host['steal_ratio'])} stolen "
            f"by the hypervisor, {interrupts} in interrupts",
        )


def _print_quotas(out: Console, analysis: Json) -> None:
    for row in analysis["quotas"]:
        _say(
            out,
            f"CPU quota of {safe(row['cgroup'])}: {row['quota_cpu_count']:g} CPUs; stopped in "
            f"{percent(row['throttled_period_ratio'])} of periods, "
            f"{row['throttled_seconds']:.2f} s in all",
        )


def _print_memory(out: Console, analysis: Json) -> None:
    rows = [row for row in analysis["numa"] if len(row["nodes"]) > 1]
    if not rows:
        return
    heading(out, "Where memory is", "random pages of each process")
    table = plain_table("role", ">PID", "nodes", ">off the GPU's node")
    for row in rows:
        nodes = ", ".join(f"{one['node']}: {one['ratio']:.0%}" for one in row["nodes"])
        far = "" if row["far_ratio"] is None else (
            f"{row['far_ratio']:.0%} ({row['far_low_ratio']:.0%} to {row['far_high_ratio']:.0%})"
        )  # fmt: skip
        table.add_row(safe(row["role"]), str(row["pid"]), nodes, far)
    out.print(table)


def _print_counters(out: Console, analysis: Json, show_all: bool) -> None:
    rows = analysis["cpu_counters"]
    if not rows:
        return
    heading(out, "What the CPU counted", "few instructions a cycle: it waits for memory")
    table = plain_table(
        "role", ">PID", "thread", ">cycles", ">instr./cycle", ">misses/1000 instr.", ">remote loads"
    )
    for row in rows if show_all else rows[:TOP_COUNT]:
        table.add_row(
            safe(row["role"]), str(row["pid"]), safe(row["name"]), _number(row["cycles"], ".2e"),
            _number(row["instructions_per_cycle"], ".2f"),
            _number(row["llc_misses_per_1000_instructions"], ".2f"),
            percent(row["dram_remote_ratio"]),
        )  # fmt: skip
    out.print(table)


def _number(value: float | None, form: str) -> str:
    return "?" if value is None else format(value, form)


def _say(out: Console, text: str) -> None:
    out.print(Padding(text, (0, 0, 0, 2)))


def _seconds(value: float | None) -> str:
    return "?" if value is None else f"{value:.2f} s"
