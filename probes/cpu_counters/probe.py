"""The CPU counter probe: what the busiest threads' cycles went into, once a second.

Counting for a thread makes each of its switches dearer (see docs/host.md), so it is not on by
itself, and it watches only threads that use CPU time.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from collectors.manifest import ProbeRecord
from probes.base import Capability, Context, Level
from probes.cpu_counters.events import (
    SOFTWARE,
    CounterEvent,
    hardware_events,
    read_cpu_identity,
)
from probes.cpu_counters.groups import EventGroup, OpenEvent, may_count_kernel, open_group
from probes.descriptors import allow_many_descriptors
from probes.host.rows import TOTAL, CounterRows, Reading
from probes.host.topology import read_topology
from probes.pacer import Pacer
from probes.perf.errors import PerfError, PerfTargetGone
from probes.perf.events import open_event
from probes.target import Process, Target

RATE_HZ: Final = 1.0
CHOOSE_TICKS: Final = 2  # how often to look which threads are busy
# Each has up to nine descriptors, and a process may have 1024 without asking anyone.
THREAD_LIMIT: Final = 64
BUSY_SHARE: Final = 0.01  # of a core; below it a thread's counters decide nothing
NO_PMU: Final = "not in this VM: it is given no hardware counters (PMU)"
PMU_REMEDY: Final = (
    "run on the host or on a bare-metal instance, or give the machine its PMU (QEMU: -cpu "
    "host,pmu=on)"
)


@dataclass(slots=True)
class _Watched:
    """A thread that is counted."""

    track: int
    groups: list[EventGroup]


@dataclass(slots=True)
class _Account:
    """What was counted, over all threads."""

    thread_count: int = 0
    left_out_count: int = 0  # busy threads over the limit, at the worst moment
    enabled_ns: int = 0
    running_ns: int = 0

    def close(self, watched: _Watched) -> None:
        """Let go of a thread."""
        self.thread_count += 1
        for group in watched.groups:
            self.enabled_ns += group.enabled_ns
            self.running_ns += group.running_ns
            group.close()


class CpuCounterProbe:
    """Writes into ``counters``, on the tracks of threads."""

    name = "cpu_counters"

    def __init__(
        self, rate_hz: float = RATE_HZ, *, counts_software: bool = False,
        opener: OpenEvent = open_event, root: Path | None = None,
    ) -> None:  # fmt: skip
        """``counts_software`` adds what the kernel counts: CPU clock, migrations, page faults.

        ``opener`` stands in for `open_event`; ``root`` holds ``proc`` and ``sys``.
        """
        self._pacer = Pacer(self.name, rate_hz, self._tick, self._miss)
        self._counts_software = counts_software
        self._opener = opener
        self._root = root
        self._sets: list[list[CounterEvent]] = []
        self._counts_kernel = False
        self._processes: list[Process] = []
        self._run_ns: dict[tuple[int, int], int] = {}
        self._chosen_ns = 0
        self._watched: dict[tuple[int, int], _Watched] = {}
        self._account = _Account()
        self._refusal: PerfError | None = None
        self._ticks = 0
        self._capability: Capability
        self._context: Context
        self._rows: CounterRows

    def check(self, target: Target) -> Capability:
        """Try the events on ourselves, and the permission on the target."""
        self._capability = self._check(target)
        return self._capability

    def start(self, context: Context) -> None:
        """Begin to look for busy threads; `check` has settled what to count."""
        allow_many_descriptors()
        self._context = context
        self._rows = CounterRows(context.recorder)
        self._processes = list(context.target.processes.values())
        self._pacer.start()

    def add(self, process: Process) -> None:
        """Look at the process's threads too."""
        self._processes = [*self._processes, process]

    def stop(self) -> ProbeRecord:
        """Read a last time, and say what was counted."""
        self._pacer.stop()
        self._read()
        self._rows.close()
        for watched in self._watched.values():
            self._account.close(watched)
        account = self._account
        record = self._capability.record(self._pacer.rate_hz)
        if self._refusal is not None:
            record.level = Level.DEGRADED.value
            record.reason, record.remedy = self._refusal.message, self._refusal.remedy
        record.achieved_hz = self._pacer.achieved_hz
        record.largest_gap_ns = self._pacer.largest_gap_ns
        record.detail = {
            "events": [event.name for events in self._sets for event in events],
            "counts_kernel": self._counts_kernel,
            "thread_count": account.thread_count,
            "left_out_count": account.left_out_count,
            # Below 1 the events took turns on too few counters, and were scaled.
            "counted_ratio": account.running_ns / account.enabled_ns
            if account.enabled_ns
            else None,
        }
        return record

    def _check(self, target: Target) -> Capability:
        root = self._root or target.procfs.root.parent
        has_one_node = read_topology(root).has_one_node
        hardware = hardware_events(read_cpu_identity(root), has_one_node=has_one_node)
        try:
            self._counts_kernel = may_count_kernel(self._opener)
            offered = self._offered(hardware, 0)
            self._offered(list(SOFTWARE), target.root_pid)
        except PerfError as error:
            return Capability(self.name, Level.UNAVAILABLE, error.message, error.remedy)
        software = [list(SOFTWARE)] if self._counts_software else []
        self._sets = ([offered] if offered else []) + software
        if not offered:
            level = Level.DEGRADED if software else Level.UNAVAILABLE
            return Capability(self.name, level, NO_PMU, PMU_REMEDY)
        if not self._counts_kernel:
            return Capability(
                self.name, Level.DEGRADED, "only what happens outside the kernel is counted",
                "run as root, or: sudo sysctl kernel.perf_event_paranoid=1",
            )  # fmt: skip
        return Capability(self.name, Level.WORKS)

    def _offered(self, events: list[CounterEvent], tid: int) -> list[CounterEvent]:
        """Return those of the events that open for a thread."""
        group = open_group(events, tid, counts_kernel=self._counts_kernel, opener=self._opener)
        if group is None:
            return []
        group.close()
        return list(group.events)

    def _tick(self, now_ns: int) -> None:
        if self._ticks % CHOOSE_TICKS == 0:
            self._choose(now_ns)
        self._ticks += 1
        self._read()
        self._rows.flush()

    def _choose(self, now_ns: int) -> None:
        """Watch the threads that were busiest since the last choice; let go of idle ones.

        The first choice knows no past, and only notes where each stands.
        """
        run_ns = self._read_run_ns()
        window_ns = max(1, now_ns - self._chosen_ns)
        shares = {
            key: (total_ns - self._run_ns[key]) / window_ns
            for key, total_ns in run_ns.items()
            if key in self._run_ns
        }
        self._run_ns, self._chosen_ns = run_ns, now_ns
        for key in [key for key in self._watched if key not in run_ns]:
            self._account.close(self._watched.pop(key))
        busy = sorted((key for key in shares if shares[key] >= BUSY_SHARE), key=shares.__getitem__)
        wanted = [key for key in reversed(busy) if key not in self._watched]
        idle = [key for key in self._watched if shares.get(key, 0.0) < BUSY_SHARE]
        while idle and len(self._watched) + len(wanted) > THREAD_LIMIT:
            self._account.close(self._watched.pop(idle.pop()))
        room = max(0, THREAD_LIMIT - len(self._watched))
        self._account.left_out_count = max(self._account.left_out_count, len(wanted) - room)
        for key in wanted[:room]:
            self._watch(*key)

    def _read_run_ns(self) -> dict[tuple[int, int], int]:
        procfs = self._context.target.procfs
        found = {}
        for process in self._processes:
            try:
                tids = procfs.tids(process.pid)
            except ProcessLookupError:
                continue
            for tid in tids:
                try:
                    found[process.pid, tid] = procfs.schedstat(process.pid, tid)[0]
                except ProcessLookupError:
                    continue
        return found

    def _watch(self, pid: int, tid: int) -> None:
        process = self._context.target.processes[pid]
        try:
            name = self._context.target.procfs.stat(pid, tid).comm
            groups = [
                group
                for events in self._sets
                if (group := open_group(
                    events, tid, counts_kernel=self._counts_kernel, opener=self._opener
                ))
            ]  # fmt: skip
        except (ProcessLookupError, PerfTargetGone):
            return
        except PerfError as error:
            self._refusal = error
            return
        self._watched[pid, tid] = _Watched(self._context.thread_track(process, tid, name), groups)

    def _read(self) -> None:
        for watched in self._watched.values():
            for group in watched.groups:
                totals = group.read()
                if totals is None:
                    continue
                self._rows.add(
                    time.monotonic_ns(),
                    [
                        Reading(watched.track, event.name, "", event.unit, TOTAL, total)
                        for event, total in zip(group.events, totals, strict=True)
                    ],
                )

    def _miss(self, error: OSError) -> None:
        reason = f"the system refused: {os.strerror(error.errno or 0)}"
        now_ns = time.monotonic_ns()
        self._context.recorder.gap(self.name, self._pacer.last_ns, now_ns, reason)
