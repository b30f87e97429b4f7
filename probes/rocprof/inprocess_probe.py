"""The probe for servers that we start: each process traces itself, and is read while it runs."""

from __future__ import annotations

import contextlib
import errno
import time
from pathlib import Path
from typing import Final

from collectors.clock import Anchor, read_anchor
from collectors.importers.pour import pour
from collectors.manifest import ProbeRecord
from probes.base import Capability, Context, Level
from probes.pacer import Pacer
from probes.rocprof._library import Version
from probes.rocprof.clock import boottime_offset
from probes.rocprof.traced import TracedProcess
from probes.target import Process, Target

NAME: Final = "rocprof"
READ_HZ: Final = 2.0
STOP_TIMEOUT_S: Final = 10.0
STOP_POLL_S: Final = 0.02


class InProcessProbe:
    """Reads the spool files of a server that was started with `spool.hook_environment`."""

    name = NAME

    def __init__(self, directory: Path) -> None:
        """``directory``: where the server's processes write, of `spool.spool_directory`."""
        self._directory = directory
        self._traced: dict[int, TracedProcess] = {}
        self._pacer = Pacer(self.name, READ_HZ, self._tick, self._miss)
        self._anchor: Anchor
        self._context: Context
        self._started_ns = 0

    def check(self, target: Target) -> Capability:
        """Look whether any process of the server traces itself, and why not."""
        for process in target.processes.values():
            self._take_up(target, process)
        found = list(self._traced.values())
        for traced in found:
            traced.read()
        problems = [problem for one in found if (problem := one.problem) is not None]
        if not found:
            return Capability(
                self.name, Level.UNAVAILABLE,
                "no process of the server loaded rocprofiler-sdk: none imported torch, or it found "
                "no ROCm library",
                "install rocprofiler-sdk (ROCm 6.3 or later) or set ROCM_PATH, then start again",
            )  # fmt: skip
        if problems:
            level = Level.UNAVAILABLE if len(problems) == len(found) else Level.DEGRADED
            reason = "; ".join(problem.message for problem in problems)
            return Capability(self.name, level, reason, problems[0].remedy)
        versions = [one.timeline.account.version for one in found]
        beyond = {str(Version(*v)) for v in versions if v and Version(*v).is_beyond_known}
        if beyond:
            return Capability(
                self.name, Level.DEGRADED,
                f"rocprofiler-sdk {', '.join(sorted(beyond))} is newer than those whose records "
                "were compared with ours",
                "compare the kernel count and times with rocprofv3's, once",
            )  # fmt: skip
        return Capability(self.name, Level.WORKS)

    def start(self, context: Context) -> None:
        """Ask every process for its records, and read them as they come."""
        self._context = context
        self._anchor = read_anchor()
        self._started_ns = time.monotonic_ns()
        self._pacer.start()

    def add(self, process: Process) -> None:
        """Nothing to do: `_tick` looks for the spools of all processes."""

    def stop(self) -> ProbeRecord:
        """Ask for no more, wait for what is on its way, and account for it."""
        self._pacer.stop()
        for traced in self._traced.values():
            traced.unwant()
        deadline_s = time.monotonic() + STOP_TIMEOUT_S
        while self._unstopped() and time.monotonic() < deadline_s:
            self._pour()
            time.sleep(STOP_POLL_S)
        self._pour()
        record = self._record(read_anchor())
        for traced in self._traced.values():
            traced.close()
        return record

    def _take_up(self, target: Target, process: Process) -> None:
        """Open a process's spool, if it has one by now."""
        if process.pid in self._traced:
            return
        # Gone, or it has not imported torch (yet).
        with contextlib.suppress(OSError):
            inner_pid = target.procfs.status(process.pid).inner_pids[-1]
            self._traced[process.pid] = TracedProcess(
                self._directory, inner_pid, process.pid, target.procfs
            )

    def _tick(self, _now_ns: int) -> None:
        target = self._context.target
        for process in list(target.processes.values()):
            self._take_up(target, process)
        for traced in self._traced.values():
            traced.want()
        self._pour()
        count = sum(one.timeline.dispatches.count for one in self._traced.values())
        self._context.on_status(self.name, f"{count:,} kernels")

    def _miss(self, error: OSError) -> None:
        reason = f"records not read: {errno.errorcode.get(error.errno or 0, 'unknown')}"
        self._gap(self._pacer.last_ns, time.monotonic_ns(), reason)

    def _pour(self) -> None:
        offset_ns = self._anchor.monotonic_ns - self._anchor.boottime_ns
        for traced in self._traced.values():
            trace = traced.read()
            if trace.slice_count or trace.skipped:
                pour(trace, self._context.recorder, offset_ns, self._context.tracks, self.name)

    def _unstopped(self) -> list[TracedProcess]:
        """Return the processes whose last records are still to come."""
        target = self._context.target
        return [
            one
            for one in self._traced.values()
            if one.is_awaited and target.is_alive(target.processes[one.pid])
        ]

    def _record(self, last: Anchor) -> ProbeRecord:
        """Note what was lost, and say what was achieved."""
        clock = boottime_offset(self._anchor, last)
        kernel_count = 0
        for one in self._traced.values():
            kernel_count += one.timeline.dispatches.count
            for reason, count in one.losses():
                self._gap(self._started_ns, time.monotonic_ns(), reason, count, one.pid)
        traced = self._traced.values()
        reasons = [problem.message for one in traced if (problem := one.problem) is not None]
        if clock.has_slept:
            reasons.append("the machine slept while recording: earlier GPU times are off by that")
        if kernel_count == 0:
            reasons.append("no kernel ran on a GPU of this server while recording")
        level = Level.DEGRADED if reasons else Level.WORKS
        remedy = "send requests while recording; see docs/rocprof.md" if reasons else None
        record = Capability(self.name, level, "; ".join(reasons) or None, remedy).record()
        record.detail = {
            "mode": "in-process",
            "clock_error_ns": clock.error_ns,
            "processes": {str(pid): one.detail() for pid, one in self._traced.items()},
        }
        return record

    def _gap(
        self, start_ns: int, end_ns: int, reason: str, lost_count: int | None = None,
        pid: int | None = None,
    ) -> None:  # fmt: skip
        track = None if pid is None else self._context.tracks.get(pid)
        self._context.recorder.gap(self.name, start_ns, end_ns, reason, lost_count, track)
