"""Graph replays: one call launches many kernels, and not every tracer sees them.

A tracer that records the call and not the kernels makes a GPU look idle while it works. So for each
call that replays a graph it is asked whether the capture holds work that it launched: by the call's
correlation id, or, where work has no known call, by work that began before the next replay did.
Below `TRUSTED_RATIO` of such calls the GPU's idle time is not believed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from analyzers.gpu.launches import Launches, graph_calls, measure_launches
from analyzers.gpu.work import Work, measure_work
from analyzers.intervals import Times
from analyzers.timeline import Timeline
from collectors.slices import API, NONE

# Of replays whose kernels are in the capture. A tracer that sees graphs sees nearly all of them;
# one that does not sees none.
TRUSTED_RATIO: Final = 0.95


@dataclass(frozen=True, slots=True)
class Replays:
    """Graph replays by the processes that used one GPU."""

    call_count: int
    covered_count: int
    kernel_count: int  # of this GPU, launched by replays
    attributed_count: int  # of those: whose launch call is known

    @property
    def coverage_ratio(self) -> float | None:
        """Return which share of the replays left work in the capture; None without replays."""
        return self.covered_count / self.call_count if self.call_count else None

    @property
    def is_trusted(self) -> bool:
        """Return whether idle time is really idle."""
        return self.coverage_ratio is None or self.coverage_ratio >= TRUSTED_RATIO

    def to_json(self) -> dict[str, Any]:
        """Return the row of the document."""
        return {
            "call_count": self.call_count,
            "covered_count": self.covered_count,
            "coverage_ratio": self.coverage_ratio,
            "trusted_coverage_ratio": TRUSTED_RATIO,
            "is_trusted": self.is_trusted,
            "kernel_count": self.kernel_count,
            "attributed_ratio": self.attributed_count / self.kernel_count
            if self.kernel_count
            else None,
        }


def measure_replays(timeline: Timeline) -> dict[int, Replays]:
    """Return the graph replays of every GPU, by its track."""
    work = timeline.once(measure_work)
    launches = timeline.once(measure_launches)
    covered = _covered_by_process(work, launches)
    found = {}
    for track, rows in work.rows.items():
        own = launches[track]
        processes = set(np.unique(work.process_of_track[work.slices.track[rows]]).tolist())
        counts = [covered[process] for process in processes & covered.keys()]
        found[track] = Replays(
            sum(calls for calls, _ in counts),
            sum(seen for _, seen in counts),
            int(own.is_graph.sum()),
            int((own.is_graph & (own.call != NONE)).sum()),
        )
    return found


def _covered_by_process(work: Work, launches: dict[int, Launches]) -> dict[int, tuple[int, int]]:
    """Return for each process how many replays it made, and of how many the work was seen."""
    slices = work.slices
    rows = work.host_rows((API,)).astype(np.int32)
    rows = rows[graph_calls(work, rows)]
    if not len(rows):
        return {}
    is_linked = np.zeros(len(slices), np.bool_)
    for one in launches.values():
        is_linked[one.call[one.call != NONE]] = True
    processes = work.process_of_track[slices.track[rows]]
    found = {}
    for process in np.unique(processes[processes != NONE]).tolist():
        own = rows[processes == process]
        own = own[np.argsort(slices.time_ns[own], kind="stable")]
        began, orphaned = _device_starts(work, launches, process)
        if not len(began):
            continue
        # What a replay began after the last slice that was recorded could not be seen.
        own = own[slices.time_ns[own] <= began[-1]]
        until = np.append(slices.time_ns[own[1:]], np.iinfo(np.int64).max)
        has_orphans = np.searchsorted(orphaned, until) > np.searchsorted(
            orphaned, slices.time_ns[own]
        )
        found[process] = (len(own), int((is_linked[own] | has_orphans).sum()))
    return found


def _device_starts(work: Work, launches: dict[int, Launches], process: int) -> tuple[Times, Times]:
    """Return when the process's work on GPUs began, in order: all, and that of unknown launch."""
    starts, orphans = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for track, rows in work.rows.items():
        is_own = work.process_of_track[work.slices.track[rows]] == process
        start = work.slices.time_ns[rows]
        starts.append(start[is_own])
        orphans.append(start[is_own & (launches[track].call == NONE)])
    return np.sort(np.concatenate(starts)), np.sort(np.concatenate(orphans))
