"""What the CPU time says: rows per process, thread and stage, coverage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from analyzers.base import Analyzer, Outcome, missing
from analyzers.cpu_findings import cpu_findings, sample_count
from analyzers.cpu_time import (
    UNNAMED,
    CpuTime,
    ThreadCpu,
    measure_cpu,
    stage_totals,
)
from analyzers.findings import abstention
from analyzers.stages import SPIN_WAIT, UNKNOWN, classify
from analyzers.statistics import wilson
from analyzers.timeline import Timeline, runs_by_thread

UNKNOWN_SHOWN_COUNT: Final = 5


def run(timeline: Timeline) -> Outcome:
    """Report where the CPU time went."""
    cpu = timeline.once(measure_cpu)
    if not cpu.threads:
        return Outcome(findings=[abstention("cpu-time", "the thread counters were read only once",
                                            "record for longer")])  # fmt: skip
    roles = sorted({one.thread.process.role for one in cpu.threads})
    findings = [] if timeline.once(runs_by_thread) else [missing("stages", "samples", timeline)]
    findings += cpu_findings(timeline, cpu)
    return Outcome(
        {
            "threads": _thread_rows(cpu),
            "stages": [
                row for role in roles for row in _stage_rows(timeline, role, cpu.of_role(role))
            ],
            "coverage": [_coverage(timeline, role, cpu.of_role(role)) for role in roles],
        },
        findings,
    )


def process_rows(timeline: Timeline) -> list[dict[str, Any]]:
    """Return every process of the target with its CPU seconds; null where nobody counted."""
    cpu = timeline.once(measure_cpu)
    rows = []
    for process in timeline.processes.values():
        threads = cpu.of_process(process)
        rows.append(
            {
                "pid": process.pid,
                "role": process.role,
                "rank": process.rank,
                "name": process.name,
                "cpu_seconds": sum(one.cpu_ns for one in threads) / 1e9 if threads else None,
                "thread_count": len(timeline.threads_of(process)),
            }
        )
    return rows


def _thread_rows(cpu: CpuTime) -> list[dict[str, Any]]:
    rows = [
        {
            "pid": one.thread.process.pid,
            "role": one.thread.process.role,
            "tid": one.thread.tid,
            "name": one.thread.name,
            "cpu_seconds": one.cpu_ns / 1e9,
            "cpu_ratio": one.cpu_ns / one.counters.observed_ns,
            "has_python_stacks": one.has_stacks,
            "stages": [
                {"stage": stage, "cpu_seconds": cpu_ns / 1e9}
                for stage, cpu_ns in stage_totals([one]).items()
            ],
        }
        for one in cpu.threads
    ]
    return sorted(rows, key=lambda row: -row["cpu_seconds"])


def _stage_rows(
    timeline: Timeline, role: str, threads: Sequence[ThreadCpu]
) -> list[dict[str, Any]]:
    """Return a role's stages. The interval of a share is that of its number of samples."""
    total_ns = sum(one.cpu_ns for one in threads)
    count = sample_count(timeline, threads)
    rows = []
    for stage, cpu_ns in stage_totals(threads).items():
        share = cpu_ns / total_ns
        low, high = wilson(share, count) if count is not None else (None, None)
        rows.append(
            {
                "role": role,
                "stage": stage,
                "cpu_seconds": cpu_ns / 1e9,
                "share_ratio": share,
                "share_low": low,
                "share_high": high,
                "is_wait": stage == SPIN_WAIT,
            }
        )
    return rows


def _coverage(timeline: Timeline, role: str, threads: Sequence[ThreadCpu]) -> dict[str, Any]:
    """Return how much of a role's work has a name.

    ``classified_ratio`` is of the sampled time in which the thread ran and showed no wait (neither
    idle nor spinning); ``cpu_classified_ratio`` is of the CPU time of threads that run Python.
    """
    processes = sorted({one.thread.process.pid for one in threads})
    count = sample_count(timeline, threads)
    python = [one for one in threads if one.has_stacks]
    totals = stage_totals(python)
    cpu_ns = sum(totals.values())
    named_ns = cpu_ns - sum(totals.get(stage, 0.0) for stage in UNNAMED)
    return {
        "role": role,
        "classified_ratio": _classified(threads),
        "cpu_classified_ratio": named_ns / cpu_ns if cpu_ns else None,
        "sample_count": None if count is None else round(count),
        "sampled_seconds": sum(_sampled(threads).values()) / 1e9,
        "processes": [
            {
                "pid": pid,
                "classified_ratio": _classified(
                    [one for one in threads if one.thread.process.pid == pid]
                ),
            }
            for pid in processes
        ],
        "unknown": _unknown_leaves(timeline, python),
    }


def _sampled(threads: Sequence[ThreadCpu]) -> dict[str, int]:
    totals: dict[str, int] = {}
    for one in threads:
        for stage, sampled_ns in one.sampled_ns.items():
            if stage != SPIN_WAIT:
                totals[stage] = totals.get(stage, 0) + sampled_ns
    return totals


def _classified(threads: Sequence[ThreadCpu]) -> float | None:
    """Return the named share of the sampled work; None when no work was sampled."""
    totals = _sampled(threads)
    sampled_ns = sum(totals.values())
    return 1 - totals.get(UNKNOWN, 0) / sampled_ns if sampled_ns else None


def _unknown_leaves(timeline: Timeline, threads: Sequence[ThreadCpu]) -> list[dict[str, Any]]:
    """Return the functions that unknown stacks were in most, for whoever extends the rules."""
    stages = timeline.once(classify)
    runs = timeline.once(runs_by_thread)
    per_stack: dict[int, float] = {}
    for one in threads:
        if not one.sampled_ns.get(UNKNOWN):
            continue
        own = runs[one.thread.track]
        is_unknown = stages.stage(one.thread.process.role, own.stack) == 0
        lengths = (own.end - own.start)[is_unknown]
        found, place = np.unique(own.stack[is_unknown], return_inverse=True)
        for stack, length in zip(found.tolist(), np.bincount(place, lengths), strict=True):
            per_stack[stack] = per_stack.get(stack, 0.0) + float(length)
    leaves: dict[tuple[str, str], float] = {}
    for stack, length in per_stack.items():
        frame = stages.leaves.get(stack, ("", ""))
        leaves[frame] = leaves.get(frame, 0) + length
    largest = sorted(leaves.items(), key=lambda item: -item[1])[:UNKNOWN_SHOWN_COUNT]
    return [
        {"function": function, "file": file, "sampled_seconds": length / 1e9}
        for (function, file), length in largest
    ]


ANALYZER: Final = Analyzer("cpu-time", ("thread_counters",), run)
