"""The run queue: how long threads were ready and had no CPU, by the kernel's own totals."""

from __future__ import annotations

from typing import Any, Final

from analyzers.base import Analyzer, Outcome
from analyzers.findings import Finding, Quantity, Rank, abstention
from analyzers.looks import Counters, counters_by_thread
from analyzers.sched.quota import measure_quotas
from analyzers.sched.totals import ThreadTotals, Wake, measure_totals
from analyzers.timeline import Thread, Timeline

# Waiting for a CPU for less than this share of the time is ordinary.
NOTABLE_RATIO: Final = 0.05
QUOTA_CAVEAT: Final = "time in which a cgroup's CPU quota stopped the thread counts as waiting too"
END_CAVEAT: Final = "a wait that was still going on at the end is not in it"


def run(timeline: Timeline) -> Outcome:
    """Report the run-queue wait of every thread and role; a finding where one waited notably."""
    counters = timeline.once(counters_by_thread)
    if not counters:
        return Outcome(findings=[abstention("run-queue-wait", "the thread counters were read only "
                                            "once", "record for longer")])  # fmt: skip
    pairs = [(timeline.threads[track], one) for track, one in counters.items()]
    switches = _totals(timeline)
    rows = [_row(thread, one, switches.get(thread.track)) for thread, one in pairs]
    rows.sort(key=lambda row: -row["wait_seconds"])
    roles = _by_role(pairs)
    findings = []
    if rows and rows[0]["wait_ratio"] >= NOTABLE_RATIO:
        findings.append(_finding(timeline, rows, roles))
    return Outcome({"run_queue": rows, "run_queue_roles": roles}, findings)


def _totals(timeline: Timeline) -> dict[int, ThreadTotals]:
    """Return by track what context switches tell of the same threads; empty without them."""
    return {one.thread.track: one for one in timeline.once(measure_totals)}


def _row(thread: Thread, counters: Counters, switches: ThreadTotals | None) -> dict[str, Any]:
    wait_ns, run_ns = int(counters.wait_ns.sum()), int(counters.run_ns.sum())
    return {
        "pid": thread.process.pid,
        "role": thread.process.role,
        "tid": thread.tid,
        "name": thread.name,
        "wait_seconds": wait_ns / 1e9,
        "wait_ratio": wait_ns / counters.observed_ns,
        "cpu_seconds": run_ns / 1e9,
        # Of the time it could have run, how much it did not.
        "wait_share_of_runnable": wait_ns / (wait_ns + run_ns) if wait_ns + run_ns else None,
        "timeslice_count": counters.timeslice_count,
        "voluntary_count": counters.voluntary_count,
        # The kernel counts as involuntary what gave way by itself; switches tell the two apart.
        "involuntary_count": counters.involuntary_count,
        "preempted_count": None if switches is None else switches.preempted_count,
        "preempted_seconds": None if switches is None else switches.preempted_ns / 1e9,
        "yielded_count": None if switches is None else switches.yielded_count,
        "yielded_seconds": None if switches is None else switches.yielded_ns / 1e9,
        "waking_seconds": _waking(switches),
    }


def _waking(switches: ThreadTotals | None) -> float | None:
    """Return how long it waited after wake-ups; None where neither events nor counters tell."""
    if switches is None or switches.wake is Wake.UNKNOWN:
        return None
    return switches.waking_ns / 1e9


def _by_role(pairs: list[tuple[Thread, Counters]]) -> list[dict[str, Any]]:
    totals: dict[str, list[int]] = {}
    for thread, counters in pairs:
        total = totals.setdefault(thread.process.role, [0, 0])
        total[0] += int(counters.wait_ns.sum())
        total[1] += int(counters.run_ns.sum())
    return [
        {"role": role, "wait_seconds": wait_ns / 1e9, "cpu_seconds": run_ns / 1e9}
        for role, (wait_ns, run_ns) in sorted(totals.items())
    ]


def _finding(
    timeline: Timeline, rows: list[dict[str, Any]], roles: list[dict[str, Any]]
) -> Finding:
    first = rows[0]
    total_seconds = sum(row["wait_seconds"] for row in rows)
    statement = (
        f"Threads that were ready to run waited {total_seconds:.2f} s for a CPU; most of all "
        f"{first['name'] or first['tid']} of the {first['role']} (PID {first['pid']}): "
        f"{first['wait_seconds']:.2f} s, {first['wait_ratio']:.0%} of the time."
    )
    yielded_seconds = sum(row["yielded_seconds"] or 0.0 for row in rows)
    if yielded_seconds >= NOTABLE_RATIO * total_seconds:
        statement += (
            f" Of all of it, {yielded_seconds:.2f} s was after giving way by sched_yield(2), which "
            "is polling and not a want of CPUs."
        )
    quotas = timeline.once(measure_quotas)
    throttled_seconds = sum(one.throttled_seconds for one in quotas)
    if throttled_seconds:
        statement += (
            f" Of all of it, {min(throttled_seconds, total_seconds):.2f} s or more was a CPU "
            "quota that stopped them."
        )
    return Finding(
        "run-queue-wait",
        statement,
        Rank.HOST_WAIT,
        Quantity(total_seconds, "s"),
        {
            "threads": rows[:8],
            "roles": roles,
            "throttled_seconds": throttled_seconds,
            "yielded_seconds": yielded_seconds,
        },
        (END_CAVEAT,) if throttled_seconds else (QUOTA_CAVEAT, END_CAVEAT),
        cost_seconds=total_seconds,
    )


ANALYZER: Final = Analyzer("run-queue-wait", ("thread_counters",), run)
