"""Busy waiting by sched_yield(2): threads that give way and come back at once.

The kernel books such a switch as involuntary, like a real preemption; only switches that say why
tell them apart. A yield that finds nobody else to run makes no switch and is not seen here.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from analyzers.cpu_time import measure_cpu
from analyzers.findings import Finding, Quantity, Rank
from analyzers.sched.histories import read_histories
from analyzers.stages import SPIN_WAIT
from analyzers.timeline import Process, Timeline
from collectors.cpu_slices import PREEMPTED, YIELDED

# vLLM's shared-memory wait makes 140,000 and more a second; a lock makes a handful.
STORM_HZ: Final = 1_000.0
# Of a CPU: what storms on less is not worth a line.
NOTABLE_RATIO: Final = 0.05


def yield_rows(timeline: Timeline) -> list[dict[str, Any]]:
    """Return a row per process that gave way at all, the most often first."""
    histories = timeline.once(read_histories)
    window_s = histories.window_ns / 1e9
    # A stay's reason to leave stands at the stay after it.
    is_yield, is_push = (histories.why == one for one in (YIELDED, PREEMPTED))
    ran = np.roll(histories.end - histories.start, 1)
    columns = {
        "yields": histories.sums(is_yield),
        "pushes": histories.sums(is_push),
        "ran": histories.sums(np.where(is_yield, ran, 0)),
        "away": histories.sums(np.where(is_yield, histories.start - histories.left, 0)),
    }
    of: dict[int, dict[str, int]] = {}
    for place, track in enumerate(histories.threads):
        process = timeline.threads[track].process.track
        cell = of.setdefault(process, dict.fromkeys(columns, 0))
        for name, column in columns.items():
            cell[name] += int(column[place])
    rows = [
        {
            "pid": timeline.processes[track].pid,
            "role": timeline.processes[track].role,
            "yield_count": cell["yields"],
            "yield_rate_hz": cell["yields"] / window_s if window_s else None,
            "preempted_count": cell["pushes"],
            # Stays that ended by giving way: what the waiting burnt, at least.
            "cpu_seconds": cell["ran"] / 1e9,
            "away_seconds": cell["away"] / 1e9,
            "spin_wait_seconds": _spin_seconds(timeline, timeline.processes[track]),
        }
        for track, cell in of.items()
        if cell["yields"]
    ]
    return sorted(rows, key=lambda row: -row["yield_count"])


def _spin_seconds(timeline: Timeline, process: Process) -> float | None:
    """Return the CPU time in the stage of busy waiting; None where no stacks were seen."""
    threads = [one for one in timeline.once(measure_cpu).of_process(process) if one.has_stacks]
    if not threads:
        return None
    return sum(one.stage_ns().get(SPIN_WAIT, 0.0) for one in threads) / 1e9


def finding(timeline: Timeline) -> Finding | None:
    """Return the claim that processes wait by yielding; None where none does notably."""
    window_s = timeline.once(read_histories).window_ns / 1e9
    rows = [
        row
        for row in timeline.once(yield_rows)
        if (row["yield_rate_hz"] or 0.0) >= STORM_HZ
        and row["cpu_seconds"] >= NOTABLE_RATIO * window_s
    ]
    if not rows:
        return None
    first = rows[0]
    burnt = sum(row["cpu_seconds"] for row in rows)
    return Finding(
        "yield-storm",
        f"{_processes(rows)} by giving up the CPU and taking it again, "
        f"{first['yield_rate_hz']:,.0f} times a second in the {first['role']} "
        f"(PID {first['pid']}): {burnt:.2f} s of CPU time in all. The kernel counts these "
        "switches as involuntary; they are no preemptions.",
        Rank.CPU_TIME,
        Quantity(burnt, "s"),
        rows,
        ("a yield that found nobody else to run made no switch and is not counted",),
        cost_seconds=burnt,
    )


def _processes(rows: list[dict[str, Any]]) -> str:
    return "One process waits" if len(rows) == 1 else f"{len(rows)} processes wait"
