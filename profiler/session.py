"""A recording session: start the probes, follow the target, stop in reverse, finish the capture."""

from __future__ import annotations

import os
import platform
import resource
import threading
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path

import psutil
import pyarrow as pa

from collectors.capture import finalise
from collectors.clock import read_anchor
from collectors.errors import CputaxError, OutputFull, ProbeUnavailable, TargetExited
from collectors.manifest import Manifest, ProbeRecord, TargetRecord
from collectors.recorder import Recorder
from probes.base import Capability, Context, Level, Probe
from probes.keeper import Keeper, KeeperGone
from probes.server_metrics import ServerMetricsProbe, server_version
from probes.target import Process, Target
from probes.threads import ThreadProbe
from profiler import __version__

FOLLOW_S = 2.0  # a new process of a server takes longer to start
POLL_S = 1.0


class StopReason(StrEnum):
    """Why a recording ended."""

    DURATION = "duration"
    USER = "user"
    TARGET_EXITED = "target-exited"
    OUTPUT = "output"


class Session:
    """Records one target into one directory.

    Each probe may fail without taking the others down: a failure is its record in the manifest and
    a gap. Use: `start`, `run`, `finish`.
    """

    def __init__(self, target: Target, directory: Path, probes: Sequence[Probe]) -> None:
        self.target = target
        self.directory = directory
        self.probes = list(probes)
        self.capabilities = {probe.name: probe.check(target) for probe in probes}
        self.stop_requested = threading.Event()
        self.started_ns = 0
        self.status: dict[str, str] = {}  # by probe: what it last had to say while recording
        self._running: list[Probe] = []
        self._records: dict[str, ProbeRecord] = {}
        self._recorder: Recorder
        self._keeper: Keeper
        self._context: Context

    def start(self) -> None:
        """Make the capture and start every probe that can work here.

        Raises:
            CputaxError: the capture cannot be made, the target is gone, or no probe works.
        """
        usable = [p for p in self.probes if self._capability(p).level.is_usable]
        if not usable:
            reasons = "; ".join(f"{c.probe}: {c.reason}" for c in self.capabilities.values())
            raise ProbeUnavailable(
                f"no probe works on PID {self.target.root_pid} ({reasons})",
                f"see what is missing: cputax doctor {self.target.root_pid}",
            )
        self.target.verify()
        self.started_ns = time.monotonic_ns()
        url = next((p.url for p in self.probes if isinstance(p, ServerMetricsProbe)), None)
        manifest = Manifest(
            target=TargetRecord(
                self.target.root_pid, self.target.kind,
                version=server_version(url) if url else None, model=self.target.model, url=url,
                processes=[process.record() for process in self.target.processes.values()],
            ),
            started_ns=self.started_ns,
            cputax_version=__version__,
            host=host_facts(),
            probes=[self._capability(probe).record() for probe in self.probes],
            anchors=[read_anchor()],
        )  # fmt: skip
        self._recorder = Recorder(self.directory, manifest)
        self._keeper = Keeper()
        self._context = Context(self.target, self._recorder, self._keeper)
        self._context.on_status = self.status.__setitem__
        for process in self.target.processes.values():
            self._register(process)
        for probe in self.probes:
            if probe not in usable:
                self._records[probe.name] = self._capability(probe).record()
                continue
            try:
                probe.start(self._context)
                self._running.append(probe)
            except (CputaxError, OSError) as error:
                self._fail(probe, error)
        # The window begins when everything looks, so that no probe is blamed for its start.
        self.started_ns = manifest.started_ns = time.monotonic_ns()
        self._cpu_before = _own_cpu_seconds()
        self._host_before = self.target.procfs.idle_ns()

    def run(self, duration_s: float | None, on_tick: Callable[[], None]) -> StopReason:
        """Record until the time is over, the user stops, the target exits or the disk refuses.

        ``duration_s`` None means no end; ``on_tick`` is called once a second, for a live view.
        """
        deadline_ns = None if duration_s is None else self.started_ns + int(duration_s * 1e9)
        next_follow_ns = self.started_ns
        while True:
            now_ns = time.monotonic_ns()
            if self.stop_requested.is_set():
                return StopReason.USER
            if deadline_ns is not None and now_ns >= deadline_ns:
                return StopReason.DURATION if self._root_lives() else StopReason.TARGET_EXITED
            if self._recorder.failure is not None:
                return StopReason.OUTPUT
            if not self._root_lives():
                return StopReason.TARGET_EXITED
            if now_ns >= next_follow_ns:
                next_follow_ns = now_ns + int(FOLLOW_S * 1e9)
                self._follow()
            on_tick()
            left_s = POLL_S if deadline_ns is None else min(POLL_S, (deadline_ns - now_ns) / 1e9)
            self.stop_requested.wait(max(0.0, left_s))

    @property
    def is_host_busy(self) -> bool:
        """Whether the probes go slow because the host is short of CPU (`probes.governor`)."""
        return any(isinstance(one, ThreadProbe) and one.is_slowed for one in self._running)

    def add_requests(self, rows: pa.Table) -> None:
        """Put requests that somebody else saw, such as a load client, into the capture."""
        columns = {name: rows[name].combine_chunks() for name in rows.column_names}
        self._recorder.append("requests", columns)

    def finish(self, reason: StopReason) -> CputaxError | None:
        """Stop the probes in reverse and finish the capture.

        Returns what the user must be told when the capture is not a whole one.
        """
        idle_ns, all_ns = self.target.procfs.idle_ns()
        stopped_ns = time.monotonic_ns()
        is_keeper_gone = self._keeper.is_gone
        for probe in reversed(self._running):
            try:
                self._records[probe.name] = probe.stop()
            except (CputaxError, OSError) as error:
                self._fail(probe, error)
        self._keeper.close()
        manifest = self._recorder.manifest
        manifest.stopped_ns = stopped_ns
        manifest.stop_reason = reason.value
        manifest.probes = [self._records[probe.name] for probe in self.probes]
        manifest.anchors.append(read_anchor())
        manifest.target.processes = [one.record() for one in self.target.processes.values()]
        window_s = (stopped_ns - self.started_ns) / 1e9
        recorders_s = sum(record.cpu_seconds or 0.0 for record in manifest.probes)
        manifest.overhead = {
            "window_seconds": window_s,
            "recorder_cpu_seconds": _own_cpu_seconds() - self._cpu_before,
            "probe_children_cpu_seconds": recorders_s,
            "host_idle_ratio": (idle_ns - self._host_before[0])
            / max(1, all_ns - self._host_before[1]),
        }
        self._recorder.close()
        problem = self._recorder.failure or self._problem(reason, window_s)
        if problem is None and is_keeper_gone:
            problem = KeeperGone()
        manifest.state = "complete" if problem is None else "partial"
        try:
            finalise(self.directory, manifest)
        except OutputFull as error:
            problem = problem or error
        return problem

    def _problem(self, reason: StopReason, window_s: float) -> CputaxError | None:
        if reason == StopReason.TARGET_EXITED:
            return TargetExited(
                f"process {self.target.root_pid} exited after {window_s:.1f} s of recording",
                f"what was recorded until then is kept: cputax analyze {self.directory}",
            )
        return None

    def _root_lives(self) -> bool:
        return self.target.is_alive(self.target.processes[self.target.root_pid])

    def _capability(self, probe: Probe) -> Capability:
        return self.capabilities[probe.name]

    def _fail(self, probe: Probe, error: CputaxError | OSError) -> None:
        """A probe broke: say so in its record and leave the others alone."""
        message = error.message if isinstance(error, CputaxError) else os.strerror(error.errno or 0)
        remedy = error.remedy if isinstance(error, CputaxError) else "see cputax doctor"
        capability = Capability(probe.name, Level.UNAVAILABLE, message, remedy)
        self._records[probe.name] = capability.record()
        self._recorder.gap(probe.name, self.started_ns, time.monotonic_ns(), message)

    def _register(self, process: Process) -> None:
        parent = self._context.tracks.get(process.parent_pid)
        self._context.tracks[process.pid] = self._recorder.process_track(
            process.pid, process.start_ticks,
            name=process.name, role=process.role, rank=process.rank, parent=parent,
        )  # fmt: skip

    def _follow(self) -> None:
        for process in self.target.refresh():
            self._register(process)
            for probe in self._running:
                probe.add(process)


def host_facts() -> dict[str, str | int | float]:
    """Return what of this machine matters to the reading of a capture."""
    return {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count() or 0,
        "allowed_cpu_count": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
        "cputax_python": platform.python_version(),
    }


def _own_cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
