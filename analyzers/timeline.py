"""A capture in memory, in the shapes that analyzers work on: threads, their stacks, their looks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from analyzers.intervals import Intervals, Times, empty, intervals
from collectors.capture import Capture

T = TypeVar("T")

STACK_PROBES: Final = ("stacks", "pyspy")
# Which probes fill a table, the usual one first.
PROBES: Final[dict[str, tuple[str, ...]]] = {
    "samples": STACK_PROBES,
    "thread_counters": ("threads",),
    "cpu_slices": ("switches",),
    "gil": ("gil",),
    "counters": ("server_metrics",),
    "requests": ("otlp",),
    "slices": ("rocprof", "torch_profiler", "gpu_counters"),  # the last one: is there a GPU at all
}


@dataclass(frozen=True, slots=True)
class Process:
    """A process of the target."""

    track: int
    pid: int
    role: str
    name: str
    rank: int | None


@dataclass(frozen=True, slots=True)
class Thread:
    """A thread of a process of the target."""

    track: int
    tid: int
    name: str
    process: Process


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """One thread's runs of equal stacks, in order of time."""

    start: Times
    end: Times
    stack: NDArray[np.int32]


class Timeline:
    """One capture. Costly measurements are made once and shared: see `once`."""

    def __init__(self, capture: Capture) -> None:
        self.capture = capture
        self._results: dict[Callable[[Timeline], Any], Any] = {}
        rows = capture.table("tracks").to_pylist()
        self.processes: dict[int, Process] = {
            row["track"]: Process(row["track"], row["pid"], row["role"], row["name"], row["rank"])
            for row in rows
            if row["kind"] == "process" and row["pid"] is not None
        }
        self.threads: dict[int, Thread] = {
            row["track"]: Thread(
                row["track"], row["tid"], row["name"], self.processes[row["parent"]]
            )
            for row in rows
            if row["kind"] == "thread" and row["parent"] in self.processes
        }

    def once(self, measure: Callable[[Timeline], T]) -> T:
        """Return ``measure(self)``, computed the first time and kept."""
        if measure not in self._results:
            self._results[measure] = measure(self)
        return cast(T, self._results[measure])

    def threads_of(self, process: Process) -> list[Thread]:
        """Return the process's threads in order of their ids."""
        own = [thread for thread in self.threads.values() if thread.process is process]
        return sorted(own, key=lambda thread: thread.tid)

    def sampling_rate_hz(self, process: Process) -> float | None:
        """Return the rate at which a process's stacks were really looked at; None if not told."""
        for record in self.capture.manifest.probes:
            if record.name in STACK_PROBES:
                own = record.detail.get("processes", {}).get(str(process.pid), {})
                rate_hz: float | None = own.get("achieved_hz", record.achieved_hz)
                return rate_hz or record.requested_hz
        return None

    def unseen(self, process: Process) -> Intervals:
        """Return when no stack of a process was seen.

        A gap of one recorder in which a run begins was seen by another, which overlapped with it.
        """
        gaps = [
            (row["start_ns"], row["end_ns"])
            for row in self.capture.table("gaps").to_pylist()
            if row["probe"] in STACK_PROBES and row["track"] in (process.track, None)
        ]
        if not gaps:
            return empty()
        runs = self.once(runs_by_thread)
        own = [one.start for track, one in runs.items() if self.threads[track].process is process]
        begins = np.sort(np.concatenate([np.empty(0, np.int64), *own]))
        start, end = np.array(gaps, np.int64).T
        before_end = np.searchsorted(begins, end, side="left")
        is_unseen = before_end <= np.searchsorted(begins, start, side="right")
        return intervals(start[is_unseen], end[is_unseen])

    def sampling_clock_error_ns(self) -> int:
        """Return how far sample times may be off the counters' clock; 0 if not told."""
        for record in self.capture.manifest.probes:
            if record.name in STACK_PROBES:
                return int(record.detail.get("clock_error_ns", 0))
        return 0


def column(table: pa.Table, name: str, kind: type[np.generic] = np.int64) -> NDArray[Any]:
    """Return a column without nulls as a numpy array."""
    return np.asarray(table[name].to_numpy(), dtype=kind)


def rows_by(table: pa.Table, key: str) -> dict[int, NDArray[np.int64]]:
    """Return for each value of an integer column its row numbers, in order of ``time_ns``."""
    if not table.num_rows:
        return {}
    keys = column(table, key)
    order = np.lexsort((column(table, "time_ns"), keys))
    found, first = np.unique(keys[order], return_index=True)
    return dict(zip(found.tolist(), np.split(order, first[1:]), strict=True))


def runs_by_thread(timeline: Timeline) -> dict[int, Runs]:
    """Return each sampled thread's runs, by thread track."""
    samples = timeline.capture.table("samples")
    start = column(samples, "time_ns")
    end = start + column(samples, "duration_ns")
    stack = column(samples, "stack", np.int32)
    return {
        track: Runs(start[rows], end[rows], stack[rows])
        for track, rows in rows_by(samples, "track").items()
        if track in timeline.threads
    }
