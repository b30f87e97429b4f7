"""The counters of the host and of processes, as series by track and labels.

Labels are written ``cpu=0,mode=steal``; a group's path, which may hold anything, comes last.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analyzers.intervals import Times
from analyzers.timeline import Timeline, column, rows_by

_LABEL = re.compile(r"(?:^|,)(?:(?P<path_name>cgroup)=(?P<path>.*)|(?P<name>\w+)=(?P<value>[^,]*))")


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One counter of one track, in order of time."""

    track: int
    labels: dict[str, str]
    times: Times
    values: NDArray[np.float64]

    @property
    def rise(self) -> float:
        """By how much a total rose; one that fell began anew."""
        steps = np.diff(self.values)
        return float(np.where(steps < 0, self.values[1:], steps).sum())

    @property
    def window_ns(self) -> int:
        """From the first look to the last."""
        return int(self.times[-1] - self.times[0])


def read_series(timeline: Timeline, name: str) -> list[Series]:
    """Return all series of the counters with this name."""
    return timeline.once(_all_series).get(name, [])


def _all_series(timeline: Timeline) -> dict[str, list[Series]]:
    table = timeline.capture.table("counters")
    times, values = column(table, "time_ns"), column(table, "value", np.float64)
    tracks = column(table, "track")
    types = {row["counter"]: row for row in timeline.capture.table("counter_types").to_pylist()}
    found: dict[str, list[Series]] = {}
    for counter, rows in rows_by(table, "counter").items():
        if counter not in types:
            continue
        labels = _labels(types[counter]["labels"])
        for track in np.unique(tracks[rows]).tolist():
            own = rows[tracks[rows] == track]
            own = own[np.isfinite(values[own])]
            if len(own):
                series = Series(track, labels, times[own], values[own])
                found.setdefault(types[counter]["name"], []).append(series)
    return found


def _labels(text: str) -> dict[str, str]:
    found = {}
    for label in _LABEL.finditer(text):
        name = label["path_name"] or label["name"]
        found[name] = label["path"] if label["path_name"] else label["value"]
    return found
