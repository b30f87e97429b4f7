"""When threads were inside sched_yield(2), from the kernel's own tracepoints of the call."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from probes.perf.attributes import Flag, Sample, Type, attributes
from probes.perf.events import Event, open_event
from probes.perf.ring import Ring
from probes.perf.tracepoints import read_tracepoints
from probes.switches.plans import online_cpus

RING_BYTES: Final = 8 << 20
DRAIN_S: Final = 0.1
# A record of TID and TIME: header, ids, time, in words of 8 bytes.
RECORD_WORDS: Final = 3
I64 = NDArray[np.int64]


class YieldCalls:
    """The calls of all threads of the machine while it is `recording`."""

    def __init__(self) -> None:
        points = read_tracepoints(
            ("syscalls/sys_enter_sched_yield", "syscalls/sys_exit_sched_yield")
        )
        self._events: list[list[Event]] = [[], []]
        self._rings: list[list[Ring]] = [[], []]
        self._words: list[list[NDArray[np.uint64]]] = [[], []]
        for side, point in enumerate(points):
            attr = attributes(
                Type.TRACEPOINT, point.id, flags=Flag.DISABLED, sample_period=1,
                sample_type=Sample.TID | Sample.TIME, clockid=time.CLOCK_MONOTONIC,
            )  # fmt: skip
            for cpu in online_cpus():
                event = open_event(attr, -1, cpu)
                self._events[side].append(event)
                self._rings[side].append(Ring(event, RING_BYTES))

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record in the background."""
        stopping = threading.Event()

        def drain() -> None:
            while not stopping.wait(DRAIN_S):
                self._drain()

        thread = threading.Thread(target=drain)
        events = [one for side in self._events for one in side]
        for event in events:
            event.enable()
        thread.start()
        try:
            yield
        finally:
            stopping.set()
            thread.join()
            for event in events:
                event.disable()
            self._drain()

    def is_inside(self, tid: int, times_ns: I64) -> NDArray[np.bool_]:
        """Return at which instants a thread was inside the call."""
        entered, left = self._times_ns(0, tid), self._times_ns(1, tid)
        if not len(entered) or not len(left):
            return np.zeros(len(times_ns), np.bool_)
        last = np.searchsorted(entered, times_ns, side="right") - 1
        begun_ns = entered[np.maximum(last, 0)]
        end = np.searchsorted(left, begun_ns)
        ended_ns = left[np.minimum(end, len(left) - 1)]
        is_over = (ended_ns <= times_ns) & (end < len(left))
        return (last >= 0) & ~is_over

    def _times_ns(self, side: int, tid: int) -> I64:
        records = np.concatenate(self._words[side]).reshape(-1, RECORD_WORDS)
        own = records[records[:, 1] >> np.uint64(32) == np.uint64(tid), 2]
        return np.sort(own.astype(np.int64))

    def _drain(self) -> None:
        for rings, words in zip(self._rings, self._words, strict=True):
            words += [np.array(ring.drain()) for ring in rings]
