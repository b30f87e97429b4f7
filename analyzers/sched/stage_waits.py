"""In which stage a thread was when it waited for a CPU: waits joined with stacks by time.

A stack that shows a wait (``idle``, ``ipc_recv``) while the thread waits for a CPU means that it
was woken from that wait and had not run yet.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analyzers.cpu_time import NATIVE, UNATTRIBUTED
from analyzers.intervals import Intervals, covered_before, difference, intervals
from analyzers.sched.histories import read_histories
from analyzers.stages import classify
from analyzers.timeline import Process, Thread, Timeline, runs_by_thread
from collectors.cpu_slices import BLOCKED, PREEMPTED, YIELDED

# What a thread had left its CPU for, before it waited for one.
REASONS = {"waking": BLOCKED, "preempted": PREEMPTED, "yielded": YIELDED}


@dataclass(frozen=True, slots=True)
class StageWaits:
    """One role's waits for a CPU in one stage, ns."""

    role: str
    stage: str
    ns: dict[str, int]  # by `REASONS`

    @property
    def wait_ns(self) -> int:
        """All but the time after a thread gave way by itself."""
        return self.ns["waking"] + self.ns["preempted"]


def measure_stage_waits(timeline: Timeline) -> list[StageWaits]:
    """Return the waits by role and stage, the longest first; a role's add up to its threads'.

    Waits that no event told (`analyzers.sched.totals`) have no time, so they are not in here.
    """
    histories = timeline.once(read_histories)
    sums: dict[tuple[str, str], dict[str, int]] = {}
    for place, track in enumerate(histories.threads):
        thread = timeline.threads[track]
        for reason, why in REASONS.items():
            waits = histories.waits(place, of=(why,))
            for stage, ns in split_by_stage(timeline, thread, waits).items():
                cell = sums.setdefault((thread.process.role, stage), dict.fromkeys(REASONS, 0))
                cell[reason] += ns
    found = [StageWaits(role, stage, ns) for (role, stage), ns in sums.items()]
    return sorted(found, key=lambda one: -one.wait_ns)


def split_by_stage(timeline: Timeline, thread: Thread, times: Intervals) -> dict[str, int]:
    """Return the ns of ``times`` in which a thread was in each stage; they add up."""
    total = times.total()
    if not total:
        return {}
    found = {}
    for stage, shown in stage_times(timeline, thread).items():
        ns = int((covered_before(times, shown.end) - covered_before(times, shown.start)).sum())
        if ns:
            found[stage] = ns
    left = total - sum(found.values())
    if left:
        rest = _unseen_stage(timeline, thread)
        found[rest] = found.get(rest, 0) + left
    return found


def stage_times(timeline: Timeline, thread: Thread) -> dict[str, Intervals]:
    """Return when a thread's stacks were of each stage; nothing where nobody saw them."""
    return timeline.once(_stage_times).get(thread.track, {})


def _stage_times(timeline: Timeline) -> dict[int, dict[str, Intervals]]:
    stages = timeline.once(classify)
    unseen = timeline.once(_unseen)
    found: dict[int, dict[str, Intervals]] = {}
    for track, runs in timeline.once(runs_by_thread).items():
        process = timeline.threads[track].process
        codes = stages.stage(process.role, runs.stack)
        found[track] = {
            stages.map.stages[code]: difference(
                intervals(runs.start[codes == code], runs.end[codes == code]),
                unseen[process.track],
            )
            for code in np.unique(codes).tolist()
        }
    return found


def _unseen_stage(timeline: Timeline, thread: Thread) -> str:
    """Return what stands for the stage of a thread when no stack of it was seen."""
    if thread.track in timeline.once(runs_by_thread):
        return UNATTRIBUTED
    return NATIVE if thread.process.track in timeline.once(_unseen) else UNATTRIBUTED


def _unseen(timeline: Timeline) -> dict[int, Intervals]:
    """Return for each process whose stacks were looked at when they were not."""
    looked_at: dict[int, Process] = {}
    for track in timeline.once(runs_by_thread):
        process = timeline.threads[track].process
        looked_at[process.track] = process
    return {track: timeline.unseen(process) for track, process in looked_at.items()}


def stage_rows(timeline: Timeline) -> list[dict[str, object]]:
    """Return the rows of the document."""
    return [
        {
            "role": one.role,
            "stage": one.stage,
            "wait_seconds": one.wait_ns / 1e9,
            **{f"{reason}_seconds": ns / 1e9 for reason, ns in one.ns.items()},
        }
        for one in timeline.once(measure_stage_waits)
    ]
