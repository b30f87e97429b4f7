"""The GIL: who held it, who wanted it, and which stage the holder was in.

Ratios are of the time that the sampler saw; its gaps are left out and listed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from analyzers.base import Analyzer, Outcome
from analyzers.findings import Finding, Quantity, Rank, abstention
from analyzers.stages import IDLE, classify
from analyzers.statistics import look_weights, ratio_interval
from analyzers.timeline import Process, Thread, Timeline, column, rows_by, runs_by_thread

# Below this share of time with somebody waiting nobody has to be told.
NOTABLE_RATIO: Final = 0.05
SATURATED_IDLE_RATIO: Final = 0.05
# A holder that shows a waiting stack, or none: its stage is not known.
STAGE_UNKNOWN: Final = "unattributed"


@dataclass(frozen=True, slots=True)
class Ratio:
    """A share of the seen time with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ThreadGil:
    """One thread: how much of the time it held the GIL, and how much of it it waited for it."""

    thread: Thread
    held: Ratio
    wanted_ratio: float | None  # null: this build's waiters cannot be read, or nobody looked
    holding_stages: dict[str, float]  # share of its holding per stage


@dataclass(frozen=True, slots=True)
class ProcessGil:
    """One process's GIL."""

    process: Process
    look_count: int
    seen_ns: float
    gaps: list[tuple[int, int]]
    held: Ratio
    contended: Ratio | None  # share of time in which at least one thread waited for it
    mean_waiter_count: float | None
    waiter_look_count: int
    threads: list[ThreadGil]


def measure_gil(timeline: Timeline) -> list[ProcessGil]:
    """Return the GIL of every process that was looked at more than once."""
    table = timeline.capture.table("gil")
    found = []
    for track, rows in rows_by(table, "track").items():
        process = timeline.processes.get(track)
        looks = table.take(pa.array(rows))
        if process is not None and len(np.unique(column(looks, "time_ns"))) > 1:
            found.append(_process(timeline, process, looks))
    return found


def _process(timeline: Timeline, process: Process, looks: pa.Table) -> ProcessGil:
    times = column(looks, "time_ns")
    weights, gaps = look_weights(times)
    holder = np.asarray(pc.fill_null(looks["holder"], -1).to_numpy(), np.int64)
    held = Ratio(*ratio_interval(times, weights, (holder >= 0).astype(np.float64)))
    contended, mean_count = _waiting(looks, times, weights)
    wanted, look_count = _wanted(looks, mean_count)
    threads = []
    # Threads with Python stacks that never held it are listed too: zero was seen.
    with_stacks = {
        track
        for track in timeline.once(runs_by_thread)
        if timeline.threads[track].process is process
    }
    seen = {int(one) for one in np.unique(holder) if one >= 0}
    for track in sorted(seen | set(wanted or ()) | with_stacks):
        thread = timeline.threads.get(track)
        if thread is None:
            continue
        is_holder = holder == track
        threads.append(
            ThreadGil(
                thread,
                Ratio(*ratio_interval(times, weights, is_holder.astype(np.float64))),
                None if wanted is None else wanted.get(track, 0.0),
                _holding_stages(timeline, thread, times[is_holder], weights[is_holder]),
            )
        )
    threads.sort(key=lambda one: -one.held.value)
    return ProcessGil(
        process, len(times), float(weights.sum()), gaps, held, contended, mean_count, look_count,
        threads,
    )  # fmt: skip


def _waiting(
    looks: pa.Table, times: NDArray[np.int64], weights: NDArray[np.float64]
) -> tuple[Ratio | None, float | None]:
    """Return how often anybody waited and how many on average; None: this build does not tell."""
    counts = column(looks, "waiter_count", np.float64)
    is_known = ~np.isnan(counts)
    if is_known.sum() < 2 or not weights[is_known].sum():
        return None, None
    times, weights, counts = times[is_known], weights[is_known], counts[is_known]
    contended = Ratio(*ratio_interval(times, weights, (counts > 0).astype(np.float64)))
    return contended, float((weights * counts).sum() / weights.sum())


def _wanted(looks: pa.Table, mean_count: float | None) -> tuple[dict[int, float] | None, int]:
    """Return each thread's share of time waiting for the GIL, and how many looks named waiters.

    How many wait is known at every look, who they are only at some: those say how the mean number
    of waiters is divided among the threads.
    """
    lists = looks["waiters"]
    look_count = len(lists) - lists.null_count
    named = pc.list_flatten(lists).drop_null()
    if mean_count is None or (mean_count > 0 and len(named) == 0):
        return None, look_count
    if mean_count == 0:
        return {}, look_count
    tracks, counts = np.unique(named.to_numpy(zero_copy_only=False), return_counts=True)
    shares = counts / counts.sum()
    wanted = {int(t): min(1.0, mean_count * float(s)) for t, s in zip(tracks, shares, strict=True)}
    return wanted, look_count


def _holding_stages(
    timeline: Timeline, thread: Thread, times: NDArray[np.int64], weights: NDArray[np.float64]
) -> dict[str, float]:
    runs = timeline.once(runs_by_thread).get(thread.track)
    if runs is None or not weights.sum():
        return {}
    stages = timeline.once(classify)
    index = np.searchsorted(runs.start, times, side="right") - 1
    is_inside = (index >= 0) & (times < runs.end[index])
    codes = stages.stage(thread.process.role, runs.stack[index])
    codes = np.where(is_inside & (codes != stages.map.code(IDLE)), codes, -1)
    shares: dict[str, float] = {}
    for code in np.unique(codes):
        name = stages.map.stages[code] if code >= 0 else STAGE_UNKNOWN
        shares[name] = float(weights[codes == code].sum() / weights.sum())
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def run(timeline: Timeline) -> Outcome:
    """Report every process's GIL; a finding where threads notably waited for it."""
    processes = timeline.once(measure_gil)
    more = _saturation_caveats(timeline)
    findings = [one for process in processes if (one := _contention(process, more)) is not None]
    blind = [one.process.pid for one in processes if one.contended is None]
    if blind:
        findings.append(
            abstention(
                "gil-contention",
                f"who waited for the GIL is not known in PID {', '.join(map(str, blind))}: "
                "the sampler could not find this build's list of waiters",
            )
        )
    if not processes:
        findings.append(abstention("gil-contention", "the GIL was looked at only once per process",
                                   "record for longer"))  # fmt: skip
    return Outcome(
        {
            "gil": [_thread_row(process, one) for process in processes for one in process.threads],
            "gil_processes": [_process_row(process) for process in processes],
        },
        findings,
    )


def _saturation_caveats(timeline: Timeline) -> tuple[str, ...]:
    """Say that a full host biases the looks; see docs/gil.md for the measurement."""
    idle_ratio = timeline.capture.manifest.overhead.get("host_idle_ratio")
    if idle_ratio is None or idle_ratio >= SATURATED_IDLE_RATIO:
        return ()
    return (
        f"the host was idle only {idle_ratio:.0%} of the time: a sampler then runs when a thread "
        "gives up its CPU, often just as it lets go of the GIL, so what spinning threads held is a "
        "lower bound; cputax attach --gil-realtime looks without that bias",
    )


def _contention(gil: ProcessGil, more_caveats: tuple[str, ...]) -> Finding | None:
    if gil.contended is None or gil.contended.value < NOTABLE_RATIO:
        return None
    holder = gil.threads[0] if gil.threads else None
    waiters = [one for one in gil.threads if one.wanted_ratio]
    waiters.sort(key=lambda one: -(one.wanted_ratio or 0.0))
    statement = (
        f"In the {gil.process.role} (PID {gil.process.pid}) at least one thread waited for the GIL "
        f"{gil.contended.value:.0%} of the time"
    )
    if holder is not None:
        seen = [stage for stage in holder.holding_stages if stage != STAGE_UNKNOWN]
        where = f", mostly seen in {seen[0]}" if seen else ""
        statement += f"; {holder.thread.name or holder.thread.tid} held it most"
        statement += f" ({holder.held.value:.0%}{where})"
    if waiters:
        first = waiters[0]
        statement += f" and {first.thread.name or first.thread.tid} waited most"
        statement += f" ({first.wanted_ratio or 0.0:.0%})"
    ratio = gil.contended
    return Finding(
        "gil-contention",
        statement + ".",
        Rank.HOST_WAIT,
        Quantity(ratio.value, "ratio", ratio.low, ratio.high),
        [_thread_row(gil, one) for one in gil.threads[:8]],
        (
            "the interval is Wilson's with the effective number of looks, from 0.25 s blocks",
            "the stage of a holder comes from another sampler, whose clock is some ms apart",
            *more_caveats,
        ),
        cost_seconds=(gil.mean_waiter_count or 0.0) * gil.seen_ns / 1e9,
    )


def _thread_row(gil: ProcessGil, one: ThreadGil) -> dict[str, Any]:
    return {
        "pid": gil.process.pid,
        "role": gil.process.role,
        "tid": one.thread.tid,
        "name": one.thread.name,
        "held_ratio": one.held.value,
        "held_low": one.held.low,
        "held_high": one.held.high,
        "wanted_ratio": one.wanted_ratio,
        "holding_stages": [
            {"stage": stage, "share_ratio": share} for stage, share in one.holding_stages.items()
        ],
    }


def _process_row(gil: ProcessGil) -> dict[str, Any]:
    contended = gil.contended
    return {
        "pid": gil.process.pid,
        "role": gil.process.role,
        "look_count": gil.look_count,
        "waiter_look_count": gil.waiter_look_count,
        "seen_seconds": gil.seen_ns / 1e9,
        "gap_count": len(gil.gaps),
        "gap_seconds": sum(end - start for start, end in gil.gaps) / 1e9,
        "largest_gap_seconds": max((end - start for start, end in gil.gaps), default=0) / 1e9,
        "held_ratio": gil.held.value,
        "contended_ratio": None if contended is None else contended.value,
        "contended_low": None if contended is None else contended.low,
        "contended_high": None if contended is None else contended.high,
        "mean_waiter_count": gil.mean_waiter_count,
    }


ANALYZER: Final = Analyzer("gil-contention", ("gil",), run)
