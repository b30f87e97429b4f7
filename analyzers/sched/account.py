"""The account of threads and roles: on a CPU, blocked, waiting for one and why."""

from __future__ import annotations

from typing import Any, Final

from analyzers.sched.agreement import measure_agreement, to_json
from analyzers.sched.totals import ThreadTotals, measure_totals
from analyzers.timeline import Timeline

_SUMS: Final = {
    "observed_seconds": "observed_ns",
    "cpu_seconds": "on_cpu_ns",
    "blocked_seconds": "blocked_ns",
    "waking_seconds": "waking_ns",
    "preempted_seconds": "preempted_ns",
    "yielded_seconds": "yielded_ns",
    "untold_seconds": "untold_ns",
    "unseen_seconds": "unseen_ns",
    "wait_seconds": "wait_ns",
}
_COUNTS: Final = {
    "slice_count": "stay_count",
    "wake_count": "blocked_count",
    "preempted_count": "preempted_count",
    "yielded_count": "yielded_count",
}


def thread_rows(timeline: Timeline) -> list[dict[str, Any]]:
    """Return a row per thread, the one that waited longest first."""
    agreement = timeline.once(measure_agreement)
    rows = [
        {
            "pid": one.thread.process.pid,
            "role": one.thread.process.role,
            "tid": one.thread.tid,
            "name": one.thread.name,
            **_sums([one]),
            "wake": one.wake.value,
            "wake_p50_seconds": _seconds(one.wake_p50_ns),
            "wake_p99_seconds": _seconds(one.wake_p99_ns),
            "longest_wait_seconds": one.longest_wait_ns / 1e9,
            "agreement": (
                to_json(agreement[one.thread.track]) if one.thread.track in agreement else None
            ),
        }
        for one in timeline.once(measure_totals)
    ]
    return sorted(rows, key=lambda row: -row["wait_seconds"])


def role_rows(timeline: Timeline) -> list[dict[str, Any]]:
    """Return a row per role: sums over its threads, and how switches and counters agree there."""
    agreement = timeline.once(measure_agreement)
    by_role: dict[str, list[ThreadTotals]] = {}
    for one in timeline.once(measure_totals):
        by_role.setdefault(one.thread.process.role, []).append(one)
    rows = []
    for role, own in sorted(by_role.items()):
        compared = [agreement[one.thread.track] for one in own if one.thread.track in agreement]
        run_ns = sum(one.run_ns for one in compared)
        measured = [one for one in compared if one.switch_wait_ns is not None]
        delay_ns = sum(one.run_delay_ns for one in measured)
        wait_ns = sum(one.switch_wait_ns or 0 for one in measured)
        rows.append(
            {
                "role": role,
                "pids": sorted({one.thread.process.pid for one in own}),
                "thread_count": len(own),
                **_sums(own),
                "wakes": sorted({one.wake.value for one in own}),
                "slice_to_run_ratio": (
                    sum(one.slice_ns - one.stolen_ns for one in compared) / run_ns
                    if run_ns
                    else None
                ),
                "switch_wait_seconds": wait_ns / 1e9 if measured else None,
                "run_delay_seconds": delay_ns / 1e9 if measured else None,
                "wait_to_run_delay_ratio": wait_ns / delay_ns if delay_ns else None,
            }
        )
    return rows


def _sums(own: list[ThreadTotals]) -> dict[str, float]:
    sums: dict[str, float] = {
        key: sum(getattr(one, name) for one in own) / 1e9 for key, name in _SUMS.items()
    }
    return sums | {key: sum(getattr(one, name) for one in own) for key, name in _COUNTS.items()}


def _seconds(ns: int | None) -> float | None:
    return None if ns is None else ns / 1e9
