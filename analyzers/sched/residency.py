"""Where threads ran: CPUs, moves between them, and nodes of memory.

Context switches tell it exactly. Without them the counters say about once a second on which CPU a
thread last ran: what it ran since the look before is then put there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from analyzers.intervals import Times
from analyzers.sched.histories import has_switches, read_histories
from analyzers.sched.machine import Machine, read_machine
from analyzers.timeline import Thread, Timeline, column, rows_by

CPU_COUNT: Final = 4  # of the CPUs that a thread ran on most, so many are listed


@dataclass(frozen=True, slots=True, eq=False)
class Residency:
    """One thread's run time by CPU; ``cpu`` and ``ns`` are equally long."""

    thread: Thread
    cpu: NDArray[np.int16]
    ns: Times
    migration_count: int | None  # None: looks do not tell
    crossing_count: int | None  # moves from one node to another

    @property
    def total_ns(self) -> int:
        """All it ran."""
        return int(self.ns.sum())

    def by_node(self, machine: Machine) -> dict[int, int]:
        """Return the run time by node; without nodes that are not known."""
        node = machine.node_of(self.cpu)
        return {one: int(self.ns[node == one].sum()) for one in np.unique(node[node >= 0]).tolist()}


def measure_residency(timeline: Timeline) -> list[Residency]:
    """Return where every thread ran, the one that ran longest first."""
    found = _by_switches(timeline) if has_switches(timeline) else _by_looks(timeline)
    return sorted(found, key=lambda one: -one.total_ns)


def _by_switches(timeline: Timeline) -> list[Residency]:
    histories = timeline.once(read_histories)
    machine = timeline.once(read_machine)
    node = machine.node_of(histories.cpu)
    is_same = np.zeros(len(histories), np.bool_)
    is_same[1:] = histories.thread[1:] == histories.thread[:-1]
    is_move = is_same & (histories.cpu != np.roll(histories.cpu, 1))
    was = np.roll(node, 1)
    is_crossing = is_move & (node != was) & (node >= 0) & (was >= 0)
    moves, crossings = histories.sums(is_move), histories.sums(is_crossing)
    width = int(histories.cpu.max(initial=0)) + 1
    cell = histories.thread.astype(np.int64) * width + histories.cpu
    ns = np.bincount(cell, histories.end - histories.start, len(histories.threads) * width)
    ns = ns.astype(np.int64).reshape(-1, width)
    found = []
    for place, track in enumerate(histories.threads):
        cpu = np.flatnonzero(ns[place])
        found.append(
            Residency(
                timeline.threads[track],
                cpu.astype(np.int16),
                ns[place][cpu],
                int(moves[place]),
                int(crossings[place]) if machine.node_cpus else None,
            )
        )
    return found


def _by_looks(timeline: Timeline) -> list[Residency]:
    table = timeline.capture.table("thread_counters")
    run, cpu = column(table, "run_ns"), column(table, "cpu", np.float64)
    found = []
    for track, rows in rows_by(table, "track").items():
        if track not in timeline.threads:
            continue
        known = rows[~np.isnan(cpu[rows])]
        if len(known) < 2:
            continue
        # The CPU of a look is where it ran last, so what it ran before belongs there.
        ran = np.maximum(np.diff(run[known]), 0)  # it falls where the kernel reused a thread id
        where = cpu[known][1:].astype(np.int16)
        cpus, place = np.unique(where, return_inverse=True)
        ns = np.bincount(place, ran, len(cpus)).astype(np.int64)
        found.append(Residency(timeline.threads[track], cpus, ns, None, None))
    return found


def rows(timeline: Timeline) -> list[dict[str, Any]]:
    """Return the rows of the document."""
    machine = timeline.once(read_machine)
    return [
        {
            "pid": one.thread.process.pid,
            "role": one.thread.process.role,
            "tid": one.thread.tid,
            "name": one.thread.name,
            "cpu_seconds": one.total_ns / 1e9,
            "migration_count": one.migration_count,
            "node_crossing_count": one.crossing_count,
            "cpu_count": len(one.cpu),
            "cpus": [
                {"cpu": int(one.cpu[row]), "ratio": int(one.ns[row]) / one.total_ns}
                for row in np.argsort(-one.ns, kind="stable")[:CPU_COUNT].tolist()
            ],
            "nodes": [
                {"node": node, "ratio": ns / one.total_ns}
                for node, ns in one.by_node(machine).items()
            ],
        }
        for one in timeline.once(measure_residency)
        if one.total_ns
    ]
