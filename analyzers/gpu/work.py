"""The slices of a capture as columns, and whose they are: GPUs, streams, threads, processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from analyzers.gpu.busy import (
    Categories,
    Ids,
    Rows,
    categorise,
    device_rows,
    devices_of_tracks,
)
from analyzers.timeline import Timeline, column
from collectors.slices import NONE, Slices

UNNAMED: Final = ("", "(name lost)")  # kind and text of an id that the table of names lacks


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU. ``index`` is its source's own number: two machines may both have a 0."""

    track: int
    index: int | None
    name: str
    rank: int | None


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """All slices, and the GPUs that any of them ran on."""

    slices: Slices
    names: Sequence[tuple[str, str]]  # kind and text, by id
    categories: Categories
    devices: list[Device]
    rows: dict[int, Rows]  # device's track -> its slices in order of start
    process_of_track: Ids  # of threads and streams: their process's track; `NONE`: not known

    def host_rows(self, kinds: Sequence[str]) -> NDArray[np.intp]:
        """Return the numbers of the slices on threads whose name is of one of these kinds."""
        is_kind = np.array([kind in kinds for kind, _ in self.names])
        return np.flatnonzero(is_kind[self.slices.name])


def measure_work(timeline: Timeline) -> Work:
    """Return the slices of a capture."""
    table = timeline.capture.table("slices")
    tracks = timeline.capture.table("tracks").to_pylist()
    slices = Slices(
        column(table, "time_ns"),
        column(table, "duration_ns"),
        column(table, "track", np.int32),
        column(table, "name", np.int32),
        _nullable(table, "correlation", np.int64),
        _nullable(table, "launch_track", np.int32),
        _nullable(table, "size_bytes", np.int64),
        _nullable(table, "graph", np.int64),
    )
    names = _names(timeline.capture.table("names"), _highest(slices.name))
    categories = categorise(names)
    count = max(_highest(slices.track), *(row["track"] for row in tracks), -1) + 1
    device_of_track = devices_of_tracks(tracks, count)
    rows = dict(device_rows(slices, categories, device_of_track))
    known = {row["track"]: row for row in tracks}
    devices = [_device(track, known.get(track)) for track in rows]
    return Work(slices, names, categories, devices, rows, _processes(tracks, count))


def _device(track: int, row: dict[str, Any] | None) -> Device:
    return (
        Device(track, None, "", None)
        if row is None
        else Device(track, row["device"], row["name"], row["rank"])
    )


def _nullable(table: pa.Table, name: str, kind: type[np.generic]) -> NDArray[Any]:
    """Return a column with `NONE` for null; one that is all null takes no memory."""
    values = table[name]
    if values.null_count == len(values):
        return np.broadcast_to(np.array(NONE, kind), len(values))
    return column(table, name, kind) if not values.null_count else _filled(values, kind)


def _filled(values: pa.ChunkedArray, kind: type[np.generic]) -> NDArray[Any]:
    return np.asarray(pc.fill_null(values, NONE).to_numpy(), dtype=kind)


def _highest(ids: Ids) -> int:
    return int(ids.max()) if len(ids) else -1


def _names(table: pa.Table, highest: int) -> list[tuple[str, str]]:
    """Return kind and text by id, at least up to ``highest``."""
    ids = table["name"].to_pylist()
    names = [UNNAMED] * (max(highest, *ids, -1) + 1)
    columns = (table[name].to_pylist() for name in ("kind", "text"))
    for one, kind, text in zip(ids, *columns, strict=True):
        names[one] = (kind, text)
    return names


def _processes(tracks: list[dict[str, Any]], count: int) -> Ids:
    """Return the process's track for each track of a thread or stream.

    A stream names its process by pid. Where several files were imported, pids may repeat: then it
    is the process that was registered last before the stream, which is of the same file.
    """
    found = np.full(count, NONE, np.int32)
    in_order = sorted(tracks, key=lambda row: row["track"])
    # Where none was registered before the stream, the first one counts.
    process_of_pid = {
        row["pid"]: row["track"] for row in reversed(in_order) if row["kind"] == "process"
    }
    for row in in_order:
        if row["kind"] == "process" and row["pid"] is not None:
            process_of_pid[row["pid"]] = row["track"]
        elif row["kind"] == "thread" and row["parent"] is not None:
            found[row["track"]] = row["parent"]
        elif row["kind"] == "stream":
            found[row["track"]] = process_of_pid.get(row["pid"], NONE)
    return found
