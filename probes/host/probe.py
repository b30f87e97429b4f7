"""The host probe: the machine's counters and the target's control groups, once a second."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from collectors.manifest import ProbeRecord
from probes.base import Capability, Context, Level
from probes.cgroups import Cgroups
from probes.host.facts import HostFacts, ProcessFacts, read_host_facts, read_process_facts
from probes.host.groups import GroupReader
from probes.host.readers import (
    read_cpu_times,
    read_frequencies,
    read_interrupts,
    read_pressures,
)
from probes.host.rows import CounterRows, Reading
from probes.pacer import Pacer
from probes.target import Process, Target

RATE_HZ: Final = 1.0
FLUSH_TICKS: Final = 2
# Older x86 kernels interrupt each CPU to read its frequency, and it changes slowly.
FREQUENCY_TICKS: Final = 5
# No file may take more than 0.2 % of a core: /proc/interrupts grows with CPUs times devices, to
# megabytes on the largest machines. What is dear is read less often.
COST_SHARE: Final = 0.002
_ABSENT: Final = {
    "cpu_times": "no /proc/stat",
    "pressure": "no /proc/pressure: the kernel has no CONFIG_PSI, or was booted with psi=0",
    "interrupts": "no /proc/interrupts",
    "frequency": "no cpufreq: a virtual machine, or no driver for it",
    "groups": "no quota over the target's processes, and no pressure of their groups to be seen",
}


@dataclass(slots=True)
class _Source:
    """One reader, when it is due again, and what it cost so far."""

    name: str
    read: Callable[[], list[Reading]]
    period_ns: int
    due_ns: int = 0
    look_count: int = 0
    reading_count: int = 0
    cpu_ns: int = 0
    longest_cpu_ns: int = 0

    def look(self) -> list[Reading]:
        """Read, and settle when to read again."""
        before_ns = time.thread_time_ns()
        readings = self.read()
        cost_ns = time.thread_time_ns() - before_ns
        self.look_count += 1
        self.reading_count += len(readings)
        self.cpu_ns += cost_ns
        self.longest_cpu_ns = max(self.longest_cpu_ns, cost_ns)
        return readings

    def settle(self, now_ns: int) -> None:
        """Let it rest for as long as its mean cost asks for."""
        rest_ns = int(self.cpu_ns / self.look_count / COST_SHARE)
        self.due_ns = now_ns + max(self.period_ns, rest_ns)

    def account(self) -> dict[str, object]:
        """Return what was read at which cost, for the probe's record."""
        found: dict[str, object] = {"look_count": self.look_count}
        if self.look_count:
            found["mean_cpu_s"] = self.cpu_ns / self.look_count / 1e9
            found["longest_cpu_s"] = self.longest_cpu_ns / 1e9
        if not self.reading_count:
            found["absent"] = _ABSENT[self.name]
        return found


class HostProbe:
    """Writes into ``counters``, on the host's track and on those of the processes."""

    name = "host"

    def __init__(self, rate_hz: float = RATE_HZ, root: Path | None = None) -> None:
        """``root`` holds ``proc`` and ``sys``; by default that in which the target's /proc lies."""
        self._rate_hz = rate_hz
        self._root = root
        self._tracks: dict[int, int] = {}
        self._process_facts: dict[int, ProcessFacts] = {}
        self._sources: list[_Source] = []
        self._ticks = 0
        self._context: Context
        self._rows: CounterRows
        self._facts: HostFacts
        self._cgroups: Cgroups
        self._pacer: Pacer

    def check(self, target: Target) -> Capability:
        """It needs no privilege; what a kernel does not show is named in its record."""
        root = self._root_of(target)
        if not read_cpu_times(root, 0):
            return Capability(
                self.name, Level.UNAVAILABLE, f"no CPU times in {root / 'proc/stat'}",
                "mount /proc in this container: docker run -v /proc:/proc:ro ...",
            )  # fmt: skip
        return Capability(self.name, Level.WORKS)

    def start(self, context: Context) -> None:
        """Read what does not change, and begin to look at the rest."""
        self._context = context
        root = self._root = self._root_of(context.target)
        self._rows = CounterRows(context.recorder)
        self._facts = read_host_facts(root)
        self._cgroups = Cgroups(root)
        host = context.recorder.host_track()
        period_ns = int(1e9 / self._rate_hz)
        groups = GroupReader(root)
        self._sources = [
            _Source("cpu_times", lambda: read_cpu_times(root, host), period_ns),
            _Source("pressure", lambda: read_pressures(root, host), period_ns),
            _Source("groups", lambda: groups.read(dict(self._tracks)), period_ns),
            _Source("interrupts", lambda: read_interrupts(root, host), period_ns),
            _Source("frequency", lambda: read_frequencies(root, host), period_ns * FREQUENCY_TICKS),
        ]
        for process in context.target.processes.values():
            self.add(process)
        self._pacer = Pacer(self.name, self._rate_hz, self._tick, self._miss)
        self._pacer.start()

    def add(self, process: Process) -> None:
        """Read where the process may be, and its groups from the next look on."""
        root = self._root_of(self._context.target)
        try:
            facts = read_process_facts(root, process.pid, self._facts.devices, self._cgroups)
        except ProcessLookupError:
            return
        self._process_facts[process.pid] = facts
        self._tracks = {**self._tracks, process.pid: self._context.tracks[process.pid]}

    def stop(self) -> ProbeRecord:
        """Look a last time, and say what was read at which cost."""
        self._pacer.stop()
        self._look(time.monotonic_ns(), is_last=True)
        self._rows.close()
        record = Capability(self.name, Level.WORKS).record(self._rate_hz)
        record.achieved_hz = self._pacer.achieved_hz
        record.largest_gap_ns = self._pacer.largest_gap_ns
        record.cpu_seconds = sum(source.cpu_ns for source in self._sources) / 1e9
        record.detail = {
            "host": asdict(self._facts),
            "processes": {str(pid): asdict(one) for pid, one in self._process_facts.items()},
            "sources": {source.name: source.account() for source in self._sources},
        }
        return record

    def _root_of(self, target: Target) -> Path:
        return self._root or target.procfs.root.parent

    def _tick(self, now_ns: int) -> None:
        self._look(now_ns)
        self._ticks += 1
        if self._ticks % FLUSH_TICKS == 0:
            self._rows.flush()

    def _look(self, now_ns: int, *, is_last: bool = False) -> None:
        for source in self._sources:
            # Half a period early is on time: ticks come a little before or after their second.
            if is_last or now_ns >= source.due_ns - source.period_ns // 2:
                readings = source.look()
                self._rows.add(time.monotonic_ns(), readings)
                source.settle(now_ns)

    def _miss(self, error: OSError) -> None:
        reason = f"the system refused: {os.strerror(error.errno or 0)}"
        now_ns = time.monotonic_ns()
        self._context.recorder.gap(self.name, self._pacer.last_ns, now_ns, reason)
