"""Record a workload with real probes, from before its beginning until after its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from collectors.capture import Capture, open_capture
from probes import roles
from probes.base import Probe
from probes.procfs import Procfs
from probes.target import Process, Target
from profiler.session import Session, StopReason

T = TypeVar("T")


def target_of(pid: int) -> Target:
    """Return one process as a target; the command line takes only Python programs."""
    stat = Procfs().stat(pid)
    role = roles.OTHER
    process = Process(pid, stat.start_ticks, stat.parent_pid, role, role, stat.comm, ())
    return Target(pid, role, {pid: process})


def recorded(
    target: Target, probes: Sequence[Probe], directory: Path, live: Callable[[], T]
) -> tuple[Capture, T]:
    """Record while ``live`` runs to its end; return the capture and what it returned."""
    session = Session(target, directory, probes)
    session.start()
    try:
        result = live()
    finally:
        problem = session.finish(StopReason.USER)
    assert problem is None, problem
    return open_capture(directory), result
