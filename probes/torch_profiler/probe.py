"""The torch profiler probe: one slice of the server's own profiler, poured into the recording.

It costs the server: every operator is recorded while it runs, and the workers stand still while
they write their traces. So it runs once, for a bounded slice at the start of the recording, and
only when asked for.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from collectors.clock import Anchor, read_anchor
from collectors.errors import CputaxError, ProbeUnavailable
from collectors.manifest import ProbeRecord
from probes.base import Capability, Context, Level
from probes.target import Process, Target
from probes.torch_profiler import clock, switch
from probes.torch_profiler.files import new_files, trace_files
from probes.torch_profiler.localise import localise
from probes.torch_profiler.plan import RESTART, Plan, make_plan
from probes.torch_profiler.slice_child import Call, SliceChild

SLICE_S: Final = 2.0
# What a slice costs the server is mostly the writing, which takes as long as there were operators:
# 15 s were seen for 140,000 of them, on a full machine. Large models take more than 10 ms a step;
# of a small one's steps these are enough. vLLM 0.32 heeds the bound, earlier versions ignore it.
ITERATIONS_PER_S: Final = 100
FINISH_LIMIT_S: Final = 60.0  # for the server to write what it recorded


class SliceFailed(CputaxError):
    """The slice gave no trace, or not a whole one."""

    slug = "torch-profiler-failed"


class TorchProfilerProbe:
    """Writes into ``slices``, on the tracks of threads and GPU streams."""

    name = "torch_profiler"

    def __init__(
        self, slice_s: float = SLICE_S, url: str | None = None, *, allows_stacks: bool = False
    ) -> None:
        """``url``: of the server, when it is not found by itself.

        ``allows_stacks``: use a profiler that records Python stacks. One was seen to take 12 GB in
        four seconds, and the server died of it.
        """
        self._slice_s = slice_s
        self._url = url
        self._allows_stacks = allows_stacks
        self._capability: Capability
        self._plan: Plan
        self._context: Context
        self._child: SliceChild
        self._before: set[Path] = set()
        self._prefix = ""
        self._anchors: list[Anchor] = []

    def check(self, target: Target) -> Capability:
        """Look at how the server was started, whether it has the routes, and at its disk."""
        try:
            self._plan = make_plan(target, self._url, allows_stacks=self._allows_stacks)
        except ProbeUnavailable as error:
            self._capability = Capability(self.name, Level.UNAVAILABLE, error.message, error.remedy)
        else:
            self._capability = Capability(self.name, Level.WORKS)
            if self._plan.settings.has_stacks:
                self._capability = Capability(
                    self.name, Level.DEGRADED,
                    "the server's profiler records Python stacks, which may take gigabytes",
                    RESTART,
                )  # fmt: skip
        return self._capability

    def start(self, context: Context) -> None:
        """Let the child start the profiler."""
        self._context = context
        self._before = trace_files(self._plan.directory)
        self._prefix = f"cputax-{time.time_ns()}"
        self._anchors = [read_anchor()]
        iterations = math.ceil(self._slice_s * ITERATIONS_PER_S)
        body = {"profile_prefix": self._prefix, "max_iterations": iterations}
        self._child = SliceChild(context.keeper, self._plan.url, self._slice_s, body, self._on_call)

    def add(self, process: Process) -> None:
        """Nothing to do: the server tells its own workers."""

    def stop(self) -> ProbeRecord:
        """End the slice if it is not over, and import what the server wrote."""
        self._child.end_early()
        is_over = self._child.wait(FINISH_LIMIT_S)
        record = self._capability.record()
        record.detail = {"slice_s": self._slice_s, "has_stacks": self._plan.settings.has_stacks}
        try:
            started, stopped = self._calls(is_over)
            record.detail |= _account(started, stopped)
            record.detail |= self._import(started, stopped)
        except CputaxError as error:
            record.level = Level.DEGRADED.value
            record.reason, record.remedy = error.message, error.remedy
            begun_ns = self._anchors[0].monotonic_ns
            self._context.recorder.gap(self.name, begun_ns, time.monotonic_ns(), error.message)
        return record

    def _on_call(self, what: str, call: Call) -> None:
        """The child has called the server."""
        if what == switch.STARTED:
            text = f"the server is profiling for {self._slice_s:g} s"
        else:
            self._anchors.append(read_anchor())
            text = f"profiled; writing took the server {(call.end_ns - call.begin_ns) / 1e9:.1f} s"
        self._context.on_status(self.name, text if call.is_ok else call.reason)

    def _calls(self, is_over: bool) -> tuple[Call, Call]:
        """Return the calls that started and stopped the profiler.

        Raises:
            SliceFailed: one of them was not made, refused, or not answered.
        """
        started, stopped = self._child.started, self._child.stopped
        if started is None:
            raise SliceFailed("the child that profiles was killed", "see dmesg, and try again")
        if started.status == HTTPStatus.CONFLICT:
            raise SliceFailed(
                "the server is being profiled by somebody else",
                f"when that is over, try again; or end it: curl -X POST {self._plan.url}"
                "/stop_profile",
            )
        if not started.is_ok:
            raise SliceFailed(
                f"the server did not start its profiler: {_said(started)}", "see the server's log"
            )
        if not is_over:
            raise SliceFailed(
                f"the server is still writing its trace after {FINISH_LIMIT_S:.0f} s",
                f"when it is done: cputax import FILE, from {self._plan.settings.directory}",
            )
        if stopped is None or not stopped.is_ok:
            said = _said(stopped) if stopped else "it could not be asked"
            raise SliceFailed(
                f"the server did not stop its profiler: {said}",
                f"make sure that it is off: curl -X POST {self._plan.url}/stop_profile",
            )
        return started, stopped

    def _import(self, started: Call, stopped: Call) -> dict[str, Any]:
        """Pour the new files into the recording; return what was found, for the record.

        Raises:
            CputaxError: there are none, or they are damaged.
        """
        # Reading JSON fast takes a library that nothing else here needs.
        from collectors.importers.kineto import read
        from collectors.importers.pour import pour

        paths = new_files(self._plan.directory, self._before, self._prefix)
        if not paths:
            raise SliceFailed(
                f"no trace appeared in {self._plan.settings.directory}", "see the server's log"
            )
        trace = read(paths)
        localise(trace, self._context.target)
        slices = trace.slices()
        fit = clock.fit(self._anchors)
        pour(trace, self._context.recorder, fit.offset_ns, self._context.tracks, self.name)
        found: dict[str, Any] = {
            "files": [{"name": path.name, "bytes": path.stat().st_size} for path in paths],
            "slice_count": len(slices),
            "clock": asdict(fit),
        }
        if len(slices):
            first_ns = int(slices.time_ns.min()) + fit.offset_ns
            last_ns = int(slices.end_ns.max()) + fit.offset_ns
            found["clock"]["bounds_ns"] = clock.bounds_ns(first_ns, last_ns, started, stopped)
            # It may have stopped by itself, at the bound of iterations.
            found["recorded_until_ns"] = min(last_ns, stopped.begin_ns)
        return found


def _account(started: Call, stopped: Call) -> dict[str, Any]:
    """Say from when to when operators were recorded, and how long the calls took."""
    return {
        "recorded_from_ns": started.end_ns,
        "recorded_until_ns": stopped.begin_ns,
        "start_call_s": (started.end_ns - started.begin_ns) / 1e9,
        "stop_call_s": (stopped.end_ns - stopped.begin_ns) / 1e9,
    }


def _said(call: Call) -> str:
    status = "" if call.status is None else f"status {call.status}, "
    return (status + call.reason).rstrip(", ")
