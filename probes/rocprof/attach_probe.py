"""The probe for servers that run already: AMD's library attaches, AMD's tool writes, we read.

Nothing comes before the end: the tool writes its files when it is detached.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from collectors.clock import Anchor, read_anchor
from collectors.errors import CputaxError
from collectors.importers.pour import pour
from collectors.importers.trace import Trace
from collectors.manifest import ProbeRecord
from collectors.slices import KERNEL
from probes.base import Capability, Context, Level
from probes.pacer import Pacer
from probes.rocprof import _search
from probes.rocprof.attach import AttachLibrary, Attachment, find_attach_library
from probes.rocprof.attach_checks import Obstacle, find_obstacle, uses_rocm
from probes.rocprof.attach_output import FILE_TIMEOUT_S, Output
from probes.rocprof.clock import boottime_offset
from probes.rocprof.errors import RocprofNoData
from probes.target import Process, Target

NAME: Final = "rocprof"
BEAT_HZ: Final = 1.0  # see `attacher.SILENCE_S`


class AttachProbe:
    """Attaches to every process of the target that uses a GPU through ROCm and can be attached."""

    name = NAME

    def __init__(
        self, *, is_hip_traced: bool = False, environ: Mapping[str, str] | None = None,
        cache: Path | None = _search.LD_CACHE, file_timeout_s: float = FILE_TIMEOUT_S,
    ) -> None:  # fmt: skip
        """Prepare a probe.

        Args:
            is_hip_traced: record every call of HIP's runtime, too: dear.
            environ: where ``ROCM_PATH`` may be; this process's unless given.
            cache: of the dynamic linker.
            file_timeout_s: how long AMD's tool may write after a detach.
        """
        self._is_hip_traced = is_hip_traced
        self._environ = os.environ if environ is None else environ
        self._cache = cache
        self._file_timeout_s = file_timeout_s
        self._pacer = Pacer(self.name, BEAT_HZ, self._beat, lambda _error: None)
        self._library: AttachLibrary | None = None
        self._attached: list[tuple[Attachment, Output]] = []
        self._problems: list[CputaxError] = []
        self._context: Context
        self._anchor: Anchor
        self._started_ns = 0

    def check(self, target: Target) -> Capability:
        """Look for AMD's library, for processes that use ROCm, and for what is in the way."""
        processes = list(target.processes.values())
        pids = [process.pid for process in processes]
        self._library = find_attach_library(target.procfs, pids, self._environ, self._cache)
        users = self._users(target)
        if self._library is None and not users:
            return self._unavailable(
                "no ROCm library found (looked in ROCM_PATH, ROCm's and torch's wheels, /opt/rocm* "
                "and the linker's cache), and no process of the target uses ROCm",
                "on a machine with AMD GPUs: install rocprofiler-sdk (ROCm 7.13 or later), or set "
                "ROCM_PATH",
            )
        if self._library is None:
            return self._unavailable(
                "no library that attaches to a process: librocprofiler-sdk-rocattach (ROCm 7.13 "
                "and later) or librocprofv3-attach (7.1, 7.2)",
                "update ROCm, or start the server through cputax: cputax attach -- COMMAND",
            )
        if not users:
            return self._unavailable(
                "no process of the target uses ROCm (libhsa-runtime64 is not loaded)",
                "give the PID of the server that uses the GPU: cputax ps",
            )
        found = {process.pid: self._obstacle(target, process) for process in users}
        obstacles = [one for one in found.values() if one is not None]
        if obstacles:
            level = Level.UNAVAILABLE if len(obstacles) == len(found) else Level.DEGRADED
            reasons = "; ".join(dict.fromkeys(one.reason for one in obstacles))
            return Capability(self.name, level, reasons, obstacles[0].remedy)
        return Capability(self.name, Level.WORKS)

    def start(self, context: Context) -> None:
        """Attach to every process that can be attached to.

        Raises:
            RocprofAttachFailed: not one attach went well.
        """
        self._context = context
        self._anchor = read_anchor()
        self._started_ns = time.monotonic_ns()
        assert self._library is not None
        ready = [
            one for one in self._users(context.target) if not self._obstacle(context.target, one)
        ]
        everyone = [] if self._library.is_old else list(context.target.processes.values())
        for group in plan(ready, everyone):
            with self._noting_problems():
                self._attach(self._library, group)
        if not self._attached:
            raise self._problems[0]
        self._pacer.start()
        count = sum(len(attachment.pids) for attachment, _ in self._attached)
        context.on_status(self.name, f"attached to {count} processes")

    def add(self, process: Process) -> None:
        """Nothing to do: a process that appears is not attached to, which `stop` says."""

    def stop(self) -> ProbeRecord:
        """Detach, which may take minutes, and read what AMD's tool wrote.

        Raises:
            RocprofAttachFailed, RocprofNoData: nothing came of any attach.
        """
        self._pacer.stop()
        for attachment, _ in self._attached:
            attachment.begin_detach()
        kernel_count = 0
        for attachment, output in self._attached:
            self._context.on_status(self.name, f"detaching from process {attachment.pids[0]}")
            # A server that has ended cannot be detached from, but its tool may have written.
            with self._noting_problems():
                attachment.wait_detached()
            with self._noting_problems():
                kernel_count += self._pour(attachment.pids[0], output.read())
            output.close()
        if kernel_count == 0:
            raise self._problems[0]
        return self._record(kernel_count)

    @contextlib.contextmanager
    def _noting_problems(self) -> Iterator[None]:
        try:
            yield
        except CputaxError as error:
            self._problems.append(error)

    def _record(self, kernel_count: int) -> ProbeRecord:
        """Note what failed, and say what was achieved."""
        clock = boottime_offset(self._anchor, read_anchor())
        for problem in self._problems:
            self._context.recorder.gap(
                self.name, self._started_ns, time.monotonic_ns(), problem.message
            )
        reasons = [problem.message for problem in self._problems]
        if clock.has_slept:
            reasons.append("the machine slept while recording: earlier GPU times are off by that")
        level = Level.DEGRADED if reasons else Level.WORKS
        remedy = self._problems[0].remedy if self._problems else None
        record = Capability(self.name, level, "; ".join(reasons) or None, remedy).record()
        record.detail = {
            "mode": "attached",
            "library": str(self._library.path) if self._library else None,
            "clock_error_ns": clock.error_ns,
            "kernel_count": kernel_count,
            "processes": sorted(pid for one, _ in self._attached for pid in one.pids),
        }
        return record

    def _users(self, target: Target) -> list[Process]:
        return [one for one in target.processes.values() if uses_rocm(target.procfs, one.pid)]

    def _obstacle(self, target: Target, process: Process) -> Obstacle | None:
        assert self._library is not None
        return find_obstacle(
            target.procfs, process.pid, self._library.path, is_old=self._library.is_old
        )

    def _attach(self, library: AttachLibrary, group: Sequence[Process]) -> None:
        output = Output(self._context.target.procfs, group[0], self._file_timeout_s)
        settings = tool_settings(output.inner_path, is_hip_traced=self._is_hip_traced)
        output.prepare(settings)
        attachment = Attachment(library, [process.pid for process in group], settings)
        attachment.wait_attached()
        self._attached.append((attachment, output))

    def _beat(self, _now_ns: int) -> None:
        for attachment, _ in self._attached:
            attachment.beat()

    def _pour(self, pid: int, trace: Trace) -> int:
        """Hand a trace to the recorder; return how many kernels it held.

        Raises:
            RocprofNoData: none.
        """
        kernels = [number for number, (kind, _) in enumerate(trace.name_rows) if kind == KERNEL]
        count = int(np.isin(trace.slices().name, kernels).sum())
        if count == 0:
            raise RocprofNoData(
                f"process {pid}: AMD's tool wrote its file, but no kernel is in it",
                "send requests while recording, or record longer",
            )
        offset_ns = self._anchor.monotonic_ns - self._anchor.boottime_ns
        pour(trace, self._context.recorder, offset_ns, self._context.tracks, self.name)
        return count

    def _unavailable(self, reason: str, remedy: str) -> Capability:
        return Capability(self.name, Level.UNAVAILABLE, reason, remedy)


def tool_settings(output_path: str, *, is_hip_traced: bool) -> dict[str, str]:
    """Return the variables that tell AMD's tool what to trace and where to write it."""
    settings = {
        "ROCPROF_KERNEL_TRACE": "1",
        "ROCPROF_MEMORY_COPY_TRACE": "1",
        "ROCPROF_OUTPUT_FORMAT": "rocpd",
        "ROCPROF_OUTPUT_PATH": f"{output_path}/%pid%",
        "ROCPROF_OUTPUT_FILE_NAME": "trace",
    }
    if is_hip_traced:
        settings["ROCPROF_HIP_RUNTIME_API_TRACE"] = "1"
    return settings


def plan(ready: Sequence[Process], processes: Sequence[Process]) -> list[list[Process]]:
    """Return the groups of processes to attach to: whole trees, root first, and single ones.

    Early versions give up a whole tree when one process of it cannot be attached to, so a tree is
    attached to as such only when every process in it is ready.

    Args:
        ready: those that can be attached to.
        processes: all of the target; none where the library knows no trees.
    """
    by_pid = {process.pid: process for process in ready}
    covered: set[int] = set()
    groups = []
    for process in ready:
        if process.pid in covered:
            continue
        below = _below(process.pid, processes)
        if not all(pid in by_pid for pid in below):
            below = []
        covered.update(below)
        groups.append([process, *(by_pid[pid] for pid in below)])
    return groups


def _below(pid: int, processes: Sequence[Process]) -> list[int]:
    """Return the PIDs of all descendants of ``pid``, parents before children."""
    children = [process.pid for process in processes if process.parent_pid == pid]
    return children + [below for child in children for below in _below(child, processes)]
