"""Each thread's way through the scheduler: its stays on CPUs, and what was between them.

A stay is a row of ``cpu_slices``. What lies between two stays of a thread is told by why it left
the first: it was blocked until it was woken and then waited for a CPU, or it was ready all along,
pushed off or having given way. The stays and what is between them fill the time from a thread's
first row to its last without holes or overlaps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from analyzers.intervals import Intervals, Times, intervals
from analyzers.timeline import Timeline, column
from collectors.cpu_slices import BLOCKED, NONE, PREEMPTED, READY, YIELDED

UNSEEN: Final = 0  # why a thread left was not seen: switches were lost, or it was still there
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Histories:
    """Stays in order of thread and time; all columns are equally long.

    Between the stay before and this one the thread was off the CPU in ``[left, start)``. From
    ``left`` to ``ready`` it was blocked (or it is not known what it was), from ``ready`` to
    ``start`` it wanted a CPU and had none. Nothing is known of a thread before its first stay but
    when it was woken for it.
    """

    threads: list[int]  # tracks
    thread: NDArray[np.int16] | NDArray[np.int32]  # place in ``threads``
    start: Times
    end: Times
    cpu: NDArray[np.int16]
    left: Times
    ready: Times
    why: NDArray[np.int8]  # it left before: see `collectors.cpu_slices`; `UNSEEN`
    gave_to: NDArray[np.int32]  # the track that got the CPU then; NONE: not seen
    is_wake_seen: Mask  # it was blocked, and ``ready`` is when it was woken

    def __len__(self) -> int:
        return len(self.start)

    @cached_property
    def bounds(self) -> NDArray[np.intp]:
        """Where each thread's rows begin, and their number at the end."""
        return np.searchsorted(self.thread, np.arange(len(self.threads) + 1))

    def rows_of(self, place: int) -> slice:
        """Return the rows of a thread by its place in ``threads``."""
        return slice(int(self.bounds[place]), int(self.bounds[place + 1]))

    @cached_property
    def window(self) -> tuple[int, int]:
        """From the first instant of which anything is known to the last, ns."""
        return int(self.left.min()), int(self.end.max())

    @property
    def window_ns(self) -> int:
        """How long that is."""
        return self.window[1] - self.window[0]

    def sums(self, ns: NDArray[Any]) -> Times:
        """Return the sum of a column for each thread; exact, for sums stay below 2^53 ns."""
        return np.bincount(self.thread, ns, len(self.threads)).astype(np.int64)

    def waits(self, place: int, *, of: tuple[int, ...] = (PREEMPTED, BLOCKED)) -> Intervals:
        """Return when a thread waited for a CPU; ``of``: having left for one of these reasons.

        A thread that gave way by itself is left out unless asked for: it may only have polled.
        """
        rows = self.rows_of(place)
        chosen = np.isin(self.why[rows], of)
        return intervals(self.ready[rows][chosen], self.start[rows][chosen])

    def stays(self, place: int) -> Intervals:
        """Return when a thread was on a CPU."""
        rows = self.rows_of(place)
        return intervals(self.start[rows], self.end[rows])


def read_histories(timeline: Timeline) -> Histories:
    """Return the histories of the target's threads; without a row where none was recorded."""
    table = timeline.capture.table("cpu_slices")
    track = column(table, "track", np.int32)
    threads, thread = _places(track, timeline)
    is_own = thread >= 0
    if not is_own.all():
        table, thread = table.filter(pa.array(is_own)), thread[is_own]
    time = column(table, "time_ns")
    order = _order(thread, time)
    thread, start = thread[order], time[order]
    end = start + column(table, "duration_ns")[order]
    woken = _known(table, "woken_ns", NONE, np.int64)[order]
    is_first = np.ones(len(start), np.bool_)
    is_first[1:] = thread[1:] != thread[:-1]
    if len(start):
        # Rows that overlap cannot be: the earlier one is cut, so that times still add up.
        is_next_own = ~np.append(is_first[1:], True)
        end = np.where(is_next_own, np.minimum(end, np.roll(start, -1)), end)
    left, why, gave_to = (
        _before(end, is_first, 0),
        _before(_known(table, "leave", UNSEEN, np.int8)[order], is_first, BLOCKED),
        _before(_known(table, "next", NONE, np.int32)[order], is_first, NONE),
    )
    is_woken = (woken != NONE) & (woken <= start) & (why == BLOCKED)
    left = np.where(is_first, np.where(is_woken, woken, start), left)
    # A thread may be woken just before it is off its CPU.
    ready = np.where(is_woken, np.maximum(woken, left), start)
    ready = np.where(np.isin(why, (PREEMPTED, YIELDED, READY)), left, ready)
    cpu = column(table, "cpu", np.int16)[order]
    return Histories(threads, thread, start, end, cpu, left, ready, why, gave_to, is_woken)


def has_switches(timeline: Timeline) -> bool:
    """Return whether context switches of the target's threads were recorded."""
    return len(timeline.once(read_histories)) > 0


def _places(
    track: NDArray[np.int32], timeline: Timeline
) -> tuple[list[int], NDArray[np.int16] | NDArray[np.int32]]:
    """Return the threads that have rows, and each row's place among them; -1: no such thread."""
    highest = int(track.max()) if len(track) else 0
    is_there = np.zeros(highest + 1, np.bool_)
    is_there[track] = True
    threads = [one for one in sorted(timeline.threads) if one <= highest and is_there[one]]
    place = np.full(highest + 1, -1, np.int32)
    place[threads] = np.arange(len(threads))
    # Sorting 16 bits is ten times as fast.
    return threads, place[track].astype(np.int16) if len(threads) < 1 << 15 else place[track]


def _order(thread: NDArray[Any], time: Times) -> NDArray[np.intp]:
    if bool((time[1:] >= time[:-1]).all()):
        return np.argsort(thread, kind="stable")
    return np.lexsort((time, thread))


def _before(values: NDArray[Any], is_first: Mask, instead: int) -> NDArray[Any]:
    """Return the value of the row before; ``instead`` for a thread's first."""
    return np.where(is_first, values.dtype.type(instead), np.roll(values, 1))


def _known(table: pa.Table, name: str, instead: int, kind: type[np.generic]) -> NDArray[Any]:
    return np.asarray(pc.fill_null(table[name], instead).to_numpy(), dtype=kind)
