"""Thread counters as look intervals: what each thread ran and waited between two looks.

The counters are cumulative and a row exists only when something changed, so a thread without a row
at a look did nothing since the look before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from analyzers.intervals import Times
from analyzers.timeline import Timeline, column, rows_by

# The kernel books run time of a running thread with a delay of up to a tick: 10 ms was seen.
# Differences over less than twice that are noise.
SHORTEST_NS: Final = 20_000_000
# Rows of one look carry one time; a recorder that stamped each would spread them by far less.
ONE_LOOK_NS: Final = 1_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Counters:
    """One thread between looks: ``edges`` (n + 1) bound the intervals, the rest has n values."""

    edges: Times
    run_ns: Times
    wait_ns: Times  # runnable, waiting for a CPU
    timeslice_count: int
    voluntary_count: int | None
    involuntary_count: int | None

    @property
    def observed_ns(self) -> int:
        """From the process's first look to its last."""
        return int(self.edges[-1] - self.edges[0])

    def shares_of(self, start_ns: int, end_ns: int) -> NDArray[np.float64]:
        """Return how much of each interval lies in a window, as a ratio."""
        low, high = np.maximum(self.edges[:-1], start_ns), np.minimum(self.edges[1:], end_ns)
        shares: NDArray[np.float64] = np.clip(high - low, 0, None) / np.diff(self.edges)
        return shares

    def wait_ns_between(self, start_ns: int, end_ns: int) -> float:
        """Return the wait in a window; intervals are cut in proportion."""
        return float((self.wait_ns * self.shares_of(start_ns, end_ns)).sum())


def counters_by_thread(timeline: Timeline) -> dict[int, Counters]:
    """Return the counters of each thread by its track; a thread looked at once is left out."""
    table = timeline.capture.table("thread_counters")
    rows_of = {
        track: rows for track, rows in rows_by(table, "track").items() if track in timeline.threads
    }
    time = column(table, "time_ns")
    run, wait = column(table, "run_ns"), column(table, "wait_ns")
    slices = column(table, "timeslice_count")
    voluntary = column(table, "voluntary_count", np.float64)
    involuntary = column(table, "involuntary_count", np.float64)
    looks: dict[int, list[Times]] = {}
    for track, rows in rows_of.items():
        looks.setdefault(timeline.threads[track].process.track, []).append(time[rows])
    edges_of = {process: look_edges(np.concatenate(times)) for process, times in looks.items()}
    found: dict[int, Counters] = {}
    for track, rows in rows_of.items():
        edges = edges_of[timeline.threads[track].process.track]
        if len(edges) < 2:
            continue
        times = time[rows]
        is_new = bool(times[0] > edges[0]) and bool(run[rows[0]] <= times[0] - edges[0])
        found[track] = Counters(
            edges,
            _per_interval(times, run[rows], edges, counts_first=is_new),
            _per_interval(times, wait[rows], edges, counts_first=is_new),
            int(_rises(slices[rows]).sum()),
            _rise_of_known(voluntary[rows]),
            _rise_of_known(involuntary[rows]),
        )
    return found


def look_edges(times: Times) -> Times:
    """Return the instants between which differences are taken, at least `SHORTEST_NS` apart.

    The last look is always one of them, so that nothing is left over.
    """
    unique = np.unique(times)
    is_last_of_look = np.concatenate((np.diff(unique) > ONE_LOOK_NS, [True]))
    looks = unique[is_last_of_look].tolist()
    kept = [looks[0]]
    for look in looks[1:]:
        if look - kept[-1] >= SHORTEST_NS:
            kept.append(look)
    if kept[-1] != looks[-1]:
        kept = [*kept[:-1], looks[-1]] if len(kept) > 1 else [*kept, looks[-1]]
    return np.array(kept, np.int64)


def _per_interval(times: Times, values: Times, edges: Times, *, counts_first: bool) -> Times:
    """Return how much a cumulative counter rose in each interval.

    A thread that appears between two looks began there: what it has by then belongs to the
    interval. That does not hold for one with more time than has passed.
    """
    base = values[0] if counts_first else 0
    risen = np.concatenate(([0], base + np.concatenate(([0], np.cumsum(_rises(values))))))
    return np.diff(risen[np.searchsorted(times, edges, side="right")])


def _rises(values: Times) -> Times:
    """Return the differences; a counter that fell began anew (the kernel reused the thread id)."""
    steps = np.diff(values)
    return np.where(steps < 0, values[1:], steps)


def _rise_of_known(values: NDArray[np.float64]) -> int | None:
    """Return the rise between the first and the last look that read this counter."""
    known = values[~np.isnan(values)]
    return int(known[-1] - known[0]) if len(known) > 1 else None
