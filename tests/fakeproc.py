"""A /proc made of plain files, for trees of processes that are not there."""

from __future__ import annotations

from pathlib import Path

from probes.procfs import Procfs

PYTHON = "/usr/bin/python3.11"


class FakeProc:
    """Builds below ``root``; `procfs` reads it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.procfs = Procfs(root)
        root.mkdir(parents=True, exist_ok=True)
        self._write("thread-self/children", "")
        self.cpu_times()

    def add(
        self, pid: int, cmdline: list[str], *, parent: int = 1, program: str = PYTHON,
        comm: str = "python", state: str = "S", start_ticks: int = 500,
    ) -> int:  # fmt: skip
        """Make a process and its one thread; return its PID."""
        stat = (
            f"{pid} ({comm}) {state} {parent} 0 0 0 -1 0 0 0 0 0 70 30 0 0 20 0 1 0 {start_ticks} "
            + "0 " * 16
            + "3 0 0 0 0 0\n"
        )
        status = (
            f"Name:\t{comm}\nTracerPid:\t0\nUid:\t1000\t1000\t1000\t1000\nNSpid:\t{pid}\n"
            "voluntary_ctxt_switches:\t5\nnonvoluntary_ctxt_switches:\t6\n"
        )
        for place in (f"{pid}", f"{pid}/task/{pid}"):
            self._write(f"{place}/stat", stat)
            self._write(f"{place}/status", status)
            self._write(f"{place}/schedstat", "1000 200 3\n")
        self._write(f"{pid}/task/{pid}/children", "")
        self._write(f"{pid}/cmdline", "".join(part + "\0" for part in cmdline))
        self._write(f"{pid}/mem", "")
        self._write(f"{pid}/maps", "")
        (self.root / str(pid) / "exe").unlink(missing_ok=True)
        (self.root / str(pid) / "exe").symlink_to(program)
        siblings = self.root / str(parent) / "task" / str(parent) / "children"
        if siblings.exists():
            siblings.write_text(siblings.read_text() + f"{pid} ")
        return pid

    def cpu_times(self, *, busy: int = 0, niced: int = 0, idle: int = 0, iowait: int = 0) -> None:
        """Set the host's CPU times, in clock ticks."""
        self._write("stat", f"cpu  {busy} {niced} 0 {idle} {iowait} 0 0 0 0 0\ncpu0 1 2 3 4\n")

    def _write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)
