"""One ledger per thread: CPU and wall time by stage, and the time the thread was without the GIL.

A thread is in exactly one stage at a time (nested stages subtract themselves from their parent), so
the stages of a thread sum to its CPU time. `Stage.DISPATCH` is whatever stands between the named
stages: the event loop's and the thread's own bookkeeping.

The GIL truth rests on `own_the_gil`: with an unreachable switch interval CPython never asks a
thread to drop the GIL, so a thread holds it at all times except inside calls that release it. The
oracle makes those calls only through `released` and `truth.timed`, which time them. Held time is
therefore wall time minus released time, preempted moments included, with no sampling involved.
"""

from __future__ import annotations

import functools
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, ParamSpec, TypeVar

from profiler.oracle.stages import Stage

P = ParamSpec("P")
R = TypeVar("R")

# Longer than any run; CPython stores the interval in microseconds as an unsigned long.
_NO_FORCED_SWITCH_S: Final = 100_000.0


@dataclass(slots=True)
class StageTotals:
    """What a thread spent in one stage; ``call_count`` counts entries."""

    cpu_ns: int = 0
    wall_ns: int = 0
    call_count: int = 0


@dataclass(frozen=True, slots=True)
class LedgerCut:
    """A ledger at one instant; the stage and the released call in progress are cut there."""

    tid: int
    name: str
    cpu_ns: int
    held_ns: int
    release_count: int
    stages: dict[str, StageTotals]


class Ledger:
    """The books of the calling thread."""

    __slots__ = (
        "_cpu_mark_ns", "_wall_mark_ns", "clock_id", "name", "release_count",
        "released_ns", "released_since_ns", "stage", "stages", "start_ns", "tid",
    )  # fmt: skip

    def __init__(self, name: str) -> None:
        self.name = name
        self.tid = threading.get_native_id()
        self.clock_id = time.pthread_getcpuclockid(threading.get_ident())
        self.stages: dict[str, StageTotals] = {Stage.DISPATCH: StageTotals(call_count=1)}
        self.stage: str = Stage.DISPATCH
        self.released_ns = 0
        self.released_since_ns = 0  # 0: not in a call that releases the GIL
        self.release_count = 0
        self.start_ns = self._wall_mark_ns = time.monotonic_ns()
        self._cpu_mark_ns = 0  # the thread's CPU clock starts with the thread

    def switch(self, stage: str) -> str:
        """End the current stage, begin ``stage``, and return the one that ended."""
        wall_ns = time.monotonic_ns()
        cpu_ns = time.thread_time_ns()
        ended = self.stage
        totals = self.stages[ended]
        totals.cpu_ns += cpu_ns - self._cpu_mark_ns
        totals.wall_ns += wall_ns - self._wall_mark_ns
        self._cpu_mark_ns = cpu_ns
        self._wall_mark_ns = wall_ns
        self.stage = stage
        return ended

    def enter(self, stage: str) -> str:
        """Begin ``stage`` as a new call of it; return the stage to go back to."""
        totals = self.stages.get(stage)
        if totals is None:
            totals = self.stages[stage] = StageTotals()
        totals.call_count += 1
        return self.switch(stage)

    def cut(self, now_ns: int) -> LedgerCut:
        """The totals at ``now_ns`` (now). Callable from any thread that holds the GIL."""
        cpu_ns = time.clock_gettime_ns(self.clock_id)
        stages = {
            name: StageTotals(totals.cpu_ns, totals.wall_ns, totals.call_count)
            for name, totals in self.stages.items()
        }
        current = stages[self.stage]
        current.cpu_ns += cpu_ns - self._cpu_mark_ns
        current.wall_ns += now_ns - self._wall_mark_ns
        since_ns = self.released_since_ns
        released_ns = self.released_ns + (now_ns - since_ns if since_ns else 0)
        held_ns = now_ns - self.start_ns - released_ns
        return LedgerCut(self.tid, self.name, cpu_ns, held_ns, self.release_count, stages)


class _Current(threading.local):
    """The calling thread's ledger, opened on first use."""

    def __init__(self) -> None:
        self.ledger = Ledger(threading.current_thread().name)
        _ledgers.append(self.ledger)


_ledgers: list[Ledger] = []
_current = _Current()


def current() -> Ledger:
    """The calling thread's ledger."""
    return _current.ledger


def cut_all() -> tuple[int, list[LedgerCut]]:
    """Cut every ledger of this process at one instant; returns that instant and the cuts.

    Nothing here releases the GIL, so under `own_the_gil` no ledger moves meanwhile.
    """
    now_ns = time.monotonic_ns()
    return now_ns, [ledger.cut(now_ns) for ledger in _ledgers]


def own_the_gil() -> None:
    """Switch off forced GIL switches in this process: the ground of the GIL truth."""
    sys.setswitchinterval(_NO_FORCED_SWITCH_S)


def staged(stage: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Book the decorated function's own time under ``stage``. Not for coroutines."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def in_stage(*args: P.args, **kwargs: P.kwargs) -> R:
            ledger = _current.ledger
            outer = ledger.enter(stage)
            try:
                return function(*args, **kwargs)
            finally:
                ledger.switch(outer)

        return in_stage

    return decorate


def released(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a function that releases the GIL while it works or waits, and time it as released."""
    ledger = _current.ledger
    ledger.released_since_ns = time.monotonic_ns()
    try:
        return function(*args, **kwargs)
    finally:
        ledger.released_ns += time.monotonic_ns() - ledger.released_since_ns
        ledger.released_since_ns = 0
        ledger.release_count += 1
