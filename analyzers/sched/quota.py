"""CPU quotas: time in which a group's threads stood still because its share was used up.

The kernel counts it per group and CPU: while a group is throttled on a CPU, that CPU's time counts
once, however many of the group's threads wait there. A waiting thread's run_delay counts it for
each of them, so the part of their waits that is throttling is at least what the group counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from analyzers.findings import Finding, Quantity, Rank
from analyzers.looks import counters_by_thread
from analyzers.sched.counter_series import Series, read_series
from analyzers.sched.totals import Wake, measure_totals
from analyzers.timeline import Process, Timeline
from collectors.host_counters import (
    CGROUP_PERIODS,
    CGROUP_QUOTA,
    CGROUP_THROTTLED,
    CGROUP_THROTTLED_PERIODS,
)

# Throttled in fewer periods than this a group only meets its quota now and then.
NOTABLE_RATIO: Final = 0.05


@dataclass(frozen=True, slots=True)
class Quota:
    """One group with a quota, over the capture; counts are None where they were not read."""

    path: str
    processes: list[Process]
    cpus: float
    throttled_seconds: float
    period_count: float | None
    throttled_count: float | None
    wait_seconds: float | None  # of its processes' threads for a CPU, for whatever reason

    @property
    def throttled_ratio(self) -> float | None:
        """The share of periods in which it was stopped; None: no period, or not read."""
        if self.throttled_count is None or not self.period_count:
            return None
        return self.throttled_count / self.period_count

    @property
    def contention_seconds(self) -> float | None:
        """What is left of the waits: at most this was for other threads."""
        if self.wait_seconds is None:
            return None
        return max(0.0, self.wait_seconds - self.throttled_seconds)


def measure_quotas(timeline: Timeline) -> list[Quota]:
    """Return every group that has a quota, the one that stopped its threads longest first."""
    by_path: dict[str, dict[str, list[Series]]] = {}
    for name in (CGROUP_QUOTA, CGROUP_THROTTLED, CGROUP_PERIODS, CGROUP_THROTTLED_PERIODS):
        for series in read_series(timeline, name):
            if series.track in timeline.processes:
                path = series.labels.get("cgroup", "")
                by_path.setdefault(path, {}).setdefault(name, []).append(series)
    found = [
        _quota(timeline, path, counters)
        for path, counters in by_path.items()
        if CGROUP_QUOTA in counters and CGROUP_THROTTLED in counters
    ]
    return sorted(found, key=lambda one: -one.throttled_seconds)


def _quota(timeline: Timeline, path: str, counters: dict[str, list[Series]]) -> Quota:
    processes = [timeline.processes[one.track] for one in counters[CGROUP_QUOTA]]

    def rise(name: str) -> float | None:
        # Each of the group's processes carries the group's total: the longest seen tells most.
        series = counters.get(name)
        return max(one.rise for one in series) if series else None

    waits = [
        wait_ns / 1e9
        for track, wait_ns in timeline.once(_waits).items()
        if timeline.threads[track].process in processes
    ]
    return Quota(
        path,
        processes,
        float(counters[CGROUP_QUOTA][0].values[-1]),
        rise(CGROUP_THROTTLED) or 0.0,
        rise(CGROUP_PERIODS),
        rise(CGROUP_THROTTLED_PERIODS),
        sum(waits) if waits else None,
    )


def _waits(timeline: Timeline) -> dict[int, float]:
    """Return how long each thread waited for a CPU (ns): by its switches, else by run_delay.

    Linux 6.18 now and then books the whole sleep of a throttled group's thread as run_delay.
    """
    waits = {
        track: float(one.wait_ns.sum()) for track, one in timeline.once(counters_by_thread).items()
    }
    seen = (one for one in timeline.once(measure_totals) if one.wake is Wake.MEASURED)
    return waits | {one.thread.track: float(one.wait_ns) for one in seen}


def rows(timeline: Timeline) -> list[dict[str, Any]]:
    """Return the rows of the document."""
    return [_row(one) for one in timeline.once(measure_quotas)]


def _row(one: Quota) -> dict[str, Any]:
    return {
        "cgroup": one.path,
        "pids": sorted(process.pid for process in one.processes),
        "quota_cpu_count": one.cpus,
        "throttled_seconds": one.throttled_seconds,
        "period_count": one.period_count,
        "throttled_period_count": one.throttled_count,
        "throttled_period_ratio": one.throttled_ratio,
        "wait_seconds": one.wait_seconds,
        "contention_seconds": one.contention_seconds,
    }


def finding(timeline: Timeline) -> Finding | None:
    """Return the claim that a quota stops the server; None where none does notably."""
    notable = [
        one
        for one in timeline.once(measure_quotas)
        if (one.throttled_ratio or 0.0) >= NOTABLE_RATIO
    ]
    if not notable:
        return None
    one = notable[0]
    waits = ""
    if one.wait_seconds:
        waits = (
            f"; of the {one.wait_seconds:.2f} s that its threads waited for a CPU at most "
            f"{one.contention_seconds:.2f} s was contention"
        )
    return Finding(
        "cpu-quota",
        f"The CPU quota of group {one.path} ({one.cpus:g} CPUs) stopped the server in "
        f"{one.throttled_ratio:.0%} of its periods, {one.throttled_seconds:.2f} s in all{waits}.",
        Rank.HOST_WAIT,
        Quantity(one.throttled_ratio or 0.0, "ratio"),
        [_row(each) for each in notable],
        (
            "the kernel counts throttled time once per CPU, and waits for every thread: several "
            "threads that stand still on one CPU wait longer than it says",
            "the group may hold processes that are no part of the server",
        ),
        cost_seconds=one.throttled_seconds,
        remedy="raise or remove the quota (docker update --cpus N CONTAINER; Kubernetes: "
        "resources.limits.cpu), or let fewer threads run: a quota is used up by busy-waiting too",
    )
