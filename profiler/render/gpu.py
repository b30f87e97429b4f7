"""What each GPU did and why it was idle, as terminal tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Console
from rich.padding import Padding

from profiler.render.console import percent, plain_table, safe

Json = Mapping[str, Any]

BAR_WIDTH: Final = 30
NAME_WIDTH: Final = 58
TOP_KERNELS: Final = 6
TOP_SITES: Final = 5
TOP_CAUSES: Final = 4
SMALL_RATIO: Final = 0.005
ENOUGH_EXPLAINED: Final = 0.8

RUNGS: Final = {
    "kernel_trace": "from a trace of the kernels",
    "gpu_busy_counter": "from the driver's own counter, ten times a second",
    "device_sync_frames": "from stacks that wait for the GPU: at least that busy",
    "server_counters": "from the server's counters: at most that busy",
    "model_on_cpu": "no GPU: the model runs on this host's CPUs, seen in its stacks",
}
WINDOWS: Final = {
    "requests": "while a request was in flight",
    "server_counters": "while the server had a request, by its counters",
    "capture": "over the whole capture",
}
CLASSES: Final = {
    "under_10us": "under 10 us",
    "10us_to_100us": "10 to 100 us",
    "100us_to_1ms": "100 us to 1 ms",
    "over_1ms": "over 1 ms",
}
CAUSES: Final = {
    "queued": ("queued", "launched; waits for the GPU"),
    "graph_replay": ("graph", "between kernels of one replay"),
    "launch_latency": ("launch latency", "from the call to the kernel"),
    "launch_call": ("launch call", "launching itself"),
    "device_sync": ("waits for the GPU", "in a call that synchronises"),
    "runtime_call": ("runtime call", "another call of the runtime"),
    "gil_wait": ("GIL wait", ""),
    "run_queue": ("no CPU", "ready to run"),
    "ipc": ("IPC", "messages of other processes"),
    "spin_wait": ("spin wait", "for another process"),
    "idle": ("waits", "for work or an answer"),
    "python": ("Python", "its own code"),
    "operator": ("operators", "the framework's host side"),
    "no_request": ("no request", ""),
    "unexplained": ("unexplained", ""),
}
# Bright first: the parts of a GPU's time, in the order of its bar.
_PARTS: Final = (
    ("compute", "compute_ns", "green"),
    ("comm", "exposed_communication_ns", "magenta"),
    ("memcpy", "exposed_memcpy_ns", "blue"),
)


def print_gpu(out: Console, analysis: Json, *, show_all: bool = False) -> None:
    """Print the sections ``gpu_split`` and ``gpu``; nothing where neither knows of a GPU."""
    split, devices = analysis.get("gpu_split") or {}, analysis.get("gpu") or []
    if split.get("rung") is not None and (devices or split["rung"] != "kernel_trace"):
        _print_split(out, split, show_all)
    if devices:
        _print_devices(out, devices)
        for device in devices:
            _print_device(out, device, show_all)


def _print_split(out: Console, split: Json, show_all: bool) -> None:
    window = split["window"]
    out.print(
        f"\n[bold]How busy the GPUs were[/]  [dim]{WINDOWS[window['basis']]}, "
        f"{_seconds(window['seconds'])}[/]"
    )
    table = plain_table("", ">busy", ">idle", "")
    for row in split["devices"]:
        ratio = row["busy_ratio"]
        idle = None if row["idle_ns"] is None else row["idle_ns"] / 1e9
        shown = ratio if ratio is not None else row["low_ratio"] or row["high_ratio"]
        table.add_row(
            _name(row), _bounded(row), "?" if idle is None else _seconds(idle),
            _bar([(shown or 0.0, "green")]),
        )  # fmt: skip
    out.print(table)
    out.print(f"  {RUNGS[split['rung']]}", style="dim")
    if show_all:
        for rung in split["rungs"]:
            if rung["reason"] is not None:
                out.print(f"  not {RUNGS[rung['rung']]}: {safe(rung['reason'])}", style="dim")


def _bounded(row: Json) -> str:
    if row["busy_ratio"] is not None:
        return percent(row["busy_ratio"])
    if row["low_ratio"] is not None:
        return f"at least {percent(row['low_ratio'])}"
    return f"at most {percent(row['high_ratio'])}"


def _print_devices(out: Console, devices: Sequence[Json]) -> None:
    legend = ", ".join(f"[{colour}]{name}[/]" for name, _, colour in _PARTS)
    out.print(f"\n[bold]What each GPU did[/]  [dim]from its first work to its last;[/] {legend}")
    table = plain_table(
        "", ">span", ">busy", ">idle", ">compute", ">comm", ">memcpy", ">kernels", ""
    )
    for row in devices:
        span_ns = max(1, row["span_ns"])
        table.add_row(
            _short(row), _time(row["span_ns"]), percent(row["busy_ratio"]), _time(row["idle_ns"]),
            _time(row["compute_ns"]), _time(row["communication_ns"]), _time(row["memcpy_ns"]),
            f"{row['kernel_count']:,}",
            _bar([(row[key] / span_ns, colour) for _, key, colour in _PARTS], 16),
        )  # fmt: skip
    out.print(table)


def _print_device(out: Console, device: Json, show_all: bool) -> None:
    _print_launches(out, device)
    if device["gaps"] is None:
        out.print(f"  its idle time is not believed: {safe(device['gaps_reason'])}", style="dim")
    elif device["gaps"]["count"]:
        _print_gaps(out, device, show_all)
    _print_kernels(out, device, show_all)
    if device["peers_differ"]:
        out.print(Padding(f"[dim]{safe(device['peers_differ'])}[/]", (0, 0, 0, 2)))


def _print_launches(out: Console, device: Json) -> None:
    launch = device["launch"]
    parts = []
    if launch["latency"] is not None:
        latency, queue = launch["latency"], launch["queue"]
        parts.append(
            f"launch to start p50 {_time(latency['p50_ns'])}, p99 {_time(latency['p99_ns'])}"
        )
        if queue is not None:
            parts.append(f"{queue['mean_depth']:,.1f} launched and waiting on average")
    if launch["known_ratio"] < 1:
        parts.append(f"the launch of {percent(launch['known_ratio'])} of its work is known")
    graph = launch["graph"]
    if graph["call_count"]:
        parts.append(
            f"{graph['call_count']:,} graph replays, kernels seen of "
            f"{percent(graph['coverage_ratio'])}"
        )
    out.print(f"\n[bold]{_name(device)}[/]" + (f"  [dim]{'; '.join(parts)}[/]" if parts else ""))


def _print_gaps(out: Console, device: Json, show_all: bool) -> None:
    gaps = device["gaps"]
    shown = [row for row in gaps["causes"] if row["share_ratio"] >= SMALL_RATIO or show_all]
    kept = shown if show_all else shown[:TOP_CAUSES]
    headings = [CAUSES[row["cause"]][0] for row in kept]
    table = plain_table("idle", ">gaps", ">in all", *[f">{name}" for name in headings])
    for one in gaps["classes"]:
        if one["count"]:
            ns = {row["cause"]: row["ns"] for row in one["causes"]}
            cells = [_time(ns[row["cause"]]) if row["cause"] in ns else "" for row in kept]
            table.add_row(
                CLASSES[one["class"]], f"{one['count']:,}", _time(one["total_ns"]), *cells
            )
    shares = [percent(row["share_ratio"]) for row in kept]
    table.add_row("[bold]all[/]", f"{gaps['count']:,}", _time(gaps["idle_ns"]), *shares)
    out.print(Padding(table, (0, 0, 0, 2)))
    _print_notes(out, shown, kept)
    _print_sites(out, gaps, show_all)
    _print_looks(out, gaps)


def _print_notes(out: Console, shown: Sequence[Json], kept: Sequence[Json]) -> None:
    """Say what the columns mean, and which causes have none."""
    named = [(CAUSES[row["cause"]][0], row) for row in shown[len(kept) :]]
    notes = [f"{name}: {note}" for name, note in (CAUSES[row["cause"]] for row in kept) if note]
    if named:
        rest = (f"{name} {percent(row['share_ratio'])}" for name, row in named)
        notes.append("also " + ", ".join(rest))
    if notes:
        out.print(Padding(f"[dim]{'; '.join(notes)}[/]", (0, 0, 0, 2)))


def _print_sites(out: Console, gaps: Json, show_all: bool) -> None:
    sites = [row for row in gaps["sites"] if row["share_ratio"] >= SMALL_RATIO or show_all]
    if not sites:
        return
    table = plain_table("the launching thread was in", "stage", "", ">idle", ">share")
    for row in sites if show_all else sites[:TOP_SITES]:
        table.add_row(
            _place(row), safe(row["stage"] or ""), CAUSES[row["cause"]][0], _time(row["ns"]),
            percent(row["share_ratio"]),
        )  # fmt: skip
    out.print(Padding(table, (1, 0, 0, 2)))


def _print_looks(out: Console, gaps: Json) -> None:
    """Say what was seen in gaps, where too little of them could be told one by one."""
    looks, explained = gaps["looks"], gaps["explained_ratio"]
    if looks["count"] and explained is not None and explained < ENOUGH_EXPLAINED:
        seen = ", ".join(
            f"{_place(row)} {percent(row['ratio'])}" for row in looks["seen"][:TOP_CAUSES]
        )
        text = f"of {looks['count']:,} looks at the launching thread's stack in gaps: {seen}"
        out.print(Padding(f"[dim]{text}[/]", (0, 0, 0, 2)))


def _place(row: Json) -> str:
    file = None if row["function"] is None else _tail(row["file"])
    parts = [row["function"], file, row.get("call")]
    text = " ".join(part for part in parts if part)
    return safe(_cut(text, NAME_WIDTH - 14))


def _tail(file: str | None) -> str:
    return "" if not file else "/".join(file.split("/")[-2:])


def _print_kernels(out: Console, device: Json, show_all: bool) -> None:
    kernels = device["kernels"] if show_all else device["kernels"][:TOP_KERNELS]
    if not kernels:
        return
    table = plain_table("kernel", ">launches", ">mean", ">total", ">of busy")
    for row in kernels:
        table.add_row(
            safe(_cut(row["name"], NAME_WIDTH)), f"{row['launch_count']:,}",
            _time(row["mean_ns"]), _time(row["total_ns"]), percent(row["busy_ratio"]),
        )  # fmt: skip
    out.print(Padding(table, (1, 0, 0, 2)))


def _short(row: Json) -> str:
    rank = "" if row["rank"] is None else f" rank {row['rank']}"
    return f"GPU {'?' if row['device'] is None else row['device']}{rank}"


def _name(row: Json) -> str:
    if row["device"] is None:
        name = row["name"] or "GPU"
        return safe(name if row.get("pid") is None else f"{name} PID {row['pid']}")
    return safe(_cut(f"{_short(row)} {row['name']}".strip(), 40))


def _bar(parts: Sequence[tuple[float, str]], width: int = BAR_WIDTH) -> str:
    """Return blocks of a share of the width each, rounded so that the whole keeps its length."""
    drawn, reached, text = 0, 0.0, ""
    for ratio, colour in parts:
        reached += ratio
        blocks = min(width, round(reached * width)) - drawn
        drawn += blocks
        text += f"[{colour}]{'█' * blocks}[/]"
    return text + f"[dim]{'░' * (width - drawn)}[/]"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def _seconds(value: float) -> str:
    return f"{value:,.1f} s" if value >= 10 else _time(value * 1e9)


def _time(ns: float) -> str:
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if abs(ns) >= size:
            value = ns / size
            return f"{value:.3g} {unit}" if abs(value) < 999.5 else f"{value:,.0f} {unit}"
    return f"{ns:.0f} ns"
