"""The switch probe: drains the kernel's rings a few times a second and makes slices of them.

It runs in the session's own process: nothing here has to be on time, since the rings hold what
happens meanwhile, and a child would have to send every row back.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Final

import numpy as np

from collectors.cpu_slices import YIELDED
from collectors.manifest import ProbeRecord
from probes.base import Capability, Context, Level
from probes.descriptors import allow_many_descriptors
from probes.pacer import Pacer
from probes.perf.errors import PerfError
from probes.procfs import Procfs
from probes.switches.plans import PLANS, Mode, Plan, choose_plan, online_cpus, traced
from probes.switches.records import (
    I64,
    Drained,
    Loss,
    find_records,
    read_forks,
    read_losses,
    read_namings,
)
from probes.switches.slices import Waiting, finished
from probes.switches.sources import Source, ring_bytes
from probes.switches.stays import Pairing, Stays, concatenate
from probes.switches.switching import Switches, SwitchReader, Wakings
from probes.switches.tracks import Tracks
from probes.switches.wakes import Wakes
from probes.switches.yields import YieldJudge
from probes.target import Process, Target

# With the half second that the recorder keeps rows for, a kill costs less than one.
RATE_HZ: Final = 4.0
# A record is stamped some time before it is in its ring, longer where a hypervisor takes the CPU in
# between: what is younger than this at a drain waits for the next one.
SETTLE_NS: Final = 2_000_000
LOST: Final = "records found no room in the ring"
BROKEN: Final = "the ring held what are no records"
# The PID namespace that sees all processes: PROC_PID_INIT_INO in linux/proc_ns.h.
_INITIAL_NAMESPACE: Final = f"pid:[{0xEFFFFFFC}]"
_FIRST_KERNEL: Final = (4, 17)  # says of a thread that left its CPU whether it was still runnable
_LACKS: Final = {
    Mode.PER_CPU: "",
    Mode.PER_CPU_RECORDS: "wake-ups are not seen",
    Mode.PER_TASK: "wake-ups, and who gets the CPU next, are not seen",
}


class SwitchProbe:
    """Records every stay of every thread of the target on a CPU; table ``cpu_slices``."""

    name = "switches"

    def __init__(self, rate_hz: float = RATE_HZ) -> None:
        """``rate_hz``: how often the rings are drained."""
        self._pacer = Pacer(self.name, rate_hz, self._tick, self._miss)
        self._plan: Plan | None = None
        self._capability: Capability | None = None
        self._counts = dict.fromkeys(("record", "byte", "lost", "slice", "yield"), 0)
        self._held: Stays | None = None  # too young to be judged
        self._cpu_ns = 0
        self._started_ns = 0
        self._drained_ns = 0
        self._context: Context
        self._source: Source
        self._reader: SwitchReader
        self._pairing: Pairing
        self._wakes = Wakes()
        self._judge: YieldJudge
        self._tracks: Tracks
        self._waiting: Waiting
        self._cpus: I64

    def check(self, target: Target) -> Capability:
        """Say in which mode it would run; events are opened to see, and closed again."""
        self._plan, self._capability = self._choose(target)
        return self._capability

    def _choose(self, target: Target) -> tuple[Plan | None, Capability]:
        if not _is_new_enough(os.uname().release):
            return None, Capability(
                self.name, Level.UNAVAILABLE, "Linux before 4.17 does not say why a thread left",
                "use a newer kernel",
            )  # fmt: skip
        # The tracepoints' fields hold ids of the outermost namespace, which nobody here knows.
        plans = tuple(one for one in PLANS if one is not traced or _sees_all(target.procfs))
        try:
            plan, refusals = choose_plan(target.root_pid, online_cpus()[0], plans)
        except PerfError as error:
            return None, Capability(self.name, Level.UNAVAILABLE, error.message, error.remedy)
        lacks = _LACKS[plan.mode]
        if plan.layout.registers is None:
            lacks += "; a yield looks like a preemption"
        if not lacks:
            return plan, Capability(self.name, Level.WORKS)
        why = refusals[-1] if refusals else None
        reason = f"{lacks}: {why.message if why else 'threads have other ids outside of here'}"
        remedy = why.remedy if why else "run cputax outside of the container"
        return plan, Capability(self.name, Level.DEGRADED, reason, remedy)

    def start(self, context: Context) -> None:
        """Open the events and begin.

        Raises:
            PerfError: the kernel refuses what it allowed at the check.
        """
        allow_many_descriptors()
        if self._capability is None:
            self.check(context.target)
        assert self._plan is not None, "started where it cannot work"
        self._context = context
        cpus = online_cpus()
        self._begin(Source(self._plan, cpus, ring_bytes(len(cpus)), self._tids))
        self._pacer.start()

    def _begin(self, source: Source) -> None:
        """Begin to record what ``source`` sees."""
        self._source = source
        layout = source.plan.layout
        self._cpus = np.array(source.cpus)
        self._reader = SwitchReader(layout)
        self._judge = YieldJudge(layout.registers)
        self._tracks = Tracks(self._context, sees_all=_sees_all(self._context.target.procfs))
        self._waiting = Waiting(self._tracks)
        self._started_ns = self._drained_ns = source.enable()
        self._pairing = Pairing(len(self._cpus), self._started_ns)
        # From here on forks are recorded, so nobody is missed.
        for process in self._context.target.processes.values():
            self._tracks.add(process)

    def add(self, process: Process) -> None:
        """Take up a process that appeared; most have been seen to start already."""
        if self._source.plan.is_per_task and not self._tracks.is_process(process.pid):
            try:
                self._source.follow(self._tids([process.pid]))
            except PerfError as error:
                self._gap(self._drained_ns, time.monotonic_ns(), error.message, None)
        self._tracks.add(process)

    def stop(self) -> ProbeRecord:
        """Record what is in the rings and what still runs, and say what was achieved."""
        self._pacer.stop()
        stopped_ns = self._source.disable()
        began_ns = time.thread_time_ns()
        if self._source.is_full:  # a loss is recorded with the next record, which never came
            self._gap(self._drained_ns, stopped_ns, LOST, None)
        for cpu in sorted(set(online_cpus()) - set(self._source.cpus)):
            self._gap(self._started_ns, stopped_ns, f"CPU {cpu} came online later", None)
        self._take(self._source.drain(), settled_ns=stopped_ns + SETTLE_NS)
        self._hand_on(self._pairing.end(stopped_ns))
        self._cpu_ns += time.thread_time_ns() - began_ns
        assert self._capability is not None, "stopped before it was started"
        record = self._capability.record(self._pacer.rate_hz)
        record.achieved_hz = self._pacer.achieved_hz
        record.largest_gap_ns = self._pacer.largest_gap_ns
        record.detail = self._detail()
        self._source.close()
        return record

    def _detail(self) -> dict[str, object]:
        plan = self._source.plan
        is_told = plan.layout.registers is not None
        return {
            "mode": plan.mode.value,
            "wake_latency": "measured" if plan.layout.waking else "inferred",
            "yields_told_apart": is_told,
            "yield_count": self._counts["yield"] if is_told else None,
            "unreadable_call_count": self._judge.unreadable_count,
            "slice_count": self._counts["slice"],
            "record_count": self._counts["record"],
            "lost_count": self._counts["lost"],
            "byte_count": self._counts["byte"],
            "ring_bytes": self._source.ring_bytes,
            "ring_count": len(self._source.rings),
            # Of the session's own time, not beside it.
            "cpu_seconds": self._cpu_ns / 1e9,
        }

    def _tids(self, pids: Iterable[int] | None = None) -> list[int]:
        """Return the threads of these processes, or of the target, that there are now."""
        found: list[int] = []
        target = self._context.target
        for pid in target.processes if pids is None else pids:
            with suppress(ProcessLookupError):
                found += target.procfs.tids(pid)
        return found

    def _tick(self, now_ns: int) -> None:
        began_ns = time.thread_time_ns()
        self._take(self._source.drain(), settled_ns=now_ns - SETTLE_NS)
        self._drained_ns = now_ns
        self._cpu_ns += time.thread_time_ns() - began_ns

    def _miss(self, error: OSError) -> None:
        reason = f"the system refused: {os.strerror(error.errno or 0)}"
        self._context.recorder.gap(self.name, self._drained_ns, time.monotonic_ns(), reason)

    def _take(self, drained: Drained, settled_ns: int) -> None:
        """Take one drain; what ended after ``settled_ns`` waits for the next."""
        try:
            records = find_records(drained)
        except ValueError:
            self._gap(self._drained_ns, time.monotonic_ns(), BROKEN, None)
            return
        self._counts["byte"] += drained.words.nbytes
        self._counts["record"] += len(records.kind)
        for fork in read_forks(drained, records):
            if self._tracks.fork(fork):
                self._judge.fork(fork.pid, fork.parent_pid)
        for naming in read_namings(drained, records):
            self._tracks.rename(naming)
            if naming.is_exec:
                self._judge.forget(naming.pid)
        switches = self._reader.read(drained, records)
        losses = read_losses(drained, records)
        self._note_losses(losses, switches)
        wakings = self._reader.read_wakings(drained, records)
        is_ours = self._tracks.is_thread(wakings.tid)
        self._wakes.add(Wakings(wakings.tid[is_ours], wakings.time_ns[is_ours]))
        stays = self._pairing.pair(switches, losses)
        if self._held is not None:
            stays = concatenate([self._held, stays])
        is_settled = stays.end_ns < settled_ns
        self._held = stays.where(~is_settled)
        self._hand_on(stays.where(is_settled))

    def _hand_on(self, stays: Stays) -> None:
        """Make rows of the stays of our threads."""
        pid = self._tracks.pids(stays.pid, stays.tid)
        is_ours = (pid > 0) & (stays.tid > 0)
        stays = replace(stays, pid=pid).where(is_ours)
        leave = self._judge.leave(stays)
        woken_ns = self._wakes.match(stays.tid, stays.start_ns, stays.end_ns, stays.is_runnable)
        self._counts["yield"] += int((leave == YIELDED).sum())
        columns = self._waiting.release(finished(stays, self._cpus, leave, woken_ns))
        if columns is not None:
            self._counts["slice"] += len(columns["time_ns"])
            self._context.recorder.append("cpu_slices", columns)

    def _note_losses(self, losses: list[Loss], switches: Switches) -> None:
        """One gap for each CPU that lost records in this drain."""
        by_ring: dict[int, list[Loss]] = {}
        for loss in losses:
            by_ring.setdefault(loss.ring, []).append(loss)
        for ring, lost in by_ring.items():
            before = int(np.searchsorted(switches.record, lost[0].record)) - 1
            is_seen = before >= 0 and switches.ring[before] == ring
            start_ns = int(switches.time_ns[before]) if is_seen else self._drained_ns
            end_ns = lost[-1].time_ns or time.monotonic_ns()
            self._gap(start_ns, end_ns, LOST, sum(loss.count for loss in lost))

    def _gap(self, start_ns: int, end_ns: int, reason: str, lost_count: int | None) -> None:
        self._counts["lost"] += lost_count or 0
        self._context.recorder.gap(self.name, start_ns, end_ns, reason, lost_count)


def _sees_all(procfs: Procfs) -> bool:
    """Whether threads of all processes have ids here: we are in the outermost PID namespace."""
    return procfs.pid_namespace() == _INITIAL_NAMESPACE


def _is_new_enough(release: str) -> bool:
    """Whether a kernel of this release (``uname -r``) is."""
    numbers = re.findall(r"\d+", release)[:2]
    return tuple(map(int, numbers)) >= _FIRST_KERNEL
