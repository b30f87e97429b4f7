"""Read the switches: who leaves a CPU, who comes, and what a runnable thread was doing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from probes.perf.ring import Words
from probes.switches import layout as kinds
from probes.switches.layout import Layout
from probes.switches.records import I64, Drained, Flags, Records, split_pairs

UNSEEN = -1  # instead of a pid or a tid


@dataclass(frozen=True, slots=True)
class Switches:
    """The switches of a drain, ring after ring, each in its order.

    One that ``closes`` ends the stay of thread ``tid`` of process ``pid``, the others begin it;
    ``other_tid`` is who comes next, or was there before. A thread that is ending has no ids any
    more, and a task's own records do not name the other (`UNSEEN`). ``hint`` and ``ip`` are the
    registers of a thread that left while still runnable, where ``has_registers``.
    """

    ring: I64
    record: I64  # which record of the drain
    time_ns: I64
    closes: Flags
    pid: I64
    tid: I64
    other_pid: I64
    other_tid: I64
    is_runnable: Flags
    hint: I64
    ip: I64
    has_registers: Flags


@dataclass(frozen=True, slots=True)
class Wakings:
    """Who became ready to run, and when."""

    tid: I64
    time_ns: I64


class SwitchReader:
    """Reads switches; keeps a sample whose switch comes with the next drain."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._trailing: dict[int, Words] = {}  # by ring: registers of its last record, a sample

    def read(self, drained: Drained, records: Records) -> Switches:
        """Return the switches among ``records``."""
        if self._layout.is_cpu_wide:
            return self._read_wide(drained, records)
        return self._read_tasks(drained, records)

    def read_wakings(self, drained: Drained, records: Records) -> Wakings:
        """Return the wake-ups among ``records``."""
        waking = self._layout.waking
        if waking is None:
            return Wakings(np.empty(0, np.int64), np.empty(0, np.int64))
        is_waking = (records.kind == kinds.SAMPLE) & (records.length == self._layout.waking_words)
        at = records.position[is_waking]
        half = (kinds.RAW_DATA_BYTE + waking.offsets["pid"]) // 4
        tid = drained.words.view(np.int32)[2 * at + half].astype(np.int64)
        return Wakings(tid, drained.words[at + 2].astype(np.int64))

    def _read_wide(self, drained: Drained, records: Records) -> Switches:
        record = np.flatnonzero(records.kind == kinds.SWITCH_CPU_WIDE)
        at = records.position[record]
        other_pid, other_tid = split_pairs(drained.words[at + 1])
        pid, tid = split_pairs(drained.words[at + 2])
        is_out, is_runnable = _directions(records, record)
        return Switches(
            records.ring[record], record, drained.words[at + 3].astype(np.int64), is_out,
            pid, tid, other_pid, other_tid,
            is_runnable, *self._registers(drained, records, record, is_runnable),
        )  # fmt: skip

    def _read_tasks(self, drained: Drained, records: Records) -> Switches:
        """An exit is a thread's last switch: its events are gone before it leaves the CPU."""
        is_exit = records.kind == kinds.EXIT
        record = np.flatnonzero((records.kind == kinds.SWITCH) | is_exit)
        at, ends = records.position[record], is_exit[record]
        words = drained.words
        pid, tid = split_pairs(words[at + 1])
        tid[ends] = split_pairs(words[at[ends] + 2])[0]
        time_ns = words[np.where(ends, at + 3, at + 2)].astype(np.int64)
        is_out, is_runnable = _directions(records, record)
        is_out, is_runnable = is_out | ends, is_runnable & ~ends
        unseen = np.full(len(at), UNSEEN)
        return Switches(
            records.ring[record], record, time_ns, is_out, pid, tid, unseen, unseen,
            is_runnable, *self._registers(drained, records, record, is_runnable),
        )  # fmt: skip

    def _registers(
        self, drained: Drained, records: Records, record: I64, is_runnable: Flags
    ) -> tuple[I64, I64, Flags]:
        """Find the sample that stands right before each switch of a runnable thread."""
        hint, ip = np.zeros(len(record), np.int64), np.zeros(len(record), np.int64)
        has_registers = np.zeros(len(record), bool)
        if self._layout.registers is None:
            return hint, ip, has_registers
        is_sample = (records.kind == kinds.SAMPLE) & (
            records.length == kinds.SAMPLE_WITH_REGISTERS_WORDS
        )
        row = np.flatnonzero(is_runnable)
        before = record[row] - 1
        is_first = (before < 0) | (records.ring[before] != records.ring[record[row]])
        has = ~is_first & is_sample[before]
        at = records.position[before[has]] + kinds.REGISTERS_WORD
        hint[row[has]] = drained.words[at].view(np.int64)
        ip[row[has]] = drained.words[at + 1].view(np.int64)
        has_registers[row[has]] = True
        for first in row[is_first].tolist():
            kept = self._trailing.get(int(records.ring[record[first]]))
            if kept is not None:
                hint[first], ip[first] = kept.view(np.int64)
                has_registers[first] = True
        last = np.flatnonzero(np.diff(records.ring, append=-1))
        for ring in records.ring[last].tolist():
            self._trailing.pop(ring, None)
        for one in last[is_sample[last]].tolist():
            start = int(records.position[one]) + kinds.REGISTERS_WORD
            self._trailing[int(records.ring[one])] = drained.words[start : start + 2].copy()
        return hint, ip, has_registers


def _directions(records: Records, record: I64) -> tuple[Flags, Flags]:
    """Return whether each switches out, and whether a runnable thread."""
    misc = records.misc[record]
    is_out = (misc & kinds.MISC_SWITCH_OUT) != 0
    return is_out, is_out & ((misc & kinds.MISC_SWITCH_OUT_PREEMPT) != 0)
