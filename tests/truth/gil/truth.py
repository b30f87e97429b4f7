"""Puts the workload's spans together: who held the GIL when, and how long each waited for it.

What cannot be told from inside is an interval, ``(low, high)``: on a quiet machine they meet.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

FREE = 0
UNSURE = -1
Interval = tuple[int, int]


@dataclass
class ThreadTruth:
    """One thread. Times are CLOCK_MONOTONIC ns."""

    tid: int
    begin_ns: int
    end_ns: int
    cpu_ns: int
    run_delay_ns: int  # without a CPU, by the scheduler's account
    wants: list[Interval]
    holds: list[Interval] = field(default_factory=list)
    handovers: list[Interval] = field(default_factory=list)  # it may have held it then too
    preempted_ns: int = 0  # without a CPU while it held the GIL

    def held_ns(self, start_ns: int, end_ns: int) -> Interval:
        """Return how long it held the GIL in the window."""
        low = overlap_ns(self.holds, start_ns, end_ns)
        return low, low + overlap_ns(self.handovers, start_ns, end_ns)

    def waited_ratio(self, start_ns: int, end_ns: int) -> tuple[float, float]:
        """Return the part of the window in which it waited for the GIL.

        A thread that is on its way to the lock without a CPU waits for the one or the other: the
        low end leaves that time out.
        """
        if self.wants:
            held_low, held_high = self.held_ns(start_ns, end_ns)
            wanted_ns = overlap_ns(self.wants, start_ns, end_ns)
            delay_ns = max(0, self.run_delay_ns - self.preempted_ns)
            length_ns = end_ns - start_ns
            return (wanted_ns - held_high - delay_ns) / length_ns, (
                wanted_ns - held_low
            ) / length_ns
        life_ns = self.end_ns - self.begin_ns
        off_cpu_ns = life_ns - self.cpu_ns
        return (off_cpu_ns - self.run_delay_ns) / life_ns, off_cpu_ns / life_ns


def join_spans(document: list[dict[str, Any]]) -> dict[str, ThreadTruth]:
    """Tell the late readings of the clock apart.

    When no other thread ran Python between two spans of one thread within one section, the thread
    had the GIL all along and only lost its CPU: the two are one hold. Otherwise the GIL went to
    the next thread at some instant in between: one that lost its CPU and is told to let go does so
    before it reads the clock again, and one that got the GIL may lose its CPU before it reads it.
    """
    truths = {}
    for row in document:
        fields = ("tid", "begin_ns", "end_ns", "cpu_ns", "run_delay_ns")
        wants = [(start, end) for start, end in row["wants"]]
        truths[row["name"]] = ThreadTruth(**{name: row[name] for name in fields}, wants=wants)
    unfinished = _unfinished(document)
    spans = sorted(
        (start, end, row["name"], section)
        for row in document
        for section, start, end in row["spans"]
    )
    previous: tuple[str, int, int] | None = None
    for start, end, name, section in spans:
        truth = truths[name]
        begin = start
        if previous is not None and previous[:2] == (name, section):
            before = truth.holds.pop()
            truth.preempted_ns += start - before[1]
            begin = before[0]
        elif previous is not None:
            before_name, _, gap_ns = previous
            if (before_name, gap_ns) in unfinished:
                truths[before_name].handovers.append((gap_ns, start))
            if truth.wants and (asked_ns := max(gap_ns, truth.wants[section][0])) < start:
                truth.handovers.append((asked_ns, start))
        truth.holds.append((begin, end))
        previous = (name, section, end)
    return truths


def _unfinished(document: list[dict[str, Any]]) -> set[tuple[str, int]]:
    """Return the spans, as (thread, end), after which their section went on."""
    return {
        (row["name"], end)
        for row in document
        for (section, _, end), (following, _, _) in itertools.pairwise(row["spans"])
        if section == following
    }


def overlap_ns(intervals: list[Interval], start_ns: int, end_ns: int) -> int:
    """Return how much of the window the intervals cover."""
    return sum(max(0, min(b, end_ns) - max(a, start_ns)) for a, b in intervals)


def holders_at(
    truths: dict[str, ThreadTruth], times_ns: npt.NDArray[np.int64], margin_ns: int
) -> npt.NDArray[np.int64]:
    """Return who held the GIL at each instant: a thread id, FREE, or UNSURE.

    It is unsure in handovers and within ``margin_ns`` of a change.
    """
    pieces = sorted(
        [(a, b, truth.tid) for truth in truths.values() for a, b in truth.holds]
        + [(a, b, UNSURE) for truth in truths.values() for a, b in truth.handovers]
    )
    starts = np.asarray([piece[0] for piece in pieces], np.int64)
    ends = np.asarray([piece[1] for piece in pieces], np.int64)
    tids = np.asarray([piece[2] for piece in pieces], np.int64)
    at = np.clip(np.searchsorted(starts, times_ns, "right") - 1, 0, None)
    following = np.clip(at + 1, None, len(starts) - 1)
    result = np.where(times_ns < ends[at], tids[at], FREE)
    edges = (starts[at], ends[at], starts[following])
    distance_ns = np.minimum.reduce([np.abs(times_ns - edge) for edge in edges])
    return np.where(distance_ns < margin_ns, UNSURE, result)
