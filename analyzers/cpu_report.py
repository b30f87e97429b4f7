"""What the CPU time says: rows per process, thread and stage, coverage, and two findings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from analyzers.base import Analyzer, Outcome, missing
from analyzers.cpu_time import (
    NATIVE,
    UNATTRIBUTED,
    UNNAMED,
    CpuTime,
    ThreadCpu,
    measure_cpu,
    stage_totals,
)
from analyzers.findings import Finding, Quantity, Rank
from analyzers.stages import SPIN_WAIT, UNKNOWN, classify
from analyzers.statistics import wilson
from analyzers.timeline import Timeline, runs_by_thread

NOTABLE_SPIN_RATIO: Final = 0.05  # of the CPU time of the whole target
UNKNOWN_SHOWN_COUNT: Final = 5
# With fewer samples than this a share's 95 % interval is up to 20 points wide.
FEW_SAMPLES: Final = 100
NOTABLE_ROLE_RATIO: Final = 0.05  # of the CPU time of the whole target
STAGE_CAVEATS: Final = (
    "stages come from sampled stacks, weighted by the scheduler's account of each thread",
    "work below a frame that looks like a wait (libuv under uvloop) takes its thread's mix",
)


def run(timeline: Timeline) -> Outcome:
    """Report where the CPU time went."""
    cpu = timeline.once(measure_cpu)
    roles = sorted({one.thread.process.role for one in cpu.threads})
    findings = [] if timeline.once(runs_by_thread) else [missing("stages", "samples", timeline)]
    findings += _findings(cpu)
    findings += [one for role in roles if (one := _few_samples(timeline, role, cpu)) is not None]
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
    count = _sample_count(timeline, threads)
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


def _sample_count(timeline: Timeline, threads: Sequence[ThreadCpu]) -> float | None:
    """Return about how many times the sampler saw these threads at work or spinning."""
    count = 0.0
    for one in threads:
        rate_hz = timeline.sampling_rate_hz(one.thread.process)
        if rate_hz is None:
            return None
        count += sum(one.sampled_ns.values()) / 1e9 * rate_hz
    return count


def _coverage(timeline: Timeline, role: str, threads: Sequence[ThreadCpu]) -> dict[str, Any]:
    """Return how much of a role's work has a name.

    ``classified_ratio`` is of the sampled time in which the thread ran and showed no wait (neither
    idle nor spinning); ``cpu_classified_ratio`` is of the CPU time of threads that run Python.
    """
    processes = sorted({one.thread.process.pid for one in threads})
    count = _sample_count(timeline, threads)
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


def _few_samples(timeline: Timeline, role: str, cpu: CpuTime) -> Finding | None:
    """Return the warning that a role's stages rest on few samples."""
    threads = cpu.of_role(role)
    count = _sample_count(timeline, threads)
    cpu_seconds = sum(one.cpu_ns for one in threads) / 1e9
    total_seconds = sum(one.cpu_ns for one in cpu.threads) / 1e9
    if count is None or count >= FEW_SAMPLES or cpu_seconds < NOTABLE_ROLE_RATIO * total_seconds:
        return None
    return Finding(
        "few-samples",
        f"The stages of the {role} rest on about {count:.0f} samples of it at work: read their "
        "shares with their intervals.",
        Rank.QUALITY,
        Quantity(count, "samples"),
        {"role": role, "cpu_seconds": cpu_seconds},
        ("a recorder that gets no CPU sees less and may miss short stages altogether",),
    )


def _findings(cpu: CpuTime) -> list[Finding]:
    total_ns = sum(one.cpu_ns for one in cpu.threads)
    if not total_ns:
        return []
    findings = []
    spin: list[dict[str, Any]] = [
        {
            "pid": one.thread.process.pid,
            "role": one.thread.process.role,
            "tid": one.thread.tid,
            "name": one.thread.name,
            "spin_seconds": spin_ns / 1e9,
        }
        for one in cpu.threads
        if (spin_ns := one.stage_ns().get(SPIN_WAIT, 0.0))
    ]
    spin.sort(key=lambda row: -row["spin_seconds"])
    spin_seconds = sum(row["spin_seconds"] for row in spin)
    if spin_seconds * 1e9 >= NOTABLE_SPIN_RATIO * total_ns:
        findings.append(_spinning(spin, spin_seconds, total_ns))
    findings.append(_largest(cpu, total_ns))
    return findings


def _spinning(rows: list[dict[str, Any]], spin_seconds: float, total_ns: int) -> Finding:
    ratio = spin_seconds * 1e9 / total_ns
    first = rows[0]
    return Finding(
        "spin-wait",
        f"{spin_seconds:.2f} s of CPU time ({ratio:.0%}) went into waiting in a busy loop, most of "
        f"it in {first['name'] or first['tid']} of the {first['role']} (PID {first['pid']}): "
        "neither work nor idle, and not there for others on a full machine.",
        Rank.CPU_TIME,
        Quantity(spin_seconds, "s"),
        rows[:8],
        STAGE_CAVEATS[:1],
        cost_seconds=spin_seconds,
    )


def _largest(cpu: CpuTime, total_ns: int) -> Finding:
    """Return the finding that names the stage of work that took the most CPU time."""
    pieces = [
        (cpu_ns, stage, one)
        for one in cpu.threads
        for stage, cpu_ns in one.stage_ns().items()
        if stage != SPIN_WAIT
    ]
    pieces.sort(key=lambda piece: -piece[0])
    cpu_ns, stage, top = pieces[0] if pieces else (0.0, UNATTRIBUTED, cpu.threads[0])
    process = top.thread.process
    doing = {
        NATIVE: "running native code outside Python",
        UNATTRIBUTED: "doing what no sample saw",
        UNKNOWN: "in functions that no stage rule knows",
    }.get(stage, f"in stage {stage}")
    return Finding(
        "top-stage",
        f"Most CPU time went to {top.thread.name or top.thread.tid} of the {process.role} "
        f"(PID {process.pid}) {doing}: {cpu_ns / 1e9:.2f} s, {cpu_ns / total_ns:.0%} of the "
        f"target's {total_ns / 1e9:.2f} s.",
        Rank.CPU_TIME,
        Quantity(cpu_ns / 1e9, "s"),
        [
            {
                "pid": one.thread.process.pid,
                "role": one.thread.process.role,
                "tid": one.thread.tid,
                "name": one.thread.name,
                "stage": name,
                "cpu_seconds": piece_ns / 1e9,
            }
            for piece_ns, name, one in pieces[:8]
        ],
        STAGE_CAVEATS,
        cost_seconds=cpu_ns / 1e9,
    )


ANALYZER: Final = Analyzer("cpu-time", ("thread_counters",), run)
