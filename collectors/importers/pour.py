"""Pour what an importer read into a running recording: its tracks, names and slices, on its clock.

A probe whose source writes files (the torch profiler, AMD's tool) reads them with an importer and
hands the `Trace` over here. Stacks and samples stay behind: live probes have better ones.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from collectors.importers.tables import slice_table
from collectors.importers.trace import Trace
from collectors.recorder import Recorder
from collectors.slices import NONE, Slices


def pour(
    trace: Trace, recorder: Recorder, offset_ns: int, processes: Mapping[int, int],
    probe: str | None = None,
) -> None:  # fmt: skip
    """Append a trace's slices to a recording, with the tracks and names that they need.

    What the trace had to leave out, and slices of processes that nobody recorded, become rows in
    ``gaps``.

    Args:
        trace: what was read; its process ids are those of the host.
        recorder: of the running recording.
        offset_ns: added to the trace's times to get CLOCK_MONOTONIC.
        processes: track of each recorded process, by PID.
        probe: whose gaps these are; the trace's source unless given.
    """
    slices = trace.slices()
    slices = replace(slices, time_ns=slices.time_ns + offset_ns)
    tracks = _register(trace, recorder, processes)
    span_ns = _span(slices, recorder)
    lost = dict(trace.skipped)
    is_known = tracks[slices.track] != NONE
    if not is_known.all():
        lost["slices of processes outside the target"] = int((~is_known).sum())
        slices = slices.where(is_known)
    for reason, count in sorted(lost.items()):
        recorder.gap(probe or trace.source, *span_ns, f"left out: {reason}", count)
    if len(slices) == 0:
        return
    # An unknown launcher, -1, finds the last entry of a lookup table: the one put there for it.
    with_none = np.append(tracks, np.int32(NONE))
    moved = replace(
        slices,
        track=tracks[slices.track],
        name=_name_ids(trace, recorder, slices.name),
        launch_track=with_none[slices.launch_track],
    )
    (batch,) = slice_table(moved).to_batches()
    recorder.append("slices", dict(zip(batch.schema.names, batch.columns, strict=True)))


def _register(
    trace: Trace, recorder: Recorder, processes: Mapping[int, int]
) -> NDArray[np.int32]:  # fmt: skip
    """Return the recording's track of each of the trace's, `NONE` for a stranger's."""
    tracks: list[int] = []
    for row in trace.track_rows:  # a parent stands before its children
        if row["kind"] == "process":
            track = processes.get(row["pid"], NONE)
        elif row["kind"] == "thread":
            process = tracks[row["parent"]]
            track = process if process == NONE else recorder.thread_track(
                process, row["pid"], row["tid"], name=row["name"], role=row["role"]
            )  # fmt: skip
        elif row["kind"] == "device":
            track = recorder.device_track(row["device"], name=row["name"], rank=row["rank"])
        elif row["pid"] is not None and row["pid"] not in processes:
            track = NONE
        else:
            track = recorder.stream_track(
                tracks[row["parent"]], row["tid"], index=row["device"], pid=row["pid"],
                name=row["name"], rank=row["rank"],
            )  # fmt: skip
        tracks.append(track)
    return np.array(tracks, np.int32)


def _name_ids(
    trace: Trace, recorder: Recorder, used: NDArray[np.int32]
) -> NDArray[np.int32]:  # fmt: skip
    """Return the recording's id for each of these ids of the trace's names."""
    distinct, position = np.unique(used, return_inverse=True)
    rows = trace.name_rows
    ids = recorder.names(rows[name] for name in distinct.tolist())
    return np.array(ids, np.int32)[position]


def _span(slices: Slices, recorder: Recorder) -> tuple[int, int]:
    """Return what the slices span; where there are none, the recording so far."""
    if len(slices) == 0:
        return recorder.manifest.started_ns, time.monotonic_ns()
    return int(slices.time_ns.min()), int(slices.end_ns.max())
