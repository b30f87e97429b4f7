"""Open the events of a plan, and take what they record."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

import numpy as np

from probes.perf.errors import CpuOffline, PerfTargetGone, RingRefused, open_error
from probes.perf.events import Event, open_event
from probes.perf.ring import Ring
from probes.switches.plans import EVERY_THREAD, WHAT, Plan
from probes.switches.records import Drained

# A switch takes 64 to 112 bytes and its wake-up 64: a ring holds more than a second of 40 thousand
# a second on one CPU. On a large host, where they are spread, each CPU needs less.
RING_BYTES: Final = 8 << 20
ALL_RINGS_BYTES: Final = 128 << 20
LEAST_RING_BYTES: Final = 64 << 10
RECORD_BYTES: Final = 128  # more than any but a COMM record takes
_ROUNDS: Final = 5  # for threads that start while events are opened


def ring_bytes(cpu_count: int) -> int:
    """Return the size of a CPU's ring, a power of two."""
    share = ALL_RINGS_BYTES // max(1, cpu_count)
    return min(RING_BYTES, max(LEAST_RING_BYTES, 1 << share.bit_length() - 1))


class Source:
    """Open events and their rings, one ring per CPU; close it."""

    def __init__(
        self, plan: Plan, cpus: Iterable[int], size_bytes: int, tids: Callable[[], Iterable[int]]
    ) -> None:
        """Open everything, recording nothing yet.

        Args:
            plan: which events.
            cpus: those to look at; one that is offline is left out.
            size_bytes: of a ring; less is taken where the kernel gives no more.
            tids: returns the target's threads, for a plan per task.

        Raises:
            PerfError: an event or a ring is refused.
        """
        self.plan = plan
        self.cpus: list[int] = []
        self.rings: list[Ring] = []
        self._owners: list[Event] = []  # of the rings
        self._extras: list[tuple[Event, Event]] = []  # that write into an owner's ring
        self._others: list[Event] = []  # of more threads; they do as well
        self._followed: set[int] = set()  # threads with events of their own
        self._is_enabled = False
        try:
            self._open(cpus, _any_of(tids()) if plan.is_per_task else EVERY_THREAD)
            self._map(size_bytes)
            if plan.is_per_task:
                for _ in range(_ROUNDS):
                    if not self.follow(tids()):
                        break
        except BaseException:
            self.close()
            raise

    def _open(self, cpus: Iterable[int], tid: int) -> None:
        self._followed.add(tid)
        for cpu in cpus:
            with suppress(CpuOffline):
                self._owners.append(open_event(self.plan.attr, tid, cpu, what=WHAT))
                self.cpus.append(cpu)
                for attr, expression in self.plan.extras:
                    extra = open_event(attr, tid, cpu, what=WHAT)
                    self._extras.append((extra, self._owners[-1]))
                    if expression:
                        extra.set_filter(expression)

    def _map(self, size_bytes: int) -> None:
        while True:
            try:
                for owner in self._owners:
                    self.rings.append(Ring(owner, size_bytes))
            except RingRefused:
                while self.rings:
                    self.rings.pop().close()
                if size_bytes <= LEAST_RING_BYTES:
                    raise
                size_bytes //= 2
            else:
                break
        for extra, owner in self._extras:
            extra.set_output(owner)

    def follow(self, tids: Iterable[int]) -> int:
        """Watch threads that have no events yet; return how many there were.

        A thread that was started by a watched one has inherited its events. One that has both is
        recorded twice, and its second pair of switches pairs with nothing.
        """
        fresh = [tid for tid in tids if tid not in self._followed]
        for tid in fresh:
            self._followed.add(tid)
            with suppress(PerfTargetGone):
                for cpu, owner in zip(self.cpus, self._owners, strict=True):
                    event = open_event(self.plan.attr, tid, cpu, what=WHAT)
                    self._others.append(event)
                    event.set_output(owner)
                    if self._is_enabled:
                        event.enable()
        return len(fresh)

    @property
    def ring_bytes(self) -> int:
        """The size of a ring."""
        return self.rings[0].size_bytes

    def enable(self) -> int:
        """Begin to record; return since when that is true of every CPU."""
        self._is_enabled = True
        for event in self._events():
            event.enable()
        return time.monotonic_ns()

    def disable(self) -> int:
        """Stop recording; return until when it was true of every CPU."""
        now_ns = time.monotonic_ns()
        for event in self._events():
            event.disable()
        return now_ns

    @property
    def is_full(self) -> bool:
        """Whether a ring has no room for another record: what came since is lost."""
        return any(ring.size_bytes - ring.fill_bytes < RECORD_BYTES for ring in self.rings)

    def drain(self) -> Drained:
        """Take what all rings hold."""
        parts = [ring.drain() for ring in self.rings]
        starts = np.zeros(len(parts) + 1, np.int64)
        np.cumsum([len(part) for part in parts], out=starts[1:])
        return Drained(np.concatenate(parts), starts)

    def close(self) -> None:
        """Let go of everything; the kernel does it as well when this process dies."""
        for ring in self.rings:
            ring.close()
        for event in self._events():
            event.close()
        self.rings, self._owners, self._extras, self._others = [], [], [], []

    def _events(self) -> list[Event]:
        return [*(extra for extra, _ in self._extras), *self._others, *self._owners]


def _any_of(tids: Iterable[int]) -> int:
    for tid in tids:
        return tid
    raise open_error(errno.ESRCH, WHAT, -1)
