"""Finds profilers and debuggers that were started around a server, or attached to it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import PurePath
from typing import Final

from probes.procfs import Procfs
from probes.target import Target

_PROGRAMS: Final = frozenset(
    {
        "austin", "gdb", "ltrace", "memray", "nsys", "ncu", "perf", "py-spy", "pyinstrument",
        "rocprof", "rocprofv2", "rocprofv3", "scalene", "strace", "viztracer",
    }
)  # fmt: skip
_PID: Final = frozenset({"-p", "--pid", "-P", "attach", "--attach"})
_MODULES: Final = frozenset(
    {"cProfile", "memray", "profile", "pyinstrument", "scalene", "trace", "viztracer"}
)


def find_instruments(target: Target) -> tuple[str, ...]:
    """Say which profilers the server runs under or is recorded by, and how that shows."""
    procfs, tree = target.procfs, target.processes
    found = [_around(procfs, pid) for pid in _ancestors(procfs, target.root_pid)]
    found += [_inside(process.cmdline, process.pid) for process in tree.values()]
    for pid in procfs.pids():
        if pid not in tree:
            found.append(_attached(procfs, pid, {str(one) for one in tree}))
    return tuple(dict.fromkeys(one for one in found if one))


def _around(procfs: Procfs, pid: int) -> str | None:
    program = _program(_cmdline(procfs, pid))
    return f"started by {program} ({pid})" if program else None


def _inside(cmdline: Sequence[str], pid: int) -> str | None:
    modules = {module for option, module in pairwise(cmdline) if option == "-m"} & _MODULES
    return f"python -m {min(modules)} ({pid})" if modules else None


def _attached(procfs: Procfs, pid: int, wanted: set[str]) -> str | None:
    cmdline = _cmdline(procfs, pid)
    program = _program(cmdline)
    if program is None:
        return None
    words = [word for part in cmdline for word in part.split("=", 1)]
    given = {one for option, value in pairwise(words) if option in _PID for one in value.split(",")}
    return f"{program} ({pid}) records it" if given & wanted else None


def _ancestors(procfs: Procfs, pid: int) -> list[int]:
    found: list[int] = []
    while pid > 1:
        try:
            pid = procfs.stat(pid).parent_pid
        except OSError:
            break
        if pid:
            found.append(pid)
    return found


def _cmdline(procfs: Procfs, pid: int) -> list[str]:
    try:
        return procfs.cmdline(pid)
    except OSError:
        return []


def _program(cmdline: Sequence[str]) -> str | None:
    """Return the profiler that a command line starts, directly or as a Python script."""
    names = [PurePath(part).name for part in cmdline[:2]]
    return next((name for name in names if name in _PROGRAMS), None)
