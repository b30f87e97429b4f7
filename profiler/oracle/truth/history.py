"""The ledgers of a process over time, so that the truth of any past window can be told.

A cut is taken every `TICK_NS` and whenever one is asked for. Between two cuts the totals are read
off a straight line; asking for a cut at a window's edge makes that edge exact.
"""

from __future__ import annotations

import bisect
import os
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Final, TypedDict

from profiler.oracle.stages import Stage
from profiler.oracle.truth.ledger import LedgerCut, cut_all, released, staged

TICK_NS: Final = 250_000_000
# Forty minutes of ticks; older cuts are dropped.
_CUTS_MAX: Final = 9_000
# What one timed release can be wrong by: its marks stand outside the call, 1 to 3 us of work with
# the GIL from where it is really dropped and taken again (measured by reading the GIL's state in
# the process's memory; tokenizers' encode_batch, once per request: 20 us). A thread that must queue
# for a CPU stretches that by the time it queues for each second that it runs.
_RELEASE_ERROR_NS: Final = 3_000

# Keys of a thread's totals: ("cpu_ns", ""), ("held_ns", ""), ..., ("stage_cpu_ns", stage), ...
_Totals = dict[tuple[str, str], float]


class StageTruth(TypedDict):
    """One stage of one thread or role over a window."""

    cpu_seconds: float
    wall_seconds: float
    call_count: float


class ThreadTruth(TypedDict):
    """One thread over a window; a null is unknown (the kernel does not say)."""

    tid: int
    name: str
    cpu_seconds: float
    gil_held_ratio: float
    gil_uncertainty_ratio: float
    wait_seconds: float | None
    stages: dict[str, StageTruth]


class ProcessTruth(TypedDict):
    """One process over a window ``[start_ns, end_ns)`` of CLOCK_MONOTONIC."""

    pid: int
    role: str
    start_ns: int
    end_ns: int
    cpu_seconds: float
    threads: list[ThreadTruth]


@dataclass(frozen=True, slots=True)
class _Thread:
    tid: int
    name: str
    totals: _Totals


@dataclass(frozen=True, slots=True)
class _Cut:
    time_ns: int
    process_cpu_ns: int
    threads: dict[int, _Thread]


class History:
    """The cuts of this process; ``role`` is its role in the server."""

    def __init__(self, role: str) -> None:
        self.role = role
        self._cuts: deque[_Cut] = deque(maxlen=_CUTS_MAX)
        self._schedstats: dict[int, int] = {}  # thread id to a descriptor that stays open

    @staged(Stage.TRUTH)
    def take(self) -> int:
        """Cut now; returns the instant of the cut in ns."""
        waits_ns = {tid: self._run_queue_wait_ns(tid) for tid in _known_tids()}
        process_cpu_ns = time.process_time_ns()
        time_ns, ledgers = cut_all()
        threads = {
            cut.tid: _Thread(cut.tid, cut.name, _totals(cut, waits_ns.get(cut.tid)))
            for cut in ledgers
        }
        self._cuts.append(_Cut(time_ns, process_cpu_ns, threads))
        return time_ns

    @staged(Stage.TRUTH)
    def window(self, start_ns: int, end_ns: int) -> ProcessTruth:
        """The truth of ``[start_ns, end_ns)``, as far as it is remembered (see the result's edges).

        Raises ValueError when nothing of it is remembered.
        """
        cuts = list(self._cuts)
        start_ns = max(start_ns, cuts[0].time_ns) if cuts else start_ns
        end_ns = min(end_ns, cuts[-1].time_ns) if cuts else end_ns
        if not cuts or end_ns <= start_ns:
            raise ValueError("the window lies outside what is remembered")
        before, after = _at(cuts, start_ns), _at(cuts, end_ns)
        wall_ns = end_ns - start_ns
        threads = []
        for tid, thread in after.threads.items():
            earlier = before.threads[tid].totals if tid in before.threads else {}
            spent = {key: value - earlier.get(key, 0) for key, value in thread.totals.items()}
            threads.append(_thread_truth(thread, spent, wall_ns))
        return {
            "pid": os.getpid(),
            "role": self.role,
            "start_ns": start_ns,
            "end_ns": end_ns,
            "cpu_seconds": (after.process_cpu_ns - before.process_cpu_ns) / 1e9,
            "threads": threads,
        }

    def _run_queue_wait_ns(self, tid: int) -> int | None:
        """The second figure of schedstat (Documentation/scheduler/sched-stats.rst)."""
        try:
            if tid not in self._schedstats:
                path = f"/proc/self/task/{tid}/schedstat"
                self._schedstats[tid] = released(os.open, path, os.O_RDONLY)
            text = released(os.pread, self._schedstats[tid], 128, 0)
        except OSError:
            return None
        return int(text.split()[1])


def _known_tids() -> list[int]:
    return [thread.native_id for thread in threading.enumerate() if thread.native_id is not None]


def _totals(cut: LedgerCut, wait_ns: int | None) -> _Totals:
    totals: _Totals = {
        ("cpu_ns", ""): cut.cpu_ns,
        ("held_ns", ""): cut.held_ns,
        ("release_count", ""): cut.release_count,
    }
    if wait_ns is not None:
        totals["wait_ns", ""] = wait_ns
    for stage, spent in cut.stages.items():
        totals["stage_cpu_ns", stage] = spent.cpu_ns
        totals["stage_wall_ns", stage] = spent.wall_ns
        totals["stage_call_count", stage] = spent.call_count
    return totals


def _at(cuts: list[_Cut], time_ns: int) -> _Cut:
    """The totals at ``time_ns``, which lies between the first and the last cut."""
    index = bisect.bisect_left(cuts, time_ns, key=lambda cut: cut.time_ns)
    right = cuts[index]
    if right.time_ns == time_ns:
        return right
    left = cuts[index - 1]
    share = (time_ns - left.time_ns) / (right.time_ns - left.time_ns)
    threads = {}
    for tid, thread in right.threads.items():
        earlier = left.threads[tid].totals if tid in left.threads else {}
        totals = {
            key: earlier.get(key, 0) + share * (value - earlier.get(key, 0))
            for key, value in thread.totals.items()
        }
        threads[tid] = _Thread(tid, thread.name, totals)
    cpu_ns = left.process_cpu_ns + share * (right.process_cpu_ns - left.process_cpu_ns)
    return _Cut(time_ns, round(cpu_ns), threads)


def _thread_truth(thread: _Thread, spent: _Totals, wall_ns: int) -> ThreadTruth:
    wait_ns = spent.get(("wait_ns", ""))
    cpu_ns = spent["cpu_ns", ""]
    stretch = 1 + (wait_ns or 0) / cpu_ns if cpu_ns else 1.0
    release_error_ns = spent["release_count", ""] * _RELEASE_ERROR_NS * stretch
    return {
        "tid": thread.tid,
        "name": thread.name,
        "cpu_seconds": cpu_ns / 1e9,
        "gil_held_ratio": spent["held_ns", ""] / wall_ns,
        "gil_uncertainty_ratio": release_error_ns / wall_ns,
        "wait_seconds": None if wait_ns is None else wait_ns / 1e9,
        "stages": {
            stage: {
                "cpu_seconds": stage_cpu_ns / 1e9,
                "wall_seconds": spent["stage_wall_ns", stage] / 1e9,
                "call_count": spent["stage_call_count", stage],
            }
            for (kind, stage), stage_cpu_ns in spent.items()
            if kind == "stage_cpu_ns"
        },
    }
