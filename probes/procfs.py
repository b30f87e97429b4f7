"""The only door to /proc and /sys; the root can be moved for tests and containers.

All readers raise `ProcessLookupError` for a process or thread that is gone and `PermissionError`
when the kernel refuses, so that callers tell the two apart by type. Layouts: proc(5).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# The kernel fills a whole read of these files; a command line may be long.
_FILE_BYTES: Final = 1 << 20
NS_PER_TICK: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Stat:
    """The fields of /proc/PID/stat that we use; ticks since boot for ``start_ticks``."""

    comm: str
    state: str
    parent_pid: int
    start_ticks: int
    last_cpu: int


@dataclass(frozen=True, slots=True)
class Status:
    """The fields of /proc/PID/status that we use."""

    inner_pids: tuple[int, ...]  # NSpid: outermost namespace first


class Procfs:
    """Reads below ``root`` (``/proc``)."""

    def __init__(self, root: Path = Path("/proc")) -> None:
        self.root = root

    def _read(self, *parts: object) -> bytes:
        # Plain strings and one read: pathlib and buffered files cost three times as much, and the
        # probes come here hundreds of times a second.
        path = "/".join(map(str, (self.root, *parts)))
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise ProcessLookupError(error.errno, f"gone: {path}") from error
        try:
            return os.read(descriptor, _FILE_BYTES)
        finally:
            os.close(descriptor)

    def stat(self, pid: int, tid: int | None = None) -> Stat:
        """Read /proc/PID/stat, or that of one thread."""
        raw = self._read(pid, "stat") if tid is None else self._read(pid, "task", tid, "stat")
        # comm stands in parentheses and may itself hold any character, parentheses too.
        head, _, tail = raw.rpartition(b")")
        fields = tail.split()
        return Stat(
            comm=head.partition(b"(")[2].decode("utf-8", "replace"),
            state=fields[0].decode(),
            parent_pid=int(fields[1]),
            start_ticks=int(fields[19]),
            last_cpu=int(fields[36]),
        )

    def status(self, pid: int, tid: int | None = None) -> Status:
        """Read /proc/PID/status, or that of one thread."""
        raw = self._read(pid, "status") if tid is None else self._read(pid, "task", tid, "status")
        rows = dict(line.split(b":", 1) for line in raw.splitlines() if b":" in line)
        inner = rows.get(b"NSpid", str(tid or pid).encode())
        return Status(inner_pids=tuple(map(int, inner.split())))

    def switches(self, pid: int, tid: int) -> tuple[int, int]:
        """Return a thread's (voluntary, involuntary) context switches since it began.

        They are the last two lines of its ``status``; the rest is not parsed.
        """
        _, voluntary, _, involuntary = self._read(pid, "task", tid, "status").split()[-4:]
        return int(voluntary), int(involuntary)

    def schedstat(self, pid: int, tid: int) -> tuple[int, int, int]:
        """Return a thread's (run ns, run-queue wait ns, timeslices) since it began."""
        run_ns, wait_ns, count = self._read(pid, "task", tid, "schedstat").split()
        return int(run_ns), int(wait_ns), int(count)

    def tids(self, pid: int) -> list[int]:
        """Return the thread ids of a process, ascending."""
        try:
            return sorted(int(name) for name in os.listdir(self.root / str(pid) / "task"))
        except FileNotFoundError as error:
            raise ProcessLookupError(error.errno, f"gone: {pid}") from error

    def cmdline(self, pid: int) -> list[str]:
        """Return the command line; a renamed process (setproctitle) gives its title as one."""
        raw = self._read(pid, "cmdline").decode("utf-8", "replace")
        return [part for part in raw.rstrip("\0 ").split("\0") if part] if raw else []

    def children(self, pid: int) -> list[int]:
        """Return the PIDs of a process's children, ascending; none when it is gone.

        Uses /proc/PID/task/TID/children; a kernel without CONFIG_PROC_CHILDREN costs a scan of
        all processes.
        """
        try:
            tids = self.tids(pid)
        except ProcessLookupError:
            return []
        found: list[int] = []
        for tid in tids:
            try:
                found += map(int, self._read(pid, "task", tid, "children").split())
            except OSError:
                if not _has_children_files(self.root):
                    return self._scan_for_children(pid)
        return sorted(found)

    def _scan_for_children(self, parent_pid: int) -> list[int]:
        found = []
        for pid in self.pids():
            try:
                if self.stat(pid).parent_pid == parent_pid:
                    found.append(pid)
            except OSError:
                continue
        return found

    def pids(self) -> list[int]:
        """Return all PIDs, ascending."""
        return sorted(int(name) for name in os.listdir(self.root) if name.isdigit())

    def pid_namespace(self, pid: int | str = "self") -> str | None:
        """Return the PID namespace's name (``pid:[...]``), or None where we may not look."""
        return self._namespace(pid, "pid")

    def network_namespace(self, pid: int | str = "self") -> str | None:
        """Return the network namespace's name (``net:[...]``), or None where we may not look."""
        return self._namespace(pid, "net")

    def _namespace(self, pid: int | str, kind: str) -> str | None:
        try:
            return os.readlink(self.root / str(pid) / "ns" / kind)
        except OSError:
            return None

    def idle_ns(self) -> tuple[int, int]:
        """Return the host's (idle + iowait, all) CPU time in ns, summed over CPUs.

        It advances in clock ticks. ``all`` leaves out guest time, which user time holds already.
        """
        line = self._read("stat").split(b"\n", 1)[0]
        fields = list(map(int, line.split()[1:9]))
        return (fields[3] + fields[4]) * NS_PER_TICK, sum(fields) * NS_PER_TICK


def _has_children_files(root: Path) -> bool:
    return (root / "thread-self" / "children").exists()
