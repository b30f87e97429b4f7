"""The lines of a scenario: each resource's visits, replayed from arrivals and service times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from analyzers.convoy import NOBODY, Demand, Replay, Rows, previous_among, replay
from analyzers.convoy_event_loop import event_loop_visits
from analyzers.convoy_loops import Coming, Loop, find_loop
from analyzers.convoy_prefill import prefill_visits
from analyzers.convoy_tokenizer import tokenizer_visits
from analyzers.convoy_visits import Unseen, Visits
from analyzers.request_parts import MeasuredRequests, measure_requests, scenarios
from analyzers.timeline import Timeline
from analyzers.waterfall import UNKNOWN

_VISITS: Final = (tokenizer_visits, event_loop_visits, prefill_visits)
_NEVER: Final = np.iinfo(np.int64).max  # the end of a request that was not seen to end


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """One resource's line: what was measured of it, and what is predicted."""

    visits: Visits
    demand: Demand
    played: Replay
    compared: Rows  # of the visits: the scenario's own whose wait was measured

    @property
    def measured_ns(self) -> float:
        """The mean wait that was measured."""
        return float(self.visits.waited_ns[self.compared].mean())

    @property
    def predicted_ns(self) -> float:
        """The mean wait of the same requests by replay."""
        return float(self.played.wait_ns[self.compared].mean())

    @property
    def service_ns(self) -> float:
        """Their mean service time."""
        return float(self.visits.service_ns[self.compared].mean())

    @property
    def is_line(self) -> bool:
        """Whether requests stood in line: both waits are those of two that come together, or more.

        Of two that come together one waits for the other's service, and the mean waits for half.
        """
        return min(self.measured_ns, self.predicted_ns) >= self.service_ns / 2 > 0


@dataclass(frozen=True, slots=True, eq=False)
class Lines:
    """One scenario's requests, how they came, and the lines that they stood in."""

    name: str | None
    rows: Rows  # in `RequestRows`, those that were seen best
    wall_ns: float  # of the mean request
    loop: Loop
    lines: list[Line]
    unseen: list[Unseen]

    @property
    def longest(self) -> Line | None:
        """The line with the most wait; None when nobody was seen to stand in one."""
        lines = [one for one in self.lines if one.is_line]
        return max(lines, key=lambda one: one.measured_ns, default=None)


def measure_lines(timeline: Timeline) -> list[Lines]:
    """Return the lines of each scenario of a capture."""
    measured = timeline.once(measure_requests)
    found = []
    for one in scenarios(measured):
        rows, loop = one.rows, _loop(measured, one.name)
        wall_ns = float(one.group.falls.wall[one.at].mean())
        seen = [visits(timeline, rows) for visits in _VISITS]
        lines = [_line(visits, rows, loop) for visits in seen if isinstance(visits, Visits)]
        lines = [line for line in lines if len(line.compared)]
        unseen = [visits for visits in seen if isinstance(visits, Unseen)]
        found.append(Lines(one.name, rows, wall_ns, loop, lines, unseen))
    return found


def _loop(measured: MeasuredRequests, name: str | None) -> Loop:
    """Return how a scenario's requests came, with rows of `RequestRows` for the previous ones."""
    rows = measured.rows
    previous = np.full(len(rows.request), NOBODY, np.intp)
    is_own = np.array([scenario == name for scenario in rows.scenario], np.bool_)
    own = np.flatnonzero(is_own & rows.has_client)
    if not len(own):  # the server does not tell who asked
        return Loop(Coming.OPEN, None, previous)
    parsed, done = rows.instants["parsed"][own], rows.instants["done"][own]
    end = np.where(parsed != UNKNOWN, parsed, done)
    found = find_loop(rows.instants["due"][own], np.where(end == UNKNOWN, _NEVER, end))
    is_after = found.previous != NOBODY
    previous[own[is_after]] = own[found.previous[is_after]]
    return Loop(found.coming, found.user_count, previous)


def _line(visits: Visits, own: Rows, loop: Loop) -> Line:
    """Replay a resource; in a loop of users their time away from it is as it was measured."""
    previous = previous_among(visits.rows, loop.previous)
    away = np.maximum(visits.arrived_ns - visits.left_ns[previous], 0)
    demand = Demand(
        visits.arrived_ns, visits.service_ns, previous, np.where(previous == NOBODY, 0, away)
    )
    is_compared = np.isin(visits.rows, own) & (visits.waited_ns != UNKNOWN)
    return Line(visits, demand, replay(demand, visits.serving), np.flatnonzero(is_compared))
