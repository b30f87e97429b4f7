"""When at least one request was with the server: from the requests, else from its own counters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from analyzers.intervals import Intervals, Times, clip, intervals
from analyzers.timeline import Timeline, column, rows_by
from collectors.schema import CLIENT

REQUESTS: Final = "requests"
COUNTERS: Final = "server_counters"
CAPTURE: Final = "capture"
# The server's word on how many requests it has; https://docs.vllm.ai/en/latest/usage/metrics.html
LEVELS: Final = frozenset({"vllm:num_requests_running", "vllm:num_requests_waiting"})
# In the order of a request's life: the first that is known is when the server had it.
_BEGIN: Final = ("sent_ns", "begun_ns")
_END: Final = (
    "done_ns",
    "last_token_ns",
    "first_token_ns",
    "headers_ns",
    "scheduled_ns",
    "queued_ns",
)


@dataclass(frozen=True, slots=True, eq=False)
class InFlight:
    """The window of the server's view; ``basis`` is what it is from, ``note`` says how good."""

    window: Intervals
    basis: str
    note: str

    @property
    def of_requests(self) -> Intervals | None:
        """The window, where its instants are exact."""
        return self.window if self.basis == REQUESTS else None


def measure_in_flight(timeline: Timeline) -> InFlight:
    """Return the window: the whole capture where nothing tells."""
    low, high = timeline.capture.start_ns, timeline.capture.end_ns
    found = _from_requests(timeline)
    if found is not None:
        return InFlight(
            clip(found, low, high), REQUESTS, "at least one of the recorded requests was in flight"
        )
    found = _from_levels(timeline)
    if found is not None:
        return InFlight(
            clip(found, low, high), COUNTERS,
            "the server had a request at one of the two scrapes around",
        )  # fmt: skip
    whole = intervals(np.array([low]), np.array([high]))
    return InFlight(whole, CAPTURE, "the whole capture: when requests were in flight is not known")


def _from_requests(timeline: Timeline) -> Intervals | None:
    """Return the union of the requests' lives; one whose end nobody saw lasts to the last sign."""
    table = timeline.capture.table("requests")
    if not table.num_rows:
        return None
    columns = {name: table[name].to_pylist() for name in (*_BEGIN, *_END)}
    rows = zip(table["time_ns"].to_pylist(), table["source"].to_pylist(), strict=True)
    start, end = [], []
    for row, (arrived_ns, source) in enumerate(rows):
        begins = [columns[name][row] for name in _BEGIN] if source == CLIENT else []
        begin = next((one for one in begins if one is not None), arrived_ns)
        signs = [columns[name][row] for name in _END if columns[name][row] is not None]
        start.append(begin)
        end.append(max([begin, *signs]))
    return intervals(np.array(start, np.int64), np.array(end, np.int64))


def _from_levels(timeline: Timeline) -> Intervals | None:
    """Return the stretches between scrapes at one of which the server had a request."""
    table = timeline.capture.table("counters")
    types = timeline.capture.table("counter_types").to_pylist()
    wanted = {row["counter"] for row in types if row["name"] in LEVELS}
    times, values = column(table, "time_ns"), column(table, "value", np.float64)
    scrapes: list[Times] = []
    with_some: list[Times] = []
    for counter, rows in rows_by(table, "counter").items():
        if counter in wanted:
            scrapes.append(times[rows])
            with_some.append(times[rows][values[rows] > 0])
    looks = np.unique(np.concatenate([np.empty(0, np.int64), *scrapes]))
    if len(looks) < 2:
        return None
    has_some = np.isin(looks, np.concatenate(with_some))
    is_in = has_some[1:] | has_some[:-1]
    return intervals(looks[:-1][is_in], looks[1:][is_in])
