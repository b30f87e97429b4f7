"""CPU seconds per process, thread and stage: stacks say what, the scheduler says how much.

A sampler's word on whether a thread ran is poor: it calls sleepers active, and on a saturated host
it comes late. The scheduler's account of each thread is exact, but knows no stages. So the CPU time
of a thread between two looks at its counters is divided among the stages of the stacks that it
showed between them, by duration, waits left out. A thread that did not run gets nothing, whatever
its stack; and the stages of a thread always add up to what the scheduler accounted.

Where the sampler was slow, or its clock is uncertain, look intervals are first grouped until each
group spans `TICKS_PER_GROUP` ticks and the clock error: a share taken from one sample is noise. A
group in which a thread ran but showed only waits held work too short to be seen: it takes
the thread's own mix of stages within `NEAR_NS`, else of the whole capture. Where the sampler saw
nothing of the thread the time is `UNATTRIBUTED` (its gaps included: a stack from before a gap says
nothing about the gap), and for a thread that never runs Python (OpenMP, a tokenizer's pool, an
allocator) it is `NATIVE`.

What the join cannot do is divide within a group: a thread that blocks in a call of one stage and
runs in another, in turns of a few ms, shows both for as long as they last. (Fitting a running ratio
per stage to the counters was tried on made programs: it halved that error where turns took 15 ms,
did nothing at 2 ms, and doubled the error of threads that never block.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from analyzers.intervals import Intervals, Times, covered_before, difference, intervals
from analyzers.looks import Counters, counters_by_thread
from analyzers.stages import IDLE, UNKNOWN, StackStages, classify
from analyzers.timeline import Process, Runs, Thread, Timeline, runs_by_thread

Floats = NDArray[np.float64]

NATIVE: Final = "native"  # a thread that never runs Python
UNATTRIBUTED: Final = "unattributed"  # CPU time for which no stack was seen
NEAR_NS: Final = 1_000_000_000
# On made programs with turns of 3 to 30 ms, groups of 5 ticks gave long stages 2 points too much,
# groups of 10 half a point. More would only lose the scheduler's word on when the thread ran.
TICKS_PER_GROUP: Final = 10
UNNAMED: Final = frozenset({UNKNOWN, UNATTRIBUTED})


@dataclass(frozen=True, slots=True, eq=False)
class ThreadCpu:
    """One thread's CPU time. ``cells`` has for each stage the ns in each look interval."""

    thread: Thread
    counters: Counters
    cells: dict[str, Floats]
    sampled_ns: dict[str, int]  # sampled time per stage in which the thread ran at all
    has_stacks: bool

    @property
    def cpu_ns(self) -> int:
        """What the scheduler accounted."""
        return int(self.counters.run_ns.sum())

    def stage_ns(self) -> dict[str, float]:
        """Return the CPU time by stage: it adds up to ``cpu_ns``."""
        return {stage: float(cells.sum()) for stage, cells in self.cells.items()}

    def stage_ns_between(self, stages: frozenset[str], start_ns: int, end_ns: int) -> float:
        """Return the CPU time of these stages in a window; look intervals are cut in proportion."""
        shares = self.counters.shares_of(start_ns, end_ns)
        return sum(float((self.cells[stage] * shares).sum()) for stage in stages & set(self.cells))


@dataclass(frozen=True, slots=True, eq=False)
class CpuTime:
    """The CPU time of all threads whose counters were read."""

    threads: list[ThreadCpu]

    def of_process(self, process: Process) -> list[ThreadCpu]:
        """Return the threads of one process."""
        return [one for one in self.threads if one.thread.process is process]

    def of_role(self, role: str) -> list[ThreadCpu]:
        """Return the threads of all processes of a role."""
        return [one for one in self.threads if one.thread.process.role == role]


def measure_cpu(timeline: Timeline) -> CpuTime:
    """Join the thread counters of the capture with its stacks."""
    counters = timeline.once(counters_by_thread)
    runs = timeline.once(runs_by_thread)
    stages = timeline.once(classify)
    sampled = {timeline.threads[track].process.track for track in runs}
    unseen = {process: timeline.unseen(timeline.processes[process]) for process in sampled}
    threads = []
    for track, one in counters.items():
        thread = timeline.threads[track]
        process = thread.process.track
        if track in runs:
            width_ns = _group_width_ns(timeline, thread.process)
            threads.append(_join(thread, one, runs[track], stages, unseen[process], width_ns))
        else:
            threads.append(_without_stacks(thread, one, is_process_sampled=process in sampled))
    return CpuTime(threads)


def _group_width_ns(timeline: Timeline, process: Process) -> int:
    """Return over how long samples must be pooled to divide CPU time; 0 when nothing is known."""
    rate_hz = timeline.sampling_rate_hz(process)
    if rate_hz is None:
        return 0
    ticks_ns = TICKS_PER_GROUP * 1e9 / rate_hz
    return int(min(NEAR_NS, max(ticks_ns, 2 * timeline.sampling_clock_error_ns())))


def _without_stacks(thread: Thread, counters: Counters, *, is_process_sampled: bool) -> ThreadCpu:
    stage = NATIVE if is_process_sampled else UNATTRIBUTED
    cells = {stage: counters.run_ns.astype(np.float64)} if counters.run_ns.any() else {}
    return ThreadCpu(thread, counters, cells, {}, has_stacks=False)


def stage_totals(threads: Sequence[ThreadCpu]) -> dict[str, float]:
    """Return the CPU ns by stage of several threads, the largest first."""
    totals: dict[str, float] = {}
    for one in threads:
        for stage, cpu_ns in one.stage_ns().items():
            totals[stage] = totals.get(stage, 0.0) + cpu_ns
    return dict(sorted(totals.items(), key=lambda item: -item[1]))


def _join(
    thread: Thread, counters: Counters, runs: Runs, stages: StackStages, unseen: Intervals,
    group_width_ns: int,
) -> ThreadCpu:  # fmt: skip
    codes = stages.stage(thread.process.role, runs.stack)
    idle = stages.map.code(IDLE)
    working = [int(code) for code in np.unique(codes) if code != idle]
    seen = difference(intervals(runs.start, runs.end), unseen)
    by_stage = [
        difference(intervals(runs.start[codes == code], runs.end[codes == code]), unseen)
        for code in working
    ]
    names = [stages.map.stages[code] for code in working]
    cpu = counters.run_ns.astype(np.float64)
    first = _group_starts(counters.edges, group_width_ns)
    edges = counters.edges[np.append(first, len(cpu))]
    sizes = np.diff(first, append=len(cpu))
    overlap = _stack([np.diff(covered_before(one, edges)) for one in by_stage], len(first))
    shares = np.repeat(_shares(by_stage, seen, edges, overlap), sizes, axis=1)
    cells = {name: row * cpu for name, row in zip(names, shares, strict=True)}
    cells[UNATTRIBUTED] = np.where(shares.any(axis=0), 0.0, cpu)
    ran = np.add.reduceat(counters.run_ns, first) > 0
    return ThreadCpu(
        thread,
        counters,
        {stage: row for stage, row in cells.items() if row.any()},
        {name: int(row[ran].sum()) for name, row in zip(names, overlap, strict=True)},
        has_stacks=True,
    )


def _shares(by_stage: list[Intervals], seen: Intervals, edges: Times, overlap: Times) -> Floats:
    """Return each stage's share of each group, by stage and group; all zero where none is known."""
    nearby = _stack([_nearby(one, edges) for one in by_stage], len(edges) - 1)
    overall = np.array([one.total() for one in by_stage], np.float64)[:, None]
    weights = np.where(overlap.any(axis=0), overlap, np.where(nearby.any(axis=0), nearby, overall))
    totals = weights.sum(axis=0)
    is_attributed = (_nearby(seen, edges) > 0) & (totals > 0)
    shares: Floats = np.where(is_attributed, weights, 0.0) / np.where(totals > 0, totals, 1.0)
    return shares


def _group_starts(edges: Times, width_ns: int) -> NDArray[np.intp]:
    """Return the index of the first interval in each stretch of ``width_ns`` that has one."""
    begins = edges[:-1] - edges[0]
    number = begins // max(width_ns, 1)
    return np.flatnonzero(np.diff(number, prepend=-1) > 0)


def _nearby(one: Intervals, edges: Times) -> Times:
    """Return how much of ``one`` lies within `NEAR_NS` of each look interval."""
    return covered_before(one, edges[1:] + NEAR_NS) - covered_before(one, edges[:-1] - NEAR_NS)


def _stack(rows: list[Times], width: int) -> Times:
    """Return the rows as one matrix, also when there are none."""
    return np.stack(rows) if rows else np.zeros((0, width), np.int64)
