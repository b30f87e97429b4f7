"""The server's view: while it had at least one request, when did the GPUs work and when not.

The figures stand on one rung of a ladder (`analyzers.gpu.rungs`), which is named, and are of the
window in which a request was in flight (`analyzers.in_flight`), as well as that is known.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from analyzers.base import Analyzer, Outcome
from analyzers.gpu.rungs import Answer, Bound, Busy, ask
from analyzers.in_flight import InFlight, measure_in_flight
from analyzers.intervals import Times, covered_before
from analyzers.timeline import Timeline

BIN_COUNT: Final = 100


def run(timeline: Timeline) -> Outcome:
    """Report how busy each GPU was, and over time."""
    capture = timeline.capture
    answers = ask(timeline)
    flight = timeline.once(measure_in_flight)
    chosen = next((one for one in answers if one.found), None)
    edges = np.linspace(capture.start_ns, capture.end_ns, BIN_COUNT + 1).astype(np.int64)
    found = () if chosen is None else chosen.found
    return Outcome(
        {
            "gpu_split": {
                "rung": None if chosen is None else chosen.rung.value,
                "reason": _reason(answers) if chosen is None else None,
                "rungs": [
                    {"rung": one.rung.value, "is_available": bool(one.found), "reason": one.reason}
                    for one in answers
                ],
                "window": {
                    "basis": flight.basis,
                    "note": flight.note,
                    "seconds": flight.window.total() / 1e9,
                },
                "devices": [_row(one, flight) for one in found],
                "bins": {
                    "seconds": (capture.end_ns - capture.start_ns) / BIN_COUNT / 1e9,
                    "in_flight_ratio": _ratios(_flights(flight, edges), np.diff(edges)),
                    "devices": [
                        {
                            "device": one.device,
                            "track": one.track,
                            "pid": one.pid,
                            "busy_ratio": _over_time(one, flight, edges),
                        }
                        for one in found
                    ],
                },
            }
        }
    )


def _reason(answers: list[Answer]) -> str:
    return "how busy a GPU was is not known: " + "; ".join(
        one.reason for one in answers if one.reason is not None
    )


def _row(busy: Busy, flight: InFlight) -> dict[str, Any]:
    """Return one GPU in the window; what the rung only bounds is null, with the bound beside it."""
    window = flight.window
    window_ns = window.total()
    bounds = np.concatenate((window.start, window.end))
    before = _busy_before(busy, bounds)
    half = len(window)
    busy_ns = round(float((before[half:] - before[:half]).sum()))
    ratio = busy_ns / window_ns if window_ns else None
    is_exact = busy.bound is Bound.EXACT
    return {
        "device": busy.device,
        "track": busy.track,
        "name": busy.name,
        "rank": busy.rank,
        "pid": busy.pid,
        "busy_ns": busy_ns if is_exact else None,
        "idle_ns": window_ns - busy_ns if is_exact else None,
        "busy_ratio": ratio if is_exact else None,
        "low_ratio": None if busy.bound is Bound.HIGH else ratio,
        "high_ratio": None if busy.bound is Bound.LOW else ratio,
    }


def _busy_before(busy: Busy, times: Times) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return how long it was busy before each time."""
    if busy.weight is None:
        return covered_before(busy.intervals, times).astype(np.float64)
    start, end = busy.intervals.start, busy.intervals.end
    if not len(start):
        return np.zeros(len(times))
    whole = np.concatenate(([0.0], np.cumsum((end - start) * busy.weight)))
    index = np.searchsorted(start, times, side="right") - 1
    inside = np.minimum(times, end[index]) - start[index]
    return np.where(index < 0, 0.0, whole[index] + inside * busy.weight[index])


def _flights(flight: InFlight, edges: Times) -> Times:
    return np.diff(covered_before(flight.window, edges))


def _over_time(busy: Busy, flight: InFlight, edges: Times) -> list[float | None]:
    """Return the busy share of each bin's part of the window; None where it has none."""
    window = flight.window
    times = np.unique(np.concatenate((edges, window.start, window.end)))
    times = times[(times >= edges[0]) & (times <= edges[-1])]
    is_in = np.diff(covered_before(window, times)) > 0
    bin_of = np.clip(np.searchsorted(edges, times[:-1], side="right") - 1, 0, BIN_COUNT - 1)
    busy_ns = np.bincount(
        bin_of[is_in], np.diff(_busy_before(busy, times))[is_in], minlength=BIN_COUNT
    )
    return _ratios(busy_ns, _flights(flight, edges))


def _ratios(part: Any, whole: Times) -> list[float | None]:
    return [
        min(1.0, float(one) / float(of)) if of > 0 else None
        for one, of in zip(part, whole, strict=True)
    ]


ANALYZER: Final = Analyzer("gpu-split", (), run)
