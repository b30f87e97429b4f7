"""The target: a server's whole process tree, found from any of its PIDs, and who is who in it."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from collectors.errors import (
    TargetExited,
    TargetForbidden,
    TargetNotFound,
    TargetNotPython,
    TargetReplaced,
)
from collectors.manifest import ProcessRecord
from probes import roles
from probes.procfs import Procfs

_PYTHON_PROGRAM = re.compile(r"(python|pypy)[\d.]*t?$")


@dataclass(frozen=True, slots=True)
class Process:
    """One process: its identity is PID and start time together, since PIDs are used again."""

    pid: int
    start_ticks: int
    parent_pid: int
    role: str
    kind: str  # vllm, oracle, python, other
    name: str
    cmdline: tuple[str, ...] = field(repr=False)
    rank: int | None = None

    @property
    def is_python(self) -> bool:
        """Whether there is a Python interpreter in it for the probes to look at."""
        return self.role not in {roles.OTHER, roles.RESOURCE_TRACKER}

    def record(self) -> ProcessRecord:
        """Return the manifest's entry. No command line: it may hold keys."""
        return ProcessRecord(self.pid, self.start_ticks, self.role, self.name, self.rank)


@dataclass(slots=True)
class Target:
    """A server's tree: ``processes`` by PID, the root first."""

    root_pid: int
    kind: str
    processes: dict[int, Process]
    procfs: Procfs = field(default_factory=Procfs)

    @property
    def python_processes(self) -> list[Process]:
        """The processes that the Python probes look at."""
        return [process for process in self.processes.values() if process.is_python]

    def of_role(self, role: str) -> list[Process]:
        """Return the processes with this role."""
        return [process for process in self.processes.values() if process.role == role]

    @property
    def model(self) -> str | None:
        """The served model's name, from the command line of whoever was started."""
        named = (roles.served_model(list(p.cmdline)) for p in self.processes.values())
        return next((name for name in named if name), None)

    def is_alive(self, process: Process) -> bool:
        """Whether this very process still runs: same PID, same start time, not a zombie."""
        try:
            stat = self.procfs.stat(process.pid)
        except ProcessLookupError:
            return False
        return stat.start_ticks == process.start_ticks and stat.state not in "ZX"

    def verify(self) -> None:
        """Check that the root is still the process that was found.

        Raises:
            TargetExited: it is gone.
            TargetReplaced: its PID belongs to another process now.
        """
        root = self.processes[self.root_pid]
        try:
            stat = self.procfs.stat(root.pid)
        except ProcessLookupError:
            stat = None
        if stat is None or stat.state in "ZX":
            raise TargetExited(
                f"process {root.pid} ({root.name}) has exited", "find a live one: cputax ps"
            )
        if stat.start_ticks != root.start_ticks:
            raise TargetReplaced(
                f"PID {root.pid} was {root.name} and now belongs to another process ({stat.comm})",
                "find the server's new PID: cputax ps",
            )

    def refresh(self) -> list[Process]:
        """Look for processes that appeared in the tree; return them, already in ``processes``."""
        fresh: list[int] = []
        for pid in _descendants(self.procfs, self.root_pid):
            if self._is_known(pid):
                continue
            process = _describe(self.procfs, pid)
            if process is None:
                continue
            self.processes[pid] = process
            fresh.append(pid)
        if fresh:
            self.processes = _settle_roles(self.processes)
        return [self.processes[pid] for pid in fresh]

    def _is_known(self, pid: int) -> bool:
        """Whether this life of the PID is in ``processes``, or over."""
        known = self.processes.get(pid)
        try:
            return known is not None and known.start_ticks == self.procfs.stat(pid).start_ticks
        except ProcessLookupError:
            return True


def find_target(pid: int, procfs: Procfs | None = None) -> Target:
    """Find the tree that ``pid`` belongs to.

    From a server's child it climbs to the process that was started; from anything else it looks
    downwards, so the PID of a container's init or of a wrapper script works as well.

    Raises:
        TargetNotFound: no such process.
        TargetForbidden: it is not ours to look at.
        TargetNotPython: no Python in it or below it.
    """
    procfs = procfs or Procfs()
    process = _describe(procfs, pid)
    if process is None:
        raise TargetNotFound(f"no process has PID {pid}", "list the servers here: cputax ps")
    root = _climb(procfs, process)
    processes = {root.pid: root}
    for child_pid in _descendants(procfs, root.pid):
        child = _describe(procfs, child_pid)
        if child is not None:
            processes[child.pid] = child
    processes = _settle_roles(processes)
    target = Target(root.pid, _kind(processes.values()), processes, procfs)
    if not target.python_processes:
        _check_access(procfs, root)
        raise TargetNotPython(
            f"process {pid} ({root.name}) is not Python, and nothing below it is",
            "give the PID of the server's Python process: cputax ps",
        )
    for python_process in target.python_processes:
        _check_access(procfs, python_process)
    return target


def find_servers(procfs: Procfs | None = None) -> list[Target]:
    """Return every inference server on this machine, by its root PID."""
    procfs = procfs or Procfs()
    found: dict[int, Target] = {}
    seen: set[int] = set()
    for pid in procfs.pids():
        if pid in seen:
            continue
        try:
            role, _ = roles.classify(procfs.cmdline(pid))
            if role not in roles.SERVER_ROLES:
                continue
            process = _describe(procfs, pid)
            if process is None or process.role not in roles.SERVER_ROLES:
                continue
            root = _climb(procfs, process)
            below = [_describe(procfs, child) for child in _descendants(procfs, root.pid)]
        except OSError:
            continue
        tree = {one.pid: one for one in [root, *below] if one is not None}
        seen |= tree.keys()
        tree = _settle_roles(tree)
        found[root.pid] = Target(root.pid, _kind(tree.values()), tree, procfs)
    return list(found.values())


def _describe(procfs: Procfs, pid: int) -> Process | None:
    """Read one process; None when it is gone or a zombie."""
    try:
        stat = procfs.stat(pid)
        cmdline = procfs.cmdline(pid)
    except ProcessLookupError:
        return None
    if stat.state in "ZX":
        return None
    role, kind = roles.classify(cmdline)
    is_titled = roles.is_titled(cmdline)
    # A title is vLLM's own word; a command line may also be that of a wrapper (sudo, timeout, a
    # shell), which holds the server's whole command.
    if not is_titled and not _runs_python(procfs, pid, cmdline):
        role = kind = roles.OTHER
    elif role is None:
        role = kind = roles.PYTHON
    name = cmdline[0] if is_titled else stat.comm
    return Process(pid, stat.start_ticks, stat.parent_pid, role, kind, name, tuple(cmdline))


def _runs_python(procfs: Procfs, pid: int, cmdline: list[str]) -> bool:
    """Told by the program's name, else by a mapped libpython (a program that embeds Python)."""
    try:
        program = os.readlink(procfs.root / str(pid) / "exe")
    except OSError:
        program = cmdline[0] if cmdline else ""
    if _PYTHON_PROGRAM.search(program.removesuffix(" (deleted)")):
        return True
    try:
        return b"/libpython" in (procfs.root / str(pid) / "maps").read_bytes()
    except OSError:
        return False


def _climb(procfs: Procfs, process: Process) -> Process:
    """Return the topmost process of the server that ``process`` is part of."""
    while True:
        parent = _describe(procfs, process.parent_pid)
        if parent is None or parent.role not in roles.SERVER_ROLES:
            return process
        process = parent


def _descendants(procfs: Procfs, root_pid: int) -> list[int]:
    """Return all PIDs below ``root_pid``, parents before children."""
    found: list[int] = []
    waiting = [root_pid]
    while waiting:
        pid = waiting.pop(0)
        children = procfs.children(pid)
        found += children
        waiting += children
    return found


def _settle_roles(processes: dict[int, Process]) -> dict[int, Process]:
    """Tell the launcher of several API servers from a single one, and number the workers."""
    titled = [p for p in processes.values() if p.role == roles.API_SERVER and "::" in p.name]
    workers = sorted(
        (p for p in processes.values() if p.role == roles.WORKER),
        key=lambda worker: (roles.rank_key(list(worker.cmdline)), worker.pid),
    )
    ranks = {worker.pid: rank for rank, worker in enumerate(workers)}
    settled = {}
    for process in processes.values():
        is_launcher = process.role == roles.API_SERVER and "::" not in process.name and titled
        settled[process.pid] = replace(
            process,
            role=roles.LAUNCHER if is_launcher else process.role,
            rank=ranks.get(process.pid),
        )
    return settled


def _kind(processes: Iterable[Process]) -> str:
    kinds = {process.kind for process in processes}
    return next((kind for kind in ("vllm", "oracle") if kind in kinds), roles.PYTHON)


def _check_access(procfs: Procfs, process: Process) -> None:
    """Ask the kernel what it will ask every probe: may we read this process's memory?"""
    try:
        os.close(os.open(procfs.root / str(process.pid) / "mem", os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        if error.errno in {errno.EACCES, errno.EPERM}:
            raise TargetForbidden(
                f"not allowed to read process {process.pid} ({process.name})",
                f"run as its user or as root: sudo $(command -v cputax) attach {process.pid}; "
                "in a container add the capability SYS_PTRACE (cputax doctor shows how)",
            ) from error
        if error.errno in {errno.ENOENT, errno.ESRCH}:
            raise TargetExited(
                f"process {process.pid} ({process.name}) has exited", "find a live one: cputax ps"
            ) from error
        raise
