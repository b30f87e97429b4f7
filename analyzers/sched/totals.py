"""Per thread: how long it ran, was blocked, and waited for a CPU, and for which reason.

Without wake-up events it is not seen when a blocked thread became ready. The kernel's own total of
its waits (run_delay in schedstat) then says how long that was: what is left of it after the gaps in
which it was pushed off or had given way. Such figures are marked as inferred.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from analyzers.intervals import Times
from analyzers.looks import counters_by_thread
from analyzers.sched.histories import UNSEEN, Histories, read_histories
from analyzers.timeline import Thread, Timeline
from collectors.cpu_slices import BLOCKED, PREEMPTED, READY, YIELDED

# Of a thread's wake-ups so many must have been seen for the sum of its waits to count as measured.
SEEN_RATIO: Final = 0.95


class Wake(StrEnum):
    """How it is known how long a thread waited after it was woken."""

    MEASURED = "measured"
    INFERRED = "inferred"  # the kernel's total, less what was seen
    UNKNOWN = "unknown"  # then the waits are part of the time it was blocked


@dataclass(frozen=True, slots=True)
class ThreadTotals:
    """Sums over one thread's history, ns. They add up to ``observed_ns`` exactly."""

    thread: Thread
    place: int  # in `Histories.threads`
    observed_ns: int
    on_cpu_ns: int
    blocked_ns: int
    waking_ns: int  # woken, and no CPU yet
    preempted_ns: int
    yielded_ns: int
    untold_ns: int  # one of these two
    unseen_ns: int
    wake: Wake
    stay_count: int
    blocked_count: int
    wake_seen_count: int
    preempted_count: int
    yielded_count: int
    longest_wait_ns: int
    wake_p50_ns: int | None  # of those that were seen
    wake_p99_ns: int | None

    @property
    def wait_ns(self) -> int:
        """Ready to run and without a CPU, for whatever reason: what the kernel calls run_delay."""
        return self.waking_ns + self.preempted_ns + self.yielded_ns + self.untold_ns


def measure_totals(timeline: Timeline) -> list[ThreadTotals]:
    """Return the totals of every thread with a history, in order of tracks."""
    histories = timeline.once(read_histories)
    return [_with_inferred(timeline, histories, one) for one in _seen_totals(timeline, histories)]


def _seen_totals(timeline: Timeline, histories: Histories) -> list[ThreadTotals]:
    off, wait = histories.start - histories.left, histories.start - histories.ready

    def ns_of(why: int, ns: Times) -> Times:
        return histories.sums(np.where(histories.why == why, ns, 0))

    def count_of(mask: NDArray[np.bool_]) -> Times:
        return histories.sums(mask)

    on_cpu = histories.sums(histories.end - histories.start)
    waking = ns_of(BLOCKED, wait)
    blocked = ns_of(BLOCKED, off) - waking
    preempted, yielded, untold, unseen = (
        ns_of(why, off) for why in (PREEMPTED, YIELDED, READY, UNSEEN)
    )
    blocked_count = count_of((histories.why == BLOCKED) & ((off > 0) | histories.is_wake_seen))
    wake_seen, preempted_count, yielded_count = (
        count_of(mask)
        for mask in (
            histories.is_wake_seen,
            histories.why == PREEMPTED,
            histories.why == YIELDED,
        )
    )
    longest = np.maximum.reduceat(wait, histories.bounds[:-1]) if len(wait) else wait
    found = []
    for place, track in enumerate(histories.threads):
        rows = histories.rows_of(place)
        seen = wait[rows][histories.is_wake_seen[rows]]
        p50, p99 = (int(one) for one in np.percentile(seen, (50, 99))) if len(seen) else (None,) * 2
        is_measured = wake_seen[place] >= SEEN_RATIO * blocked_count[place]
        found.append(
            ThreadTotals(
                timeline.threads[track],
                place,
                int(histories.end[rows][-1] - histories.left[rows][0]),
                int(on_cpu[place]),
                int(blocked[place]),
                int(waking[place]),
                int(preempted[place]),
                int(yielded[place]),
                int(untold[place]),
                int(unseen[place]),
                Wake.MEASURED if is_measured else Wake.UNKNOWN,
                rows.stop - rows.start,
                int(blocked_count[place]),
                int(wake_seen[place]),
                int(preempted_count[place]),
                int(yielded_count[place]),
                int(longest[place]),
                p50,
                p99,
            )
        )
    return found


def _with_inferred(timeline: Timeline, histories: Histories, totals: ThreadTotals) -> ThreadTotals:
    """Take the waits that no event told from the kernel's total, where it was read."""
    counters = timeline.once(counters_by_thread).get(totals.thread.track)
    if totals.wake is Wake.MEASURED or counters is None:
        return totals
    rows = histories.rows_of(totals.place)
    begun, ended = int(histories.left[rows][0]), int(histories.end[rows][-1])
    waited = round(counters.wait_ns_between(begun, ended))
    more = waited - totals.wait_ns
    more = max(0, min(more, totals.blocked_ns))
    return replace(
        totals,
        waking_ns=totals.waking_ns + more,
        blocked_ns=totals.blocked_ns - more,
        wake=Wake.INFERRED,
    )
