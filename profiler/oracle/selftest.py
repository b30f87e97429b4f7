"""Holds what an analysis concluded against what the oracle knows. Pure: two documents in, rows out.

Only for a truth and an analysis of the same window.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from profiler.oracle.stages import WAITS

STAGE_SHARE_LIMIT: Final = 0.02  # of the server's CPU time
GIL_HELD_LIMIT: Final = 0.01  # of the wall time
WAIT_LIMIT: Final = 0.05  # of the true wait, both as shares of the wall time
# Below this wait a thread's relative error says nothing: a few scheduler ticks decide it.
_WAIT_MIN_SECONDS: Final = 0.2


class Figure(StrEnum):
    """What is compared; the first two are absolute errors, the last one a relative error."""

    STAGE_SHARE = "stage_share"
    GIL_HELD = "gil_held"
    RUN_QUEUE_WAIT = "run_queue_wait"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure; ``measured`` and ``error`` are None when the analysis does not have it.

    ``uncertainty`` is the truth's own, in the unit of ``error``. ``role_error`` is a stage's error
    as a share of its own role's CPU time: larger for a role that runs little and is rarely seen.
    """

    figure: Figure
    subject: str
    truth: float
    measured: float | None
    error: float | None
    limit: float
    uncertainty: float = 0.0
    role_error: float | None = None

    @property
    def is_ok(self) -> bool:
        """Whether the figure is known and within its limit."""
        return self.error is not None and abs(self.error) <= self.limit


def compare(truth: dict[str, Any], analysis: dict[str, Any]) -> list[Comparison]:
    """Compare stage shares per role, GIL held ratios and run-queue waits per thread.

    ``truth`` is what the oracle's ``/truth`` answers, ``analysis`` what ``cputax analyze --json``
    prints.
    """
    return [
        *_compare_stages(truth, analysis),
        *_compare_gil(truth, analysis),
        *_compare_waits(truth, analysis),
    ]


def true_shares(process: dict[str, Any]) -> dict[str, float]:
    """Share of a process's CPU time by stage.

    The CPU time of going to sleep and waking up is no stage's work and cannot be seen from outside;
    each thread's is spread over the thread's other stages, as an analysis does.
    """
    cpu_seconds: dict[str, float] = {}
    for thread in process["threads"]:
        work = {
            stage: spent["cpu_seconds"]
            for stage, spent in thread["stages"].items()
            if stage not in WAITS
        }
        work_seconds = sum(work.values())
        if work_seconds <= 0:
            continue
        scale = thread["cpu_seconds"] / work_seconds
        for stage, seconds in work.items():
            cpu_seconds[stage] = cpu_seconds.get(stage, 0.0) + seconds * scale
    total = sum(cpu_seconds.values())
    return {stage: seconds / total for stage, seconds in cpu_seconds.items()} if total else {}


def _compare_stages(truth: dict[str, Any], analysis: dict[str, Any]) -> list[Comparison]:
    found = []
    true_cpu = {
        process["role"]: sum(thread["cpu_seconds"] for thread in process["threads"])
        for process in truth["processes"]
    }
    true_total = sum(true_cpu.values()) or 1.0
    seen_total = sum(row["cpu_seconds"] for row in analysis["stages"]) or 1.0
    for process in truth["processes"]:
        role = process["role"]
        measured = {
            row["stage"]: row["cpu_seconds"] for row in analysis["stages"] if row["role"] == role
        }
        seen_cpu = sum(measured.values()) or 1.0
        shares = true_shares(process)
        for stage in sorted({*shares, *measured} - WAITS, key=lambda one: -shares.get(one, 0.0)):
            share = shares.get(stage, 0.0)
            expected = share * true_cpu[role] / true_total
            subject = f"{role} {stage}"
            # A role without any row was not seen; a stage without one was seen to take nothing.
            seen = error = role_error = None
            if measured:
                seen = measured.get(stage, 0.0) / seen_total
                error = seen - expected
                role_error = measured.get(stage, 0.0) / seen_cpu - share
            found.append(
                Comparison(
                    Figure.STAGE_SHARE, subject, expected, seen, error, STAGE_SHARE_LIMIT,
                    role_error=role_error,
                )
            )  # fmt: skip
    return found


def _compare_gil(truth: dict[str, Any], analysis: dict[str, Any]) -> list[Comparison]:
    found = []
    measured = {(row["pid"], row["tid"]): row["held_ratio"] for row in analysis["gil"]}
    seen_pids = {pid for pid, _ in measured}
    for process in truth["processes"]:
        for thread in process["threads"]:
            expected = thread["gil_held_ratio"]
            unseen = 0.0 if process["pid"] in seen_pids else None
            seen = measured.get((process["pid"], thread["tid"]), unseen)
            found.append(
                Comparison(
                    Figure.GIL_HELD,
                    f"{process['role']} {thread['name']}",
                    expected,
                    seen,
                    None if seen is None else seen - expected,
                    GIL_HELD_LIMIT,
                    thread["gil_uncertainty_ratio"],
                )
            )
    return found


def _compare_waits(truth: dict[str, Any], analysis: dict[str, Any]) -> list[Comparison]:
    found = []
    measured = {(row["pid"], row["tid"]): row["wait_ratio"] for row in analysis["run_queue"]}
    for process in truth["processes"]:
        window_seconds = (process["end_ns"] - process["start_ns"]) / 1e9
        for thread in process["threads"]:
            wait_seconds = thread["wait_seconds"]
            if wait_seconds is None or wait_seconds < _WAIT_MIN_SECONDS:
                continue
            # Ratios, not seconds: a recording reads its counters a little beyond its edges.
            expected = wait_seconds / window_seconds
            seen = measured.get((process["pid"], thread["tid"]))
            found.append(
                Comparison(
                    Figure.RUN_QUEUE_WAIT,
                    f"{process['role']} {thread['name']}",
                    expected,
                    seen,
                    None if seen is None else (seen - expected) / expected,
                    WAIT_LIMIT,
                )
            )
    return found
