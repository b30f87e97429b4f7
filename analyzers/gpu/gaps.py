"""Idle gaps of each GPU: how long, how many, and what the GPU waited for.

A gap ends with the slice that began then. Where its launch call is known, the gap is cut there: up
to the call the host was late, from there on the GPU was: `Cause.LATENCY`, or, where that took
longer than starting work takes, `Cause.QUEUED`, as for a slice that was launched before the gap
began. Where only the launching thread is known, all of the gap counts as the host's, since when it
launched was not seen; where not even that is, nothing is claimed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from analyzers.gpu.busy import Rows, busy_parts
from analyzers.gpu.causes import Accounts, Explainer, Shares, all_shares
from analyzers.gpu.labels import Cause, Label
from analyzers.gpu.launches import Launches, measure_launches
from analyzers.gpu.work import Work, measure_work
from analyzers.in_flight import measure_in_flight
from analyzers.intervals import Times
from analyzers.timeline import Timeline
from collectors.slices import NONE

# Upper bounds of the classes, ns; the last class has none.
CLASSES: Final = (("under_10us", 10_000), ("10us_to_100us", 100_000), ("100us_to_1ms", 1_000_000))
LAST_CLASS: Final = "over_1ms"
CLASS_NAMES: Final = (*(name for name, _ in CLASSES), LAST_CLASS)
# Starting a kernel takes 5 to 20 us, on a loaded host a few times that. Work that begins later
# waited for something on the GPU, which the trace need not show.
LATENCY_LIMIT_NS: Final = 100_000
_BOUNDS: Final = np.array([bound for _, bound in CLASSES])


@dataclass(frozen=True, slots=True, eq=False)
class Gaps:
    """All gaps of one GPU, in order.

    ``shares`` cut each gap, by its number, into labels of ``labels``; they add up to it exactly.
    """

    start: Times
    end: Times
    ended_by: Rows  # the slice that ended it
    call: Rows  # that slice's launch call; `NONE`: not known
    thread: Rows  # and the track of the launching thread
    shares: Shares
    looks: Shares  # at the launching thread's stack while it was late; each counts as 1 ns
    labels: list[Label]
    accounts: Accounts

    @property
    def length(self) -> Times:
        """How long each lasted."""
        return self.end - self.start

    @property
    def size_class(self) -> NDArray[np.intp]:
        """The place of each one's class in `CLASS_NAMES`."""
        return np.searchsorted(_BOUNDS, self.length, side="right")

    def by_class_and_label(self, shares: Shares) -> NDArray[np.int64]:
        """Return the ns of each class (rows) that go to each label (columns)."""
        width = len(self.labels)
        cell = self.size_class[shares.owner] * width + shares.label
        # Exact: a sum stays below 2^53 ns, 104 days.
        total = np.bincount(cell, shares.ns, minlength=len(CLASS_NAMES) * width)
        return total.astype(np.int64).reshape(len(CLASS_NAMES), width)


def measure_gaps(timeline: Timeline) -> dict[int, Gaps]:
    """Return the gaps of every GPU by its track."""
    work = timeline.once(measure_work)
    launches = timeline.once(measure_launches)
    explainer = Explainer(timeline, timeline.once(measure_in_flight).of_requests)
    return {
        track: _gaps(work, rows, launches[track], explainer) for track, rows in work.rows.items()
    }


def _gaps(work: Work, rows: Rows, launches: Launches, explainer: Explainer) -> Gaps:
    slices = work.slices
    start = slices.time_ns[rows]
    parts = busy_parts(start, start + slices.duration_ns[rows])
    ender = parts.first[1:]
    low, high = parts.end[:-1], parts.start[1:]
    call, thread = launches.call[ender], launches.thread[ender]
    accounts = Accounts()
    is_called = call != NONE
    # From where on the gap is no longer the host's, and from where on the call is over.
    launched = np.where(is_called, np.clip(slices.time_ns[call], low, high), high)
    returned = slices.time_ns[call] + slices.duration_ns[call]
    returned = np.where(is_called, np.clip(returned, launched, high), high)
    gap = np.arange(len(low))
    table = explainer.table

    def share(label: Label, chosen: NDArray[np.bool_], ns: Times) -> Shares:
        own = gap[chosen]
        return Shares(own, np.full(len(own), table.id(label), np.int32), ns[chosen])

    before = is_called & (slices.time_ns[call] + slices.duration_ns[call] <= low)
    in_graph = before & launches.is_graph[ender] & (launches.call[ender - 1] == call)
    is_start = is_called & ~before & (high - returned <= LATENCY_LIMIT_NS)
    nobody = ~is_called & (thread == NONE)
    found = [
        share(Label(Cause.UNEXPLAINED), nobody, high - low),
        share(Label(Cause.CALL), is_called, returned - launched),
        share(Label(Cause.GRAPH), in_graph, high - returned),
        share(Label(Cause.QUEUED), is_called & ~in_graph & ~is_start, high - returned),
        share(Label(Cause.LATENCY), is_start, high - returned),
    ]
    is_late = (launched > low) & ~nobody
    for track in np.unique(thread[is_late]).tolist():
        own = is_late & (thread == track)
        found.append(explainer.explain(track, low[own], launched[own], gap[own], accounts))
    shares = all_shares(found).nonzero()
    looks = all_shares(accounts.looks)
    return Gaps(low, high, rows[ender], call, thread, shares, looks, table.labels, accounts)
