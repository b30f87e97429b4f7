"""Why the host was late: what the thread that launched next did instead, instant by instant.

Of what is known the surest counts: that no request was there; that the thread was in a call of the
GPU's runtime; that it waited for the GIL; the Python function that a profiler saw it in; the stack
that was seen. Where context switches tell that it was ready and had no CPU, that is surer than all
but the first. Without them, of the time in which it was at work, or of which nothing is known, it
did not run for as long as the scheduler's counters say that it waited for a CPU
(`analyzers.gpu.run_queue`). What is left is
`Cause.UNEXPLAINED`, and so is work at a time when somebody waited for the GIL and it was not seen
who.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from analyzers.gpu.host_threads import HostThread, view_thread
from analyzers.gpu.labels import WAITS, WORK, Cause, Label, LabelTable
from analyzers.gpu.run_queue import Waiting, find_waiting
from analyzers.gpu.step_functions import (
    NOTHING,
    Labels,
    Pieces,
    Steps,
    cut,
    joined,
    label_open,
    steps_of,
    unlabelled,
)
from analyzers.intervals import Intervals, Times, intervals, union
from analyzers.timeline import Timeline

_FAR = 1 << 62


@dataclass(frozen=True, slots=True, eq=False)
class Shares:
    """Parts of intervals by what stands behind them: ``ns`` of ``owner`` go to ``label``."""

    owner: NDArray[np.int64]
    label: Labels
    ns: Times

    def nonzero(self) -> Shares:
        """Return those that are any time."""
        keep = self.ns > 0
        return Shares(self.owner[keep], self.label[keep], self.ns[keep])


def all_shares(parts: list[Shares]) -> Shares:
    """Return the shares of several lists as one."""
    none = np.empty(0, np.int64)
    return Shares(
        np.concatenate([none, *(one.owner for one in parts)]),
        np.concatenate([none.astype(np.int32), *(one.label for one in parts)]),
        np.concatenate([none, *(one.ns for one in parts)]),
    )


@dataclass(slots=True)
class Accounts:
    """What is known of lateness beside its shares.

    ``run_queue_low_ns`` and ``run_queue_high_ns`` are the least and the most that waits for a CPU
    can have been. ``looks`` are those at stacks while the thread was late: each counts as 1 ns.
    """

    run_queue_low_ns: int = 0
    run_queue_high_ns: int = 0
    looks: list[Shares] = field(default_factory=list)


@dataclass(slots=True)
class Explainer:
    """Explains intervals of one capture in which threads were late; ``table`` numbers the causes.

    ``in_flight`` is when a request was there, None where that is not known.
    """

    timeline: Timeline
    in_flight: Intervals | None
    table: LabelTable = field(default_factory=LabelTable)
    _threads: dict[int, tuple[HostThread, Waiting | None]] = field(default_factory=dict)

    def explain(
        self, track: int, start: Times, end: Times, owner: NDArray[np.int64], accounts: Accounts
    ) -> Shares:
        """Cut disjoint intervals, in order, in which the thread with this track was late.

        The shares of an owner add up to its intervals exactly. ``accounts`` is added to.
        """
        host, waiting = self._view(track)
        pieces = unlabelled(start, end, owner)
        sources = (host.calls, host.gil, host.python, host.stacks.steps, host.operators)
        for steps in (self._without_requests(), *sources):
            pieces = label_open(pieces, steps)
        pieces = self._doubted(pieces, host.gil_untold)
        if waiting is not None:
            low_ns, high_ns = waiting.bounds(start, end)
            accounts.run_queue_low_ns += low_ns
            accounts.run_queue_high_ns += high_ns
        place = np.searchsorted(start, host.stacks.times, side="right") - 1
        is_late = (place >= 0) & (host.stacks.times < end[place]) & (host.stacks.label != NOTHING)
        seen = owner[place[is_late]]
        accounts.looks.append(Shares(seen, host.stacks.label[is_late], np.ones_like(seen)))
        return self._shared_out(pieces, waiting)

    def _view(self, track: int) -> tuple[HostThread, Waiting | None]:
        if track not in self._threads:
            host = view_thread(self.timeline, track, self.table)
            self._threads[track] = host, self._waiting(track, host)
        return self._threads[track]

    def _waiting(self, track: int, host: HostThread) -> Waiting | None:
        if track not in self.timeline.threads:
            return None
        is_wait = self.table.having(WAITS)
        waits = union(
            intervals(*host.python.where(is_wait)), intervals(*host.stacks.steps.where(is_wait))
        )
        everything = np.ones(len(is_wait), np.bool_)
        others = union(
            intervals(*host.gil.where(everything)), intervals(*host.calls.where(everything))
        )
        return find_waiting(self.timeline, track, host.walls, waits, others)

    def _without_requests(self) -> Steps:
        none = np.empty(0, np.int64)
        if self.in_flight is None:
            return steps_of(none, none, none.astype(np.int32))
        label = self.table.id(Label(Cause.NO_REQUEST))
        start = np.concatenate(([-_FAR], self.in_flight.end))
        end = np.concatenate((self.in_flight.start, [_FAR]))
        return steps_of(start, end, np.full(len(start), label, np.int32))

    def _doubted(self, pieces: Pieces, untold: Intervals) -> Pieces:
        """Take back what was said of work at a time when the thread may have waited for the GIL."""
        is_work = self._is(pieces.label, WORK)
        if not len(untold) or not is_work.any():
            return pieces
        doubt = self.table.id(Label(Cause.UNEXPLAINED))
        steps = steps_of(untold.start, untold.end, np.full(len(untold), doubt, np.int32))
        source = replace(pieces.where(is_work), owner=np.flatnonzero(is_work))
        found = cut(source, steps)
        label = np.where(found.label == NOTHING, pieces.label[found.owner], found.label)
        told = replace(found, owner=pieces.owner[found.owner], label=label)
        return joined([pieces.where(~is_work), told])

    def _is(self, label: Labels, causes: frozenset[Cause]) -> NDArray[np.bool_]:
        is_wanted = np.append(self.table.having(causes), False)
        found: NDArray[np.bool_] = is_wanted[label]  # the last one is for NOTHING
        return found

    def _shared_out(self, pieces: Pieces, waiting: Waiting | None) -> Shares:
        unexplained = self.table.id(Label(Cause.UNEXPLAINED))
        pieces = replace(pieces, label=np.where(pieces.label == NOTHING, unexplained, pieces.label))
        if waiting is None:
            return Shares(pieces.owner, pieces.label, pieces.end - pieces.start)
        is_work = self._is(pieces.label, WORK | {Cause.UNEXPLAINED})
        is_wait = self._is(pieces.label, WAITS)
        if waiting.counters is None:  # no guess: it had no CPU, whatever it was in
            is_work = ~is_wait & ~self._is(pieces.label, frozenset({Cause.NO_REQUEST}))
        parts = [pieces.where(~is_work & ~is_wait)]
        shares = []
        for mask, placed in ((is_work, waiting.at_work), (is_wait, waiting.in_waits)):
            numbers = np.arange(len(placed.ratio), dtype=np.int32)
            source = replace(pieces.where(mask), owner=np.flatnonzero(mask))
            found = cut(source, steps_of(placed.start, placed.end, numbers))
            is_placed = found.label != NOTHING
            inside = found.where(is_placed)
            length = inside.end - inside.start
            waited = (length * placed.ratio[inside.label]).astype(np.int64)
            owner, label = pieces.owner[inside.owner], pieces.label[inside.owner]
            shares += [
                Shares(owner, self._without_cpu(label), waited),
                Shares(owner, label, length - waited),
            ]
            outside = found.where(~is_placed)
            parts.append(
                replace(
                    outside, owner=pieces.owner[outside.owner], label=pieces.label[outside.owner]
                )
            )
        rest = joined(parts)
        shares.append(Shares(rest.owner, rest.label, rest.end - rest.start))
        return all_shares(shares).nonzero()

    def _without_cpu(self, label: Labels) -> Labels:
        """Return the labels of waiting for a CPU in the same places."""
        if not len(label):
            return label
        known, which = np.unique(label, return_inverse=True)
        labels = self.table.labels
        ids = [
            self.table.id(
                replace(labels[one], cause=Cause.RUN_QUEUE, stage=None)
                if labels[one].cause in WAITS
                else replace(labels[one], cause=Cause.RUN_QUEUE)
            )
            for one in known.tolist()
        ]
        return np.array(ids, np.int32)[which]
