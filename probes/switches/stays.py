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
    is_clipped: Flags  # it began before we looked
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
        self._is_clipped = np.ones(ring_count, bool)
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
        is_first = np.ones(count, bool)
        is_first[1:] = s.ring[1:] != s.ring[:-1]
        before = np.arange(count) - 1
        is_opened = np.where(is_first, self._is_open[s.ring], ~s.closes[before])
        opener_tid = np.where(is_first, self._tid[s.ring], s.came_tid[before])
        opener_pid = np.where(is_first, self._pid[s.ring], s.came_pid[before])
        is_same = (s.left_tid == opener_tid) | (s.left_tid == UNSEEN) | (opener_tid == UNSEEN)
        start_ns = np.where(is_first, self._time_ns[s.ring], self._came_ns(s)[before])
        # One that ended while the events of the others were still being enabled began before.
        is_whole = s.closes & is_opened & ~is_cut & (start_ns < s.time_ns)
        row = np.flatnonzero(is_whole & is_same)
        stays = Stays(
            s.ring[row], start_ns[row], s.time_ns[row],
            np.where(s.left_pid == UNSEEN, opener_pid, s.left_pid)[row],
            np.where(s.left_tid == UNSEEN, opener_tid, s.left_tid)[row],
            s.came_pid[row], s.came_tid[row],
            (is_first & self._is_clipped[s.ring])[row], np.zeros(len(row), bool),
            s.is_runnable[row], s.hint[row], s.ip[row], s.has_registers[row],
        )  # fmt: skip
        self._keep(s)
        self._is_open[cut_rings] = False
        return stays

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

    @staticmethod
    def _came_ns(s: Switches) -> I64:
        """Return when each thread that came got its CPU: as the one before it left, if that named
        it. That is how the kernel accounts for the time in between, its own.
        """
        came_ns = s.time_ns.copy()
        is_pair = s.closes[:-1] & ~s.closes[1:] & (s.ring[:-1] == s.ring[1:])
        is_pair &= (s.came_tid[:-1] == s.came_tid[1:]) & (s.came_tid[1:] != UNSEEN)
        came_ns[1:][is_pair] = s.time_ns[:-1][is_pair]
        return came_ns

    def _keep(self, s: Switches) -> None:
        last = np.flatnonzero(np.diff(s.ring, append=-1))
        ring = s.ring[last]
        self._is_open[ring] = ~s.closes[last]
        self._is_clipped[ring] = False
        self._time_ns[ring] = self._came_ns(s)[last]
        self._pid[ring] = s.came_pid[last]
        self._tid[ring] = s.came_tid[last]

    def end(self, end_ns: int) -> Stays:
        """Return the stays that are going on, as far as ``end_ns``."""
        ring = np.flatnonzero(self._is_open & (self._tid != UNSEEN))
        unseen, no = np.full(len(ring), UNSEEN), np.zeros(len(ring), bool)
        zero = np.zeros(len(ring), np.int64)
        return Stays(
            ring, self._time_ns[ring], np.full(len(ring), end_ns), self._pid[ring],
            self._tid[ring], unseen, unseen, self._is_clipped[ring], ~no, no, zero, zero, no,
        )  # fmt: skip


def _empty() -> Stays:
    number, flag = np.empty(0, np.int64), np.empty(0, bool)
    return Stays(
        number, number, number, number, number, number, number, flag, flag, flag, number, number,
        flag,
    )  # fmt: skip
