"""How many threads of the target wanted a CPU at a time, against the CPUs that it may use.

A thread wants a CPU while it runs and while it waits for one. More of them than CPUs for a while is
ordinary; for most of the time it means that threads take turns, and each stage takes longer by as
much.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from analyzers.findings import Finding, Quantity, Rank
from analyzers.intervals import Times
from analyzers.looks import Counters, counters_by_thread
from analyzers.sched.histories import Histories, has_switches, read_histories
from analyzers.sched.machine import read_machine
from analyzers.sched.totals import Wake, measure_totals
from analyzers.timeline import Timeline, runs_by_thread

# Above its CPUs for this share of the time a target is too large for them.
NOTABLE_RATIO: Final = 0.25
POOL_COUNT: Final = 20
# Counters tell means between looks only.
BIN_NS: Final = 100_000_000
_NUMBERS = re.compile(r"[-_:#/ ]*\d+")


@dataclass(frozen=True, slots=True, eq=False)
class Demand:
    """How much of the time how many threads wanted a CPU: ``seconds[n]`` of ``level[n]``."""

    level: NDArray[np.float64]  # ascending
    ns: NDArray[np.float64]

    @property
    def mean(self) -> float:
        """The mean number of threads."""
        return float((self.level * self.ns).sum() / self.ns.sum())

    def quantile(self, share: float) -> float:
        """Return the number that was not exceeded for this share of the time."""
        reached = np.cumsum(self.ns) / self.ns.sum()
        place = int(np.searchsorted(reached, share - 1e-12))
        return float(self.level[min(place, len(self.level) - 1)])

    def ratio_above(self, count: float) -> float:
        """Return the share of the time in which more wanted one."""
        return float(self.ns[self.level > count].sum() / self.ns.sum())

    def mean_above(self, count: float) -> float:
        """Return how many wanted one in vain on average, if all got one that could."""
        return float((np.maximum(self.level - count, 0) * self.ns).sum() / self.ns.sum())


def demand_of(start: Times, end: Times, window: tuple[int, int]) -> Demand:
    """Return how many of these intervals, which may overlap, were open for how long."""
    times = np.concatenate((start, end, np.array(window)))
    steps = np.repeat(np.array([1, -1, 0], np.int32), (len(start), len(end), 2))
    order = np.argsort(times, kind="stable")
    depth = np.cumsum(steps[order])[:-1]
    ns = np.bincount(depth, np.diff(times[order]))
    return Demand(np.arange(len(ns), dtype=np.float64), ns.astype(np.float64))


def measure_demand(timeline: Timeline) -> Demand | None:
    """Return the demand of the whole target; None when nothing tells it."""
    if has_switches(timeline):
        histories = timeline.once(read_histories)
        return demand_of(histories.ready, histories.end, histories.window)
    counters = timeline.once(counters_by_thread)
    return _of_counters(counters.values()) if counters else None


def _of_counters(counters: Iterable[Counters]) -> Demand:
    """Return means over `BIN_NS`: shorter peaks are smoothed away."""
    threads = list(counters)
    start = min(int(one.edges[0]) for one in threads)
    end = max(int(one.edges[-1]) for one in threads)
    edges = np.linspace(start, end, max(2, (end - start) // BIN_NS + 1))
    wanted = np.zeros(len(edges) - 1)
    for one in threads:
        total = np.concatenate(([0], np.cumsum(one.run_ns + one.wait_ns)))
        wanted += np.diff(np.interp(edges, one.edges, total))
    widths = np.asarray(np.diff(edges), np.float64)
    order = np.argsort(wanted / widths)
    return Demand((wanted / widths)[order], widths[order])


def section(timeline: Timeline) -> dict[str, Any] | None:
    """Return the section of the document; None when nothing tells it."""
    demand = timeline.once(measure_demand)
    if demand is None:
        return None
    machine = timeline.once(read_machine)
    allowed = machine.usable_cpu_count
    has_slices = has_switches(timeline)
    return {
        "source": "switches" if has_slices else "counters",
        "is_lower_bound": has_slices and not _has_wakes(timeline),
        "allowed_cpu_count": machine.allowed_cpu_count,
        "quota_cpu_count": machine.quota_cpus,
        "allowed_source": machine.allowed_source,
        "mean_count": demand.mean,
        "p50_count": demand.quantile(0.5),
        "p95_count": demand.quantile(0.95),
        "max_count": float(demand.level[demand.ns > 0].max()) if demand.ns.any() else 0.0,
        "above_ratio": None if allowed is None else demand.ratio_above(allowed),
        "mean_above_count": None if allowed is None else demand.mean_above(allowed),
        "levels": _levels(demand) if has_slices else [],
        "pools": _pools(timeline, timeline.once(read_histories)) if has_slices else [],
    }


def _has_wakes(timeline: Timeline) -> bool:
    return all(one.wake is Wake.MEASURED for one in timeline.once(measure_totals))


def _levels(demand: Demand) -> list[dict[str, Any]]:
    return [
        {"count": int(level), "ratio": ns / float(demand.ns.sum())}
        for level, ns in zip(demand.level.tolist(), demand.ns.tolist(), strict=True)
        if ns
    ]


def _pools(timeline: Timeline, histories: Histories) -> list[dict[str, Any]]:
    """Return the demand of threads by role and stem of their name, the largest first.

    Threads that no library names have the process's name: OpenMP's and a tokenizer's are native
    threads of it.
    """
    python = timeline.once(runs_by_thread)
    pools: dict[tuple[str, str, bool], list[int]] = {}
    for place, track in enumerate(histories.threads):
        thread = timeline.threads[track]
        key = (thread.process.role, pool_name(thread.name), track in python)
        pools.setdefault(key, []).append(place)
    rows: list[dict[str, Any]] = []
    for (role, name, has_stacks), places in pools.items():
        own = np.concatenate([np.arange(*histories.rows_of(place).indices(len(histories)))
                              for place in places])  # fmt: skip
        start, ready, end = histories.start[own], histories.ready[own], histories.end[own]
        wanting = demand_of(ready, end, histories.window)
        rows.append(
            {
                "role": role,
                "pool": name,
                "has_python_stacks": has_stacks,
                "thread_count": len(places),
                "cpu_seconds": int((end - start).sum()) / 1e9,
                "wait_seconds": int((start - ready).sum()) / 1e9,
                "mean_count": wanting.mean,
                "p95_count": wanting.quantile(0.95),
                "max_count": int(wanting.level[wanting.ns > 0].max(initial=0)),
            }
        )
    return sorted(rows, key=lambda row: -row["mean_count"])[:POOL_COUNT]


def pool_name(thread_name: str) -> str:
    """Return a thread's name without its numbers: what all threads of one pool share."""
    return _NUMBERS.sub("", thread_name).strip() or thread_name


def finding(timeline: Timeline) -> Finding | None:
    """Return the claim that more threads want a CPU than there are; None where it is not so."""
    row = timeline.once(section)
    if row is None or row["above_ratio"] is None or row["above_ratio"] < NOTABLE_RATIO:
        return None
    count = timeline.once(read_machine).usable_cpu_count
    pools = [one for one in row["pools"] if one["thread_count"] > 1]
    largest = ""
    if pools:
        first = pools[0]
        largest = (
            f"; the largest pool is {first['pool']} of the {first['role']}, "
            f"{first['thread_count']} threads"
        )
    begin = timeline.capture.start_ns
    seconds = (timeline.capture.end_ns - begin) / 1e9
    return Finding(
        "cpu-oversubscription",
        f"More threads of the target wanted a CPU than the {count:g} it may use for "
        f"{row['above_ratio']:.0%} of the time: {row['mean_count']:.1f} on average, "
        f"{row['p95_count']:.3g} at the 95th percentile{largest}.",
        Rank.HOST_WAIT,
        Quantity(row["above_ratio"], "ratio"),
        {key: row[key] for key in row if key != "levels"},
        (
            "threads that spin count as wanting a CPU",
            *(("waits after a wake-up were not seen, so it was more",) if row["is_lower_bound"]
              else ()),
        ),
        cost_seconds=(row["mean_above_count"] or 0.0) * seconds,
        remedy="give the server more CPUs, or its pools fewer threads: OMP_NUM_THREADS and "
        "RAYON_NUM_THREADS no larger than the cores left for them",
    )  # fmt: skip
