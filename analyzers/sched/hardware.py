"""What the CPU's own counters say of each thread: instructions a cycle, misses, remote memory.

A thread with few instructions a cycle waits for memory while it "runs": neither more CPUs nor fewer
threads help it, nearer memory may.
"""

from __future__ import annotations

from typing import Any, Final

from analyzers.base import Analyzer, Outcome
from analyzers.sched.counter_series import read_series
from analyzers.timeline import Timeline
from collectors.host_counters import (
    CYCLES,
    DRAM_LOCAL,
    DRAM_REMOTE,
    INSTRUCTIONS,
    LLC_MISSES,
)

_COUNTED: Final = (CYCLES, INSTRUCTIONS, LLC_MISSES, DRAM_LOCAL, DRAM_REMOTE)
Counts = dict[str, float]


def run(timeline: Timeline) -> Outcome:
    """Report a row per thread whose cycles or instructions were counted, the busiest first."""
    rows = [_row(timeline, track, counts) for track, counts in _counts_by_track(timeline).items()]
    rows.sort(key=lambda row: -(row["cycles"] or 0.0))
    return Outcome({"cpu_counters": rows})


def _counts_by_track(timeline: Timeline) -> dict[int, Counts]:
    """Return how much each counter rose while its thread was watched; what never counted lacks."""
    found: dict[int, Counts] = {}
    for name in _COUNTED:
        for series in read_series(timeline, name):
            if series.track in timeline.threads and series.window_ns:
                found.setdefault(series.track, {})[name] = series.rise
    return found


def _row(timeline: Timeline, track: int, counts: Counts) -> dict[str, Any]:
    thread = timeline.threads[track]
    misses_ratio = _ratio(counts.get(LLC_MISSES), counts.get(INSTRUCTIONS))
    local, remote = counts.get(DRAM_LOCAL), counts.get(DRAM_REMOTE)
    loads = None if local is None or remote is None else local + remote
    return {
        "pid": thread.process.pid,
        "role": thread.process.role,
        "tid": thread.tid,
        "name": thread.name,
        "cycles": counts.get(CYCLES),
        "instructions": counts.get(INSTRUCTIONS),
        "instructions_per_cycle": _ratio(counts.get(INSTRUCTIONS), counts.get(CYCLES)),
        "llc_misses_per_1000_instructions": None if misses_ratio is None else misses_ratio * 1000,
        "dram_remote_ratio": _ratio(remote, loads),
    }


def _ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


ANALYZER: Final = Analyzer("cpu-counters", (), run)
