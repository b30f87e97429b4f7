"""Thread counters: what each thread ran, waited for a CPU and switched, from procfs.

/proc/PID/task/TID/schedstat is the scheduler's own account (run ns, run-queue wait ns, timeslices)
and costs about a microsecond to read through a kept descriptor. The dearer files (last CPU from
``stat``, switches from ``status``) are read once a second, for threads that ran.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from collectors.manifest import ProbeRecord
from probes.base import Capability, Context, Level
from probes.descriptors import allow_many_descriptors
from probes.governor import WakeGovernor
from probes.pacer import Pacer
from probes.procfs import Procfs
from probes.target import Process, Target

RATE_HZ: Final = 20.0
SCARCE_DIVISOR: Final = 8  # of the rate while less than one CPU is idle
# In ticks of the full rate; a slow tick counts as several, so these are multiples of the divisor.
FLUSH_TICKS: Final = 8  # 0.4 s: with the recorder's own half second a kill costs less than one
GOVERN_TICKS: Final = 20
DORMANT_TICKS: Final = 40  # a thread that did not run for two seconds: most of a server's never do
# In ticks of whatever length.
RESCAN_TICKS: Final = 8  # look for new threads, and at the dormant ones
DETAIL_TICKS: Final = 20  # stat and status cost twenty times schedstat
COLUMNS: Final = (
    "time_ns", "track", "run_ns", "wait_ns", "timeslice_count",
    "voluntary_count", "involuntary_count", "cpu",
)  # fmt: skip


@dataclass(slots=True)
class _Thread:
    process: Process
    tid: int
    track: int
    schedstat: int  # file descriptor
    last: bytes = b""
    changed_tick: int = 0


class ThreadProbe:
    """Cumulative counters of every thread of the tree, a row whenever they changed."""

    name = "threads"

    def __init__(self, rate_hz: float = RATE_HZ) -> None:
        self._pacer = Pacer(self.name, rate_hz, self._tick, self._miss)
        self._processes: list[Process] = []
        self._threads: dict[tuple[int, int], _Thread] = {}
        self._rows: list[tuple[Any, ...]] = []
        self._ticks = 0
        self._stride = 1  # ticks of the full rate from one tick to the next
        self._governor: WakeGovernor
        self._context: Context
        self._procfs: Procfs

    def check(self, target: Target) -> Capability:
        """Degraded where the kernel keeps no schedstat; it needs no privilege."""
        try:
            target.procfs.schedstat(target.root_pid, target.root_pid)
        except ProcessLookupError:
            return Capability(
                self.name, Level.UNAVAILABLE,
                "this kernel has no /proc/PID/task/TID/schedstat (CONFIG_SCHED_INFO is off)",
                "boot a distribution kernel; without it CPU time and run-queue wait are unknown",
            )  # fmt: skip
        return Capability(self.name, Level.WORKS)

    def start(self, context: Context) -> None:
        """Begin with all processes known now."""
        allow_many_descriptors()
        self._context, self._procfs = context, context.target.procfs
        self._processes = list(context.target.processes.values())
        self._governor = WakeGovernor(self._pacer.rate_hz, self._procfs, SCARCE_DIVISOR)
        self._pacer.start()

    def add(self, process: Process) -> None:
        """Take up a process at the next rescan."""
        self._processes = [*self._processes, process]

    def stop(self) -> ProbeRecord:
        """Write one last row per thread and say what rate was kept."""
        self._pacer.stop()
        self._look(time.monotonic_ns(), with_detail=True, even_unchanged=True)
        self._flush()
        for thread in self._threads.values():
            os.close(thread.schedstat)
        self._threads.clear()
        record = Capability(self.name, Level.WORKS).record(self._pacer.rate_hz)
        record.achieved_hz = self._pacer.achieved_hz
        record.largest_gap_ns = self._pacer.largest_gap_ns
        return record

    @property
    def is_slowed(self) -> bool:
        """Whether it looks less often than asked, because less than one CPU is idle."""
        return self._stride > 1

    def totals_ns(self) -> dict[int, tuple[int, int]]:
        """Return each process's (run, run-queue wait) so far, for a live view."""
        totals: dict[int, tuple[int, int]] = {}
        for thread in list(self._threads.values()):
            if thread.last:
                run_ns, wait_ns, _ = map(int, thread.last.split())
                before = totals.get(thread.process.pid, (0, 0))
                totals[thread.process.pid] = (before[0] + run_ns, before[1] + wait_ns)
        return totals

    def _tick(self, now_ns: int) -> None:
        is_rescan = self._ticks % (RESCAN_TICKS * self._stride) == 0
        if is_rescan:
            self._rescan()
        self._look(
            now_ns,
            with_detail=self._ticks % (DETAIL_TICKS * self._stride) == 0,
            with_dormant=is_rescan,
        )
        if self._ticks % GOVERN_TICKS == 0:
            self._stride = round(self._pacer.rate_hz / self._governor.look(now_ns))
            self._pacer.slow_down(self._stride)
        self._ticks += self._stride - self._ticks % self._stride
        if self._ticks % FLUSH_TICKS == 0:
            self._flush()

    def _miss(self, error: OSError) -> None:
        reason = f"the system refused: {os.strerror(error.errno or 0)}"
        now_ns = time.monotonic_ns()
        self._context.recorder.gap(self.name, self._pacer.last_ns, now_ns, reason)

    def _rescan(self) -> None:
        for process in self._processes:
            try:
                tids = self._procfs.tids(process.pid)
            except ProcessLookupError:
                continue
            for tid in tids:
                if (process.pid, tid) not in self._threads:
                    self._open(process, tid)

    def _open(self, process: Process, tid: int) -> None:
        path = self._procfs.root / str(process.pid) / "task" / str(tid) / "schedstat"
        try:
            name = self._procfs.stat(process.pid, tid).comm
            inner = self._procfs.status(process.pid, tid).inner_pids[-1]
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except (ProcessLookupError, FileNotFoundError):
            return
        track = self._context.recorder.thread_track(
            self._context.tracks[process.pid], process.pid, tid,
            name=name, role=process.role, inner_tid=None if inner == tid else inner,
        )  # fmt: skip
        self._threads[process.pid, tid] = _Thread(
            process, tid, track, descriptor, changed_tick=self._ticks
        )

    def _look(
        self, now_ns: int, *, with_detail: bool, with_dormant: bool = True,
        even_unchanged: bool = False,
    ) -> None:  # fmt: skip
        awake_tick = self._ticks - DORMANT_TICKS
        for thread in list(self._threads.values()):
            if thread.changed_tick < awake_tick and not with_dormant:
                continue
            try:
                raw = os.pread(thread.schedstat, 64, 0)
            except OSError:  # ESRCH: the thread has ended
                self._close(thread)
                continue
            if raw == thread.last and not even_unchanged:
                continue
            thread.last = raw
            thread.changed_tick = self._ticks
            run_ns, wait_ns, timeslice_count = map(int, raw.split())
            spent = (run_ns, wait_ns, timeslice_count)
            detail = self._detail(thread) if with_detail else (None, None, None)
            self._rows.append((now_ns, thread.track, *spent, *detail))

    def _detail(self, thread: _Thread) -> tuple[int | None, int | None, int | None]:
        """Return (voluntary, involuntary switches, last CPU)."""
        try:
            cpu = self._procfs.stat(thread.process.pid, thread.tid).last_cpu
            switches = self._procfs.switches(thread.process.pid, thread.tid)
        except ProcessLookupError:
            return None, None, None  # it ended between two reads; what schedstat said stands
        return *switches, cpu

    def _close(self, thread: _Thread) -> None:
        os.close(thread.schedstat)
        del self._threads[thread.process.pid, thread.tid]

    def _flush(self) -> None:
        if self._rows:
            columns: Iterable[tuple[Any, ...]] = zip(*self._rows, strict=True)
            self._context.recorder.append(
                "thread_counters", {name: list(c) for name, c in zip(COLUMNS, columns, strict=True)}
            )
            self._rows = []
