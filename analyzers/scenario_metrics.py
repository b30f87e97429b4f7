"""What the server's own histograms say about one stretch of time: means, not single requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from analyzers.intervals import Times
from analyzers.server import DECODE, PREFILL, QUEUE, TTFT
from analyzers.timeline import Timeline, column, rows_by

_PARTS: Final = ("sum", "count")


@dataclass(frozen=True, slots=True)
class ServerMeans:
    """Means over the requests of a window, in seconds; None where the server does not tell."""

    request_count: float  # that got their first token
    ttft: float | None
    queue: float | None
    prefill: float | None
    decode: float | None


def measure_means(timeline: Timeline, start_ns: int, end_ns: int) -> ServerMeans | None:
    """Return the means between the last scrape before a window and the first one after it.

    None when the metrics were not read on both sides, or the counters began anew in between. What
    was asked by others at that time, or just before and after the window, is in the means.
    """
    table = timeline.capture.table("counters")
    if not table.num_rows:
        return None
    times, values = column(table, "time_ns"), column(table, "value", np.float64)
    types = {row["counter"]: row for row in timeline.capture.table("counter_types").to_pylist()}
    scrapes = np.unique(times)
    before = np.searchsorted(scrapes, start_ns, side="right") - 1
    after = np.searchsorted(scrapes, end_ns, side="left")
    if before < 0 or after >= len(scrapes):
        return None
    window = scrapes[[before, after]]
    wanted = {f"{name}_{part}" for name in (TTFT, QUEUE, PREFILL, DECODE) for part in _PARTS}
    rises = dict.fromkeys(wanted, 0.0)
    found = set()
    for counter, rows in rows_by(table, "counter").items():
        name = types[counter]["name"] if counter in types else ""
        if name in wanted:
            rise = _rise(times[rows], values[rows], window, int(scrapes[0]))
            if rise is None:
                return None
            rises[name] += rise
            found.add(name)

    def mean(name: str) -> float | None:
        total, count = f"{name}_sum", f"{name}_count"
        if not {total, count} <= found or rises[count] <= 0:
            return None
        return rises[total] / rises[count]

    return ServerMeans(rises[f"{TTFT}_count"], mean(TTFT), mean(QUEUE), mean(PREFILL), mean(DECODE))


def _rise(times: Times, values: NDArray[np.float64], window: Times, first_ns: int) -> float | None:
    """Return by how much a total rose between two scrapes; None if it began anew."""
    if times[0] > first_ns:  # a label set that appeared later began at zero
        times, values = np.append(first_ns, times), np.append(0.0, values)
    if not np.isfinite(values).all() or (np.diff(values) < 0).any():
        return None
    low, high = values[np.searchsorted(times, window, side="right") - 1]
    return float(high - low)
