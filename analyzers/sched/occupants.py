"""Who had the CPU while a thread waited for it, as far as it was the target itself.

A thread that waits is not bound to one CPU, so this looks at the one that it got in the end: what
processes of the target ran there from the moment it wanted to run. The rest of its wait there ran
somebody else, or nobody, or the thread waited at another CPU.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from analyzers.intervals import covered_before, intervals
from analyzers.sched.histories import read_histories
from analyzers.timeline import Process, Timeline
from collectors.cpu_slices import BLOCKED, PREEMPTED

# Processes with the most CPU time; a rack of worker processes is not all asked about.
PROCESS_COUNT: Final = 8


def occupant_rows(timeline: Timeline) -> list[dict[str, Any]]:
    """Return for each process that waited who ran on its CPU meanwhile, the longest first.

    ``by_pid`` None stands for all that was not one of the target's busiest processes.
    """
    histories = timeline.once(read_histories)
    processes = [timeline.threads[track].process for track in histories.threads]
    tracks = sorted({one.track for one in processes})
    of_thread = np.array([tracks.index(one.track) for one in processes], np.int64)
    process = of_thread[histories.thread]
    ran = np.bincount(process, histories.end - histories.start, len(tracks))
    busiest = np.argsort(-ran, kind="stable")[:PROCESS_COUNT]
    is_wait = np.isin(histories.why, (PREEMPTED, BLOCKED)) & (histories.start > histories.ready)
    held = np.zeros((len(tracks), len(busiest)), np.int64)
    waited = np.bincount(
        process[is_wait], (histories.start - histories.ready)[is_wait], len(tracks)
    )
    order = np.argsort(histories.cpu, kind="stable")
    for here in np.split(order, np.flatnonzero(np.diff(histories.cpu[order])) + 1):
        rows = here[is_wait[here]]
        rows = rows[np.argsort(histories.start[rows], kind="stable")]  # in order it is faster
        ready, start, waiter = histories.ready[rows], histories.start[rows], process[rows]
        for column, one in enumerate(busiest.tolist()):
            own = here[process[here] == one]
            stays = intervals(histories.start[own], histories.end[own])
            ns = covered_before(stays, start) - covered_before(stays, ready)
            held[:, column] += np.bincount(waiter, ns, len(tracks)).astype(np.int64)
    found = []
    for place, track in enumerate(tracks):
        others = int(waited[place] - held[place].sum())
        for by, ns in zip([*busiest.tolist(), None], [*held[place].tolist(), others], strict=True):
            if ns > 0:
                by_process = None if by is None else timeline.processes[tracks[by]]
                found.append(_row(timeline.processes[track], by_process, ns))
    return sorted(found, key=lambda row: -row["seconds"])


def _row(process: Process, by: Process | None, ns: int) -> dict[str, Any]:
    return {
        "pid": process.pid,
        "role": process.role,
        "by_pid": None if by is None else by.pid,
        "by_role": None if by is None else by.role,
        "seconds": ns / 1e9,
    }
