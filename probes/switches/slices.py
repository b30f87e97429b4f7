"""Rows of ``cpu_slices`` on their way: from stays to columns, some waiting for a track."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from collectors.cpu_slices import NONE
from probes.switches.records import I64, Flags
from probes.switches.stays import Stays
from probes.switches.tracks import Tracks

Columns = dict[str, NDArray[np.int64]]
Table = dict[str, NDArray[Any] | pa.Array]


def finished(stays: Stays, cpus: I64, leave: NDArray[np.int8], woken_ns: I64) -> Columns:
    """Return what is known of stays before anybody has a track; ``cpus`` by ring."""
    return {
        "time_ns": stays.start_ns,
        "duration_ns": stays.end_ns - stays.start_ns,
        "pid": stays.pid,
        "tid": stays.tid,
        "cpu": cpus[stays.ring],
        "leave": leave.astype(np.int64),
        "next_tid": stays.next_tid,
        "woken_ns": woken_ns,
    }


class Waiting:
    """Rows whose process the session does not know yet."""

    def __init__(self, tracks: Tracks) -> None:
        self._tracks = tracks
        self._rows: Columns | None = None

    def release(self, rows: Columns) -> Table | None:
        """Take rows; return the table's columns of all whose threads have a track by now."""
        if self._rows is not None:
            kept = self._rows
            rows = {name: np.concatenate((kept[name], rows[name])) for name in rows}
        is_ready = self._tracks.adopted(rows["pid"])
        self._rows = None
        if not is_ready.all():
            self._rows = _where(rows, ~is_ready)
            rows = _where(rows, is_ready)
        return self._table(rows) if len(rows["pid"]) else None

    def _table(self, rows: Columns) -> Table:
        return {
            "time_ns": rows["time_ns"],
            "duration_ns": rows["duration_ns"],
            "track": self._tracks.of_threads(rows["tid"]),
            "cpu": rows["cpu"].astype(np.int16),
            "leave": _nullable(rows["leave"].astype(np.int8)),
            "next": _nullable(self._tracks.of_next(rows["next_tid"])),
            "woken_ns": _nullable(rows["woken_ns"]),
        }


def _where(rows: Columns, mask: Flags) -> Columns:
    return {name: column[mask] for name, column in rows.items()}


def _nullable(values: NDArray[np.integer]) -> pa.Array:
    return pa.array(values, mask=values == NONE)
