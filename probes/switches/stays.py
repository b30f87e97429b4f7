"""Pair the switches of each CPU into stays: from the switch that put a thread there to its end.

A CPU's switches are paired with one another, never a thread's: so a thread that moves between CPUs
needs no care, and neither does one that ends and has no id any more.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from probes.switches.records import I64, Flags, Loss
from probes.switches.switching import UNSEEN, Switches


@dataclass(frozen=True, slots=True)
class Stays:
    """Stays on a CPU, of whatever thread; ``ring`` is whose. Unseen ids are `UNSEEN`."""

    ring: I64
    start_ns: I64
    end_ns: I64
    pid: I64
    tid: I64
    next_pid: I64
    next_tid: I64
    is_open: Flags  # it had not ended
    is_runnable: Flags  # when it ended
    hint: I64
    ip: I64
    has_registers: Flags

    def __len__(self) -> int:
        return len(self.ring)

    def where(self, rows: Flags | I64) -> Stays:
        """Return some of them, by mask or by row numbers."""
        return Stays(*(getattr(self, field.name)[rows] for field in fields(self)))


def concatenate(parts: list[Stays]) -> Stays:
    """Return all of ``parts``, at least one, as one."""
    return Stays(
        *(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Stays))
    )


class Pairing:
    """Pairs switches; keeps from drain to drain who is on each CPU."""

    def __init__(self, ring_count: int, start_ns: int) -> None:
        """``start_ns``: since when switches are recorded; each CPU has somebody on it then."""
        self._is_open = np.ones(ring_count, bool)
        self._time_ns = np.full(ring_count, start_ns)
        self._pid = np.full(ring_count, UNSEEN)
        self._tid = np.full(ring_count, UNSEEN)

    def pair(self, switches: Switches, losses: list[Loss]) -> Stays:
        """Return the stays that these switches end; what a loss cuts in two is left out."""
        s = switches
        count = len(s.ring)
        is_cut, cut_rings = self._cuts(s, losses)
        if count == 0:
            self._is_open[cut_rings] = False
            return _empty()
        close = np.flatnonzero(s.closes)
        ring, end_ns = s.ring[close], s.time_ns[close]
        open_ = close - 1
        is_first = (open_ < 0) | (s.ring[open_] != ring)  # it was opened in an earlier drain
        opener_pid = np.where(is_first, self._pid[ring], s.pid[open_])
        opener_tid = np.where(is_first, self._tid[ring], s.tid[open_])
        pid, tid = s.pid[close], s.tid[close]
        start_ns = np.where(is_first, self._time_ns[ring], self._came_ns(s, open_, is_cut))
        is_whole = np.where(is_first, self._is_open[ring], ~s.closes[open_]) & ~is_cut[close]
        is_whole &= (tid == opener_tid) | (tid == UNSEEN) | (opener_tid == UNSEEN)
        # One that ended while the events of the others were still being enabled began before.
        row = np.flatnonzero(is_whole & (start_ns < end_ns))
        close = close[row]
        stays = Stays(
            ring[row], start_ns[row], end_ns[row],
            np.where(pid == UNSEEN, opener_pid, pid)[row],
            np.where(tid == UNSEEN, opener_tid, tid)[row],
            s.other_pid[close], s.other_tid[close],
            np.zeros(len(row), bool), s.is_runnable[close],
            s.hint[close], s.ip[close], s.has_registers[close],
        )  # fmt: skip
        self._keep(s, is_cut)
        self._is_open[cut_rings] = False
        return stays

    @staticmethod
    def _came_ns(s: Switches, open_: I64, is_cut: Flags) -> I64:
        """Return when each thread that came got its CPU: as the one before it left, if that named
        it. That is how the kernel accounts for the time in between, its own.
        """
        before = np.maximum(open_ - 1, 0)
        is_handed = s.closes[before] & (s.ring[before] == s.ring[open_]) & ~is_cut[open_]
        is_handed &= (s.other_tid[before] == s.tid[open_]) & (s.tid[open_] != UNSEEN)
        return s.time_ns[np.where(is_handed, before, open_)]

    @staticmethod
    def _cuts(s: Switches, losses: list[Loss]) -> tuple[Flags, list[int]]:
        """Return before which switches something was lost, and the rings that end with a loss."""
        is_cut = np.zeros(len(s.ring), bool)
        rings = []
        for loss in losses:
            row = int(np.searchsorted(s.record, loss.record))
            if row < len(s.ring) and s.ring[row] == loss.ring:
                is_cut[row] = True
            else:
                rings.append(loss.ring)
        return is_cut, rings

    def _keep(self, s: Switches, is_cut: Flags) -> None:
        last = np.flatnonzero(np.diff(s.ring, append=-1))
        ring = s.ring[last]
        self._is_open[ring] = ~s.closes[last]
        self._time_ns[ring] = self._came_ns(s, last, is_cut)
        self._pid[ring] = s.pid[last]
        self._tid[ring] = s.tid[last]

    def end(self, end_ns: int) -> Stays:
        """Return the stays that are going on, as far as ``end_ns``."""
        ring = np.flatnonzero(self._is_open & (self._tid != UNSEEN))
        unseen, no = np.full(len(ring), UNSEEN), np.zeros(len(ring), bool)
        zero = np.zeros(len(ring), np.int64)
        return Stays(
            ring, self._time_ns[ring], np.full(len(ring), end_ns), self._pid[ring],
            self._tid[ring], unseen, unseen, ~no, no, zero, zero, no,
        )  # fmt: skip


def _empty() -> Stays:
    number, flag = np.empty(0, np.int64), np.empty(0, bool)
    return Stays(
        number, number, number, number, number, number, number, flag, flag, number, number, flag,
    )  # fmt: skip
