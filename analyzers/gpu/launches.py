"""Who launched what ran on a GPU, how long before, and how much waited in line.

A call of the GPU's runtime and what it put on the GPU carry the same correlation id, which is
unique within a process. The replay of a graph is one call for all of the graph's kernels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from analyzers.gpu.busy import Category, Ids, Rows, is_sorted, union_ns
from analyzers.gpu.work import Work, measure_work
from analyzers.intervals import Times
from analyzers.timeline import Timeline
from collectors.slices import API, NONE

GRAPH_LAUNCH: Final = re.compile(r"(?:hip|cuda|cu)GraphLaunch")
PERCENTS: Final = (50, 90, 99)
BIN_COUNT: Final = 100

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Launches:
    """Of each slice of one GPU, in the order of its rows; `NONE`: not in the capture."""

    call: Rows  # the number of the slice that is its launch call
    thread: Ids  # the track of the thread that launched it
    is_graph: Bools  # whether a graph's replay launched it


def measure_launches(timeline: Timeline) -> dict[int, Launches]:
    """Return the launches of every GPU, by its track."""
    work = timeline.once(measure_work)
    calls = dict(_calls_by_process(work))
    return {track: _link(work, rows, calls) for track, rows in work.rows.items()}


def graph_calls(work: Work, rows: NDArray[np.integer[Any]]) -> Bools:
    """Return which of these slices are calls that replay a graph."""
    is_launch = np.array([GRAPH_LAUNCH.match(text) is not None for _, text in work.names])
    found: Bools = is_launch[work.slices.name[rows]]
    return found


def _calls_by_process(work: Work) -> Iterator[tuple[int, tuple[Times, Rows]]]:
    """Yield for each process its correlation ids in order, and the call of each."""
    slices = work.slices
    rows = work.host_rows((API,))
    rows = rows[slices.correlation[rows] > 0].astype(np.int32)
    processes = work.process_of_track[slices.track[rows]]
    for process in np.unique(processes[processes != NONE]).tolist():
        own = rows[processes == process]
        ids = slices.correlation[own]
        if not bool((ids[1:] > ids[:-1]).all()):
            # A runtime call and the driver call in it may share an id: the outer one began first.
            own = own[np.lexsort((slices.time_ns[own], ids))]
            ids, first = np.unique(slices.correlation[own], return_index=True)
            own = own[first]
        yield process, (ids, own)


def _link(work: Work, rows: Rows, calls: dict[int, tuple[Times, Rows]]) -> Launches:
    slices = work.slices
    ids = slices.correlation[rows]
    processes = work.process_of_track[slices.track[rows]]
    call = np.full(len(rows), NONE, np.int32)
    is_graph = slices.graph[rows] != NONE
    for process in np.unique(processes[processes != NONE]).tolist():
        own = np.flatnonzero((processes == process) & (ids > 0))
        known_ids, known_rows = calls.get(process, (np.empty(0, np.int64), np.empty(0, np.int32)))
        if len(known_ids):
            place = np.searchsorted(known_ids, ids[own])
            place[place == len(known_ids)] = 0
            is_known = known_ids[place] == ids[own]
            call[own[is_known]] = known_rows[place[is_known]]
            own = own[~is_known]
        is_graph[own] |= _are_shared(ids[own], work.categories[slices.name[rows[own]]])
    is_called = call != NONE
    is_graph[is_called] |= graph_calls(work, call[is_called])
    thread = np.where(is_called, slices.track[call], slices.launch_track[rows]).astype(np.int32)
    return Launches(call, thread, is_graph)


def _are_shared(ids: Times, categories: NDArray[np.int8]) -> Bools:
    """Return which are kernels whose id another kernel has too: one call launched them all."""
    is_kernel = (categories == Category.KERNEL) | (categories == Category.COMMUNICATION)
    _, inverse, counts = np.unique(ids[is_kernel], return_inverse=True, return_counts=True)
    shared = np.zeros(len(ids), np.bool_)
    shared[is_kernel] = counts[inverse] > 1
    return shared


def launch_row(
    work: Work, rows: Rows, launches: Launches, first_ns: int, last_ns: int
) -> dict[str, Any]:
    """Return what is known of the launches of one GPU that worked from ``first_ns`` to ``last_ns``.

    Latencies are of the first slice of each call: from the call's start, and from its end (negative
    where the GPU began before the call was over). The depth of the queue is how many slices were
    launched and had not begun; ``bins`` are its means over equal parts of the GPU's span.
    """
    slices = work.slices
    is_called = launches.call != NONE
    start = slices.time_ns[rows[is_called]]
    call = launches.call[is_called]
    calls, first = np.unique(call, return_index=True)
    from_start = start[first] - slices.time_ns[calls]
    return {
        "known_ratio": float(is_called.mean()),
        "known_thread_ratio": float((launches.thread != NONE).mean()),
        "call_count": len(calls),
        # The GPU's clock and the host's are converted: what came before its call shows their error.
        "early_count": int((from_start < 0).sum()),
        "latency": _spread(from_start),
        "latency_after_call": _spread(from_start - slices.duration_ns[calls]),
        "queue": _queue(np.minimum(slices.time_ns[call], start), start, first_ns, last_ns),
    }


def _spread(values_ns: Times) -> dict[str, Any] | None:
    if not len(values_ns):
        return None
    percentiles = np.percentile(values_ns, PERCENTS).tolist()
    return {
        "mean_ns": float(values_ns.mean()),
        **{f"p{one}_ns": value for one, value in zip(PERCENTS, percentiles, strict=True)},
        "max_ns": int(values_ns.max()),
    }


def _queue(launched: Times, begun: Times, low: int, high: int) -> dict[str, Any] | None:
    """Return the depth of the queue over ``[low, high)``; ``begun`` is in order."""
    if not len(begun) or high <= low:
        return None
    launched = np.maximum(launched, low)
    order = np.argsort(launched, kind="stable")
    in_order = launched[order] if not is_sorted(launched) else launched
    # Right after each launch: how many were launched by then, less how many had begun.
    depth = np.arange(1, len(begun) + 1) - np.searchsorted(begun, in_order, side="right")
    edges = low + np.round(np.linspace(0, high - low, BIN_COUNT + 1)).astype(np.int64)
    waited = _waited_before(in_order, edges) - _waited_before(begun, edges)
    widths = np.diff(edges)
    return {
        "mean_depth": float((begun - launched).sum()) / (high - low),
        "max_depth": max(0, int(depth.max())),
        "empty_ratio": 1 - union_ns(in_order, np.maximum(begun[order], in_order)) / (high - low),
        "bins": np.divide(
            np.diff(waited), widths, out=np.zeros(BIN_COUNT), where=widths > 0
        ).tolist(),
    }


def _waited_before(times: Times, edges: Times) -> NDArray[np.float64]:
    """Return for each edge the summed time since those ``times`` that lie before it."""
    since = (times - edges[0]).astype(np.float64)
    before = np.concatenate(([0.0], np.cumsum(since)))
    count = np.searchsorted(times, edges)
    waited: NDArray[np.float64] = count * (edges - edges[0]).astype(np.float64) - before[count]
    return waited
