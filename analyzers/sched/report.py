"""What context switches tell: the account of threads, who pushed whom off, yields, the GIL."""

from __future__ import annotations

from typing import Any, Final

from analyzers.base import Analyzer, Outcome
from analyzers.findings import abstention
from analyzers.sched import demand, gil_cpu, preemptions, yields
from analyzers.sched.account import role_rows, thread_rows
from analyzers.sched.agreement import PROBE, disagreement
from analyzers.sched.histories import read_histories
from analyzers.sched.occupants import occupant_rows
from analyzers.sched.stage_waits import stage_rows
from analyzers.sched.totals import measure_totals
from analyzers.sched.wait_series import measure_series
from analyzers.timeline import Timeline


def run(timeline: Timeline) -> Outcome:
    """Report the switches; findings where threads lost time to others."""
    histories = timeline.once(read_histories)
    if not len(histories):
        return Outcome(findings=[abstention("context-switches", "no switch of the target's threads "
                                            "was seen", "record for longer")])  # fmt: skip
    found = [
        preemptions.finding(timeline),
        yields.finding(timeline),
        disagreement(timeline),
        *gil_cpu.findings(timeline),
    ]
    sections = {
        "switches": _summary(timeline),
        "sched_threads": thread_rows(timeline),
        "sched_roles": role_rows(timeline),
        "sched_stages": stage_rows(timeline),
        "preemptions": preemptions.section(timeline),
        "occupants": occupant_rows(timeline),
        "yields": timeline.once(yields.yield_rows),
        "gil_cpu": gil_cpu.rows(timeline),
    }
    return Outcome(sections, [one for one in found if one is not None])


def _summary(timeline: Timeline) -> dict[str, Any]:
    histories = timeline.once(read_histories)
    window_s = histories.window_ns / 1e9
    totals = timeline.once(measure_totals)
    wakes = [one.wake.value for one in totals]
    gaps = [one for one in timeline.capture.table("gaps").to_pylist() if one["probe"] == PROBE]
    counts = [one["lost_count"] for one in gaps]
    # The thread with the most wake-ups says how they are known; a thread that slept says little.
    most = max(totals, key=lambda one: one.blocked_count)
    return {
        "slice_count": len(histories),
        "thread_count": len(totals),
        "window_seconds": window_s,
        "slice_rate_hz": len(histories) / window_s if window_s else None,
        "wake": most.wake.value,
        "wakes": {wake: wakes.count(wake) for wake in sorted(set(wakes))},
        "gap_count": len(gaps),
        "lost_count": None if None in counts else sum(counts),
    }


def run_demand(timeline: Timeline) -> Outcome:
    """Report waits over time, and how many threads wanted a CPU at once."""
    claim = demand.finding(timeline)
    return Outcome(
        {"cpu_demand": timeline.once(demand.section), "wait_series": measure_series(timeline)},
        [] if claim is None else [claim],
    )


ANALYZER: Final = Analyzer("context-switches", ("cpu_slices",), run)
DEMAND: Final = Analyzer("cpu-demand", (), run_demand)
