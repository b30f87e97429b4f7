"""A/B windows with the server's own counters: what a plan is worth, and every mask back after it.

Two windows stand side by side in a random order, so that what drifts (the load, the clock, the
neighbours) is the same for both in the long run; half of the pairs begin with each. Every window
begins with a pause in which what the switch has stirred up settles, the first masks' windows too.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Final

from collectors.errors import CputaxError, ExitCode, TargetExited
from probes.target import Target
from profiler.pin.affinity import Kernel, Outcome, hold
from profiler.pin.gain import Gain, gain_of
from profiler.pin.guardian import Guardian
from profiler.pin.plan import Plan
from profiler.pin.throughput import MEASURES, THROUGHPUT, MetricsLost, Window, look, window_of

TICK_S: Final = 0.2
LOAD_LOOK_S: Final = 2.0  # a loaded server makes a token in less


class NothingToTry(CputaxError):
    """The plan moves nothing."""

    slug = "nothing-to-try"
    exit_code = ExitCode.USAGE


class NoLoad(CputaxError):
    """The server does nothing, so nothing can be said of its speed."""

    slug = "no-load"
    exit_code = ExitCode.TARGET

    def __init__(self, url: str) -> None:
        super().__init__(
            f"the server at {url} made no token in {LOAD_LOOK_S:.0f} s; nothing can be compared",
            "put it under its usual load first, or under one of ours: "
            f"cputax load run --url {url} --users 16 -d 10m",
        )


class PinForbidden(CputaxError):
    """The kernel does not let us move the server's threads."""

    slug = "pin-forbidden"
    exit_code = ExitCode.PERMISSION


class StopReason(StrEnum):
    """Why there are no more windows."""

    COMPLETE = "complete"
    USER = "user"
    TARGET_EXITED = "target-exited"


@dataclass(frozen=True, slots=True)
class Schedule:
    """How many windows, and how long each and the pause before it are."""

    pair_count: int
    window_s: float
    settle_s: float

    @property
    def seconds(self) -> float:
        """How long all of it takes."""
        return 2 * self.pair_count * (self.window_s + self.settle_s)


@dataclass(slots=True)
class Result:
    """What a trial found, and what became of the masks."""

    windows: list[Window] = field(default_factory=list)
    stop_reason: StopReason = StopReason.COMPLETE
    process_count: int = 0  # that were moved to and fro
    thread_count: int = 0  # of theirs
    newborn: list[tuple[int, int]] = field(default_factory=list)
    foreign: list[tuple[int, int]] = field(default_factory=list)
    refused: list[tuple[int, int]] = field(default_factory=list)

    @property
    def pairs(self) -> list[tuple[Window, Window]]:
        """The pairs (without, with) in which the server had load both times."""
        found = []
        for first, second in pairwise(self.windows):
            if first.index % 2 == 0 and first.has_load and second.has_load:
                found.append((second, first) if first.is_pinned else (first, second))
        return found

    def gain(self, name: str) -> Gain | None:
        """Return the gain of a measure; None when no pair tells."""
        values = [(one.values[name], other.values[name]) for one, other in self.pairs]
        return gain_of([(before, after) for before, after in values if before and after])

    @property
    def throughput(self) -> Gain | None:
        """The gain that the verdict is about."""
        return self.gain(THROUGHPUT.name)

    @property
    def gains(self) -> dict[str, Gain]:
        """The gain of each measure that has one."""
        found = {measure.name: self.gain(measure.name) for measure in MEASURES}
        return {name: gain for name, gain in found.items() if gain is not None}


def order_of(pair_count: int, chooser: random.Random) -> list[bool]:
    """Return for each window whether it is pinned: half of the pairs begin with it, at random."""
    begins = [index % 2 == 0 for index in range(pair_count)]
    chooser.shuffle(begins)
    return [is_pinned for begin in begins for is_pinned in (begin, not begin)]


class Trial:
    """Tries ``plan`` on ``target``, whose counters are at ``url``."""

    def __init__(
        self, target: Target, plan: Plan, url: str, schedule: Schedule, kernel: Kernel,
        stop_requested: threading.Event, chooser: random.Random | None = None,
    ) -> None:  # fmt: skip
        self._target = target
        self._plan = plan
        self._url = url
        self._schedule = schedule
        self._kernel = kernel
        self._stop_requested = stop_requested
        self._order = order_of(schedule.pair_count, chooser or random.Random())

    def check(self) -> None:
        """Look, without changing anything, whether there is something to try and to measure.

        Raises:
            NothingToTry: the plan moves nothing.
            PinForbidden: we may not move the server's threads.
            TargetExited: one of its processes is gone.
            NoLoad: the server makes no tokens.
            MetricsLost: it does not answer.
        """
        if not self._plan.moves:
            raise NothingToTry(
                "the plan moves nothing, so there is nothing to try",
                "name masks of your own, as --cpus api_server=0-3 --cpus engine_core=4",
            )
        for move in self._plan.moves:
            self._check_permission(move.member.pid)
        before = look(self._url)
        deadline_s = time.monotonic() + LOAD_LOOK_S
        while not self._stop_requested.wait(TICK_S):
            window = window_of(0, False, before, look(self._url))
            if window.has_load or window.request_count:
                return
            if time.monotonic() > deadline_s:
                raise NoLoad(self._url)

    def run(self, watch: Callable[[int, bool], None]) -> Result:
        """Do it; ``watch`` is told each window's index and whether it is pinned when it begins.

        When this returns or raises, the masks are back.

        Raises:
            GuardianFailed: nothing was changed.
            GuardianGone: the guardian was killed.
            MetricsLost: the server's counters cannot be read any more.
        """
        result = Result()
        pinned = {one.member.pid: one.proposed for one in self._plan.moves if one.proposed}
        held = hold(self._kernel, pinned)
        result.process_count = len(held.processes)
        result.thread_count = sum(process.moving_count for process in held.processes)
        with Guardian(held, self._kernel) as guardian:
            for index, is_pinned in enumerate(self._order):
                if self._stop_requested.is_set():
                    break
                watch(index, is_pinned)
                outcome = guardian.impose() if is_pinned else guardian.restore()
                _note(result, outcome, is_restored=not is_pinned)
                window = self._measure(index, is_pinned, guardian)
                if window is None:
                    break
                result.windows.append(window)
            _note(result, guardian.restore(), is_restored=True)
            _note(result, guardian.close(), is_restored=True)
        if self._stop_requested.is_set():
            result.stop_reason = StopReason.USER
        elif len(result.windows) < len(self._order):
            result.stop_reason = StopReason.TARGET_EXITED
        return result

    def _measure(self, index: int, is_pinned: bool, guardian: Guardian) -> Window | None:
        """Return the window; None when it was cut short."""
        if not self._wait(self._schedule.settle_s, guardian):
            return None
        try:
            before = look(self._url)
            if not self._wait(self._schedule.window_s, guardian):
                return None
            return window_of(index, is_pinned, before, look(self._url))
        except MetricsLost:
            if self._is_alive:
                raise
            return None

    def _wait(self, seconds: float, guardian: Guardian) -> bool:
        """Wait; return whether nothing has come between."""
        deadline_s = time.monotonic() + seconds
        while (rest_s := deadline_s - time.monotonic()) > 0:
            guardian.beat()
            if self._stop_requested.wait(min(rest_s, TICK_S)) or not self._is_alive:
                return False
        return True

    @property
    def _is_alive(self) -> bool:
        return self._target.is_alive(self._target.processes[self._target.root_pid])

    def _check_permission(self, pid: int) -> None:
        """Ask the kernel by giving the main thread the mask that it has."""
        try:
            self._kernel.set_mask(pid, self._kernel.mask(pid))
        except ProcessLookupError as error:
            raise TargetExited(f"process {pid} has exited", "find a live one: cputax ps") from error
        except PermissionError as error:
            raise PinForbidden(
                f"not allowed to say where process {pid} runs",
                "run as its user or as root: "
                f"sudo $(command -v cputax) pin --trial {self._target.root_pid}; "
                "in a container add the capability SYS_NICE",
            ) from error


def _note(result: Result, outcome: Outcome, *, is_restored: bool) -> None:
    """Add what a pass over the threads did."""
    if is_restored:
        result.newborn = sorted({*result.newborn, *outcome.newborn})
    result.foreign = sorted({*result.foreign, *outcome.foreign})
    result.refused = sorted({*result.refused, *outcome.refused})
