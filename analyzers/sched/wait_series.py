"""Waits for a CPU over time, in bins, for plots: the threads and stages that waited most.

Without context switches the threads' counters say how long each waited between two looks; stages
are not told then.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from analyzers.intervals import Intervals, Times, covered_before
from analyzers.looks import Counters, counters_by_thread
from analyzers.sched.histories import has_switches, read_histories
from analyzers.sched.stage_waits import stage_times
from analyzers.timeline import Thread, Timeline

BIN_COUNT: Final = 200
SHORTEST_BIN_NS: Final = 50_000_000  # one look at the counters
SHOWN_COUNT: Final = 8


def measure_series(timeline: Timeline) -> dict[str, Any] | None:
    """Return the section; None when neither switches nor counters were recorded."""
    if has_switches(timeline):
        return _by_switches(timeline)
    counters = timeline.once(counters_by_thread)
    return _by_counters(timeline, counters) if counters else None


def _edges(start_ns: int, end_ns: int) -> Times:
    count = int(np.clip((end_ns - start_ns) // SHORTEST_BIN_NS, 1, BIN_COUNT))
    return np.linspace(start_ns, end_ns, count + 1).astype(np.int64)


def _by_switches(timeline: Timeline) -> dict[str, Any]:
    histories = timeline.once(read_histories)
    edges = _edges(*histories.window)
    waits = {place: histories.waits(place) for place in range(len(histories.threads))}
    most = sorted(waits, key=lambda place: -waits[place].total())[:SHOWN_COUNT]
    threads = [
        _row(
            timeline.threads[histories.threads[place]],
            np.diff(covered_before(waits[place], edges)),
            np.diff(covered_before(histories.stays(place), edges)),
        )
        for place in most
        if len(waits[place])
    ]
    stages: dict[tuple[str, str], NDArray[np.int64]] = {}
    for place, own in waits.items():
        thread = timeline.threads[histories.threads[place]]
        for stage, shown in stage_times(timeline, thread).items():
            ns = _in_both(own, shown, edges)
            key = (thread.process.role, stage)
            stages[key] = stages[key] + ns if key in stages else ns
    largest = sorted(stages, key=lambda key: -int(stages[key].sum()))[:SHOWN_COUNT]
    return {
        "source": "switches",
        **_axis(edges),
        "threads": threads,
        "stages": [
            {"role": role, "stage": stage, "wait_seconds": _seconds(stages[role, stage])}
            for role, stage in largest
            if stages[role, stage].any()
        ],
    }


def _in_both(waits: Intervals, shown: Intervals, edges: Times) -> NDArray[np.int64]:
    """Return per bin how much of ``waits`` lies in ``shown``, of which there is far less."""
    cuts = np.sort(np.concatenate((edges, np.clip(shown.start, edges[0], edges[-1]),
                                   np.clip(shown.end, edges[0], edges[-1]))))  # fmt: skip
    waited = np.diff(covered_before(waits, cuts))
    is_shown = np.diff(covered_before(shown, cuts)) > 0
    place = np.searchsorted(edges, cuts[:-1], side="right") - 1
    ns = np.bincount(np.minimum(place, len(edges) - 2), waited * is_shown, len(edges) - 1)
    return ns.astype(np.int64)


def _by_counters(timeline: Timeline, counters: dict[int, Counters]) -> dict[str, Any]:
    start = min(int(one.edges[0]) for one in counters.values())
    end = max(int(one.edges[-1]) for one in counters.values())
    edges = _edges(start, end)
    most = sorted(counters, key=lambda track: -int(counters[track].wait_ns.sum()))[:SHOWN_COUNT]
    return {
        "source": "counters",
        **_axis(edges),
        "threads": [
            _row(
                timeline.threads[track],
                _spread(counters[track], counters[track].wait_ns, edges),
                _spread(counters[track], counters[track].run_ns, edges),
            )
            for track in most
            if counters[track].wait_ns.any()
        ],
        "stages": [],
    }


def _spread(counters: Counters, values: Times, edges: Times) -> NDArray[np.float64]:
    """Return a column of look intervals by bins; an interval is cut in proportion."""
    total = np.concatenate(([0], np.cumsum(values)))
    return np.diff(np.interp(edges, counters.edges, total))


def _axis(edges: Times) -> dict[str, Any]:
    return {
        "start_ns": int(edges[0]),
        "bin_seconds": float(edges[-1] - edges[0]) / 1e9 / (len(edges) - 1),
        "bin_count": len(edges) - 1,
    }


def _row(thread: Thread, wait: NDArray[Any], run: NDArray[Any]) -> dict[str, Any]:
    return {
        "pid": thread.process.pid,
        "role": thread.process.role,
        "tid": thread.tid,
        "name": thread.name,
        "wait_seconds": _seconds(wait),
        "cpu_seconds": _seconds(run),
    }


def _seconds(ns: NDArray[Any]) -> list[float]:
    return [round(one, 6) for one in (ns / 1e9).tolist()]
