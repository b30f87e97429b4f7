"""Rows of the ``counters`` table: totals only when they change, without losing when they did."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from collectors.recorder import Recorder

LEVEL: Final = "level"
TOTAL: Final = "total"


class Reading(NamedTuple):
    """One value of one counter, named as in `collectors.host_counters`."""

    track: int
    name: str
    labels: str
    unit: str
    kind: str  # LEVEL, TOTAL
    value: float


@dataclass(slots=True)
class _Series:
    counter: int
    value: float
    seen_ns: int  # when the value was last seen
    written_ns: int


class CounterRows:
    """Collects readings and hands them to the recorder.

    Most totals of a large machine stand still: one that has not changed is left out, and when it
    does change, the last time it still had its old value is written too, so that the change is not
    spread over the time before it.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._series: dict[tuple[int, str, str], _Series] = {}
        self._rows: list[tuple[int, int, int, float]] = []

    def add(self, time_ns: int, readings: Iterable[Reading]) -> None:
        """Take what was read at ``time_ns``."""
        for one in readings:
            key = (one.track, one.name, one.labels)
            series = self._series.get(key)
            if series is None:
                counter = self._recorder.counter(one.name, one.labels, unit=one.unit, kind=one.kind)
                self._series[key] = _Series(counter, one.value, time_ns, time_ns)
                self._rows.append((time_ns, one.track, counter, one.value))
                continue
            is_new = one.kind == LEVEL or one.value != series.value
            if is_new:
                if one.kind == TOTAL and series.written_ns < series.seen_ns:
                    row = (series.seen_ns, one.track, series.counter, series.value)
                    self._rows.append(row)
                self._rows.append((time_ns, one.track, series.counter, one.value))
                series.value, series.written_ns = one.value, time_ns
            series.seen_ns = time_ns

    def flush(self) -> None:
        """Hand over the rows."""
        rows, self._rows = self._rows, []
        if rows:
            times, tracks, counters, values = map(list, zip(*rows, strict=True))
            columns = {"time_ns": times, "track": tracks, "counter": counters, "value": values}
            self._recorder.append("counters", columns)

    def close(self) -> None:
        """Write where each total stood when it was last seen, and hand over the rows."""
        for (track, _, _), series in self._series.items():
            if series.written_ns < series.seen_ns:
                self._rows.append((series.seen_ns, track, series.counter, series.value))
        self._series = {}
        self.flush()
