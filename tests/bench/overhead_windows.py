"""One window of load on a server, with or without a tool attached to it, and what was seen."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import dataclasses
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil
from load_window import DRAIN_S, WARM_UP_S, LoadWindow, Situation

from probes.pyspy import RATE_HZ, find_pyspy

ROOT: Final = Path(__file__).parents[2]
STOP_LIMIT_S: Final = 30.0
PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
OFF, OFF_AGAIN, CPUTAX, PYSPY = "no tool", "no tool again", "cputax attach", "py-spy record"
VARIANTS: Final = (OFF, OFF_AGAIN, CPUTAX, PYSPY)


@dataclass
class Window:
    """What was measured in one window, from the client's side and from procfs."""

    situation: str
    variant: str
    round: int
    seconds: float
    latencies_s: list[float]
    finished_count: int
    error_count: int
    idle_ratio: float  # of all cores together
    server_cores: float
    tool_cores: float  # py-spy's own processes left out
    pyspy_cores: float
    other_cores: float  # what neither the server, the tool nor this process used: a disturbance
    report: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CpuSeconds:
    """CPU time used so far: by the host's idle task, everyone, the server, the tool, and us."""

    idle: float
    every: float
    server: float
    tool: float
    pyspy: float
    own: float
    clock: float


class Meter:
    """Reads, at both ends of a window, who used how much CPU time."""

    def __init__(self, server: list[psutil.Process], tools: list[psutil.Process]) -> None:
        self._server = server
        self._tools = tools

    def begin(self) -> None:
        """Read at the beginning."""
        self._first = self._read()

    def end(self) -> None:
        """Read at the end, and work out the shares."""
        last, first = dataclasses.astuple(self._read()), dataclasses.astuple(self._first)
        used = CpuSeconds(*(after - before for after, before in zip(last, first, strict=True)))
        self.idle_ratio = used.idle / used.every
        self.server_cores = used.server / used.clock
        self.tool_cores = used.tool / used.clock
        self.pyspy_cores = used.pyspy / used.clock
        ours = used.server + used.tool + used.pyspy + used.own
        self.other_cores = max(0.0, used.every - used.idle - ours) / used.clock

    def _read(self) -> CpuSeconds:
        host = psutil.cpu_times()
        tool_s = pyspy_s = 0.0
        for root in self._tools:
            for process in [root, *root.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    is_pyspy = process.name() == "py-spy"
                    tool_s += 0.0 if is_pyspy else times.user + times.system
                    pyspy_s += times.user + times.system if is_pyspy else 0.0
                    # Recorders that were rotated away were the keeper's children.
                    pyspy_s += times.children_user + times.children_system
        server = [process.cpu_times() for process in self._server]
        return CpuSeconds(
            host.idle + host.iowait, sum(host[:8]), sum(one.user + one.system for one in server),
            tool_s, pyspy_s, time.process_time(), time.monotonic(),
        )  # fmt: skip


@contextlib.contextmanager
def attached(variant: str, pids: list[int], seconds: float, place: Path) -> Iterator[list[int]]:
    """Attach the variant's tool to the server whose PIDs are given, root first; yield its PIDs.

    Every recorder has a bounded duration, does not block its target, and dies with this process.
    """
    bound_s = round(WARM_UP_S + seconds + DRAIN_S)
    if variant == CPUTAX:
        arguments = ["attach", pids[0], "-d", f"{bound_s}s", "-o", place]
        commands = [[sys.executable, "-m", "profiler", *map(str, arguments)]]
    elif variant == PYSPY:
        shape = ["-f", "raw", "-r", str(RATE_HZ), "-d", str(bound_s), "--nonblocking"]
        output = [place.with_suffix(f".{pid}.txt") for pid in pids]
        commands = [
            [str(find_pyspy()), "record", *shape, "-p", str(pid), "-o", str(path)]
            for pid, path in zip(pids, output, strict=True)
        ]
    else:
        commands = []
    with _terminal() as output:
        children = [_spawn(command, output) for command in commands]
        try:
            if variant == CPUTAX:
                _await_file(place / "manifest.json")
            yield [child.pid for child in children]
        finally:
            for child in children:
                child.send_signal(signal.SIGINT)
            for child in children:
                _await_end(child)


def _spawn(command: list[str], output: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        preexec_fn=lambda: ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT),
    )


@contextlib.contextmanager
def _terminal() -> Iterator[int]:
    """Give a terminal that nobody looks at: a tool's live view is a part of what it costs."""
    ours, theirs = pty.openpty()

    def read_on() -> None:
        with contextlib.suppress(OSError):  # EIO: the other end was closed
            while os.read(ours, 1 << 16):
                pass

    reader = threading.Thread(target=read_on, daemon=True)
    reader.start()
    try:
        yield theirs
    finally:
        os.close(theirs)
        reader.join()
        os.close(ours)


def _await_file(path: Path) -> None:
    deadline_s = time.monotonic() + STOP_LIMIT_S
    while not path.exists():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"no {path} within {STOP_LIMIT_S:.0f} s")
        time.sleep(0.05)


def _await_end(child: subprocess.Popen[bytes]) -> None:
    try:
        child.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def measure(
    url: str, pids: list[int], situation: Situation, variant: str, index: int, seconds: float,
    place: Path,
) -> Window:  # fmt: skip
    """Measure one window of round ``index``; ``place`` takes the tool's output."""
    load = LoadWindow(url, situation, index, seconds)
    with attached(variant, pids, seconds, place) as tools:
        server = [psutil.Process(pid) for pid in pids]
        meter = Meter(server, [psutil.Process(pid) for pid in tools])
        asyncio.run(load.run(meter))
    return Window(
        situation.name, variant, index, seconds, load.latencies_s, load.finished_count,
        load.error_count, meter.idle_ratio, meter.server_cores, meter.tool_cores,
        meter.pyspy_cores, meter.other_cores,
        report_of(place) if variant == CPUTAX else {},
    )  # fmt: skip


def report_of(capture: Path) -> dict[str, Any]:
    """Return what the capture and its analysis say of the recording's own quality."""
    manifest = json.loads((capture / "manifest.json").read_text())
    finished = subprocess.run(
        [sys.executable, "-m", "profiler", "analyze", str(capture), "--json"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    analysis = json.loads(finished.stdout)
    return {
        "probes": manifest["probes"],
        "overhead": manifest["overhead"],
        "coverage": analysis["coverage"],
        "gap_count": len(analysis["gaps"]) if isinstance(analysis["gaps"], list) else None,
    }
