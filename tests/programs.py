"""Start the small target programs below ``targets/`` and know when they are ready.

A program says hello with one JSON line on a pipe of its own and ends when its stdin closes, so that
none outlives the test that started it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TARGETS = Path(__file__).parent / "targets"


@dataclass(frozen=True)
class Program:
    """A running target; ``hello`` is what it said when it was ready."""

    process: subprocess.Popen[bytes]
    hello: dict[str, Any]

    @property
    def pid(self) -> int:
        """The program's PID as the host sees it, below any wrapper."""
        return _leaf(self.process.pid)

    def end(self) -> None:
        """Let it end by itself; end it when it does not."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start_program(
    script: Path, *arguments: str, wrapper: Sequence[str] = (), options: Sequence[str] = ()
) -> Program:
    """Start ``python OPTIONS SCRIPT ARGUMENTS`` behind ``wrapper`` and wait for its hello."""
    reader, writer = os.pipe()
    environment = {**os.environ, "HELLO_FD": str(writer)}
    with os.fdopen(reader, "rb") as hello:
        try:
            process = subprocess.Popen(
                [*wrapper, sys.executable, *options, str(script), *arguments],
                stdin=subprocess.PIPE,
                pass_fds=[writer],
                env=environment,
            )
        finally:
            os.close(writer)
        line = hello.readline()
    assert line, f"{script.name} ended before it was ready"
    return Program(process, json.loads(line))


def state(pid: int) -> tuple[str, int]:
    """Return a process's state letter and who traces it (0: nobody), as the kernel says."""
    status = Path(f"/proc/{pid}/status").read_text()
    rows = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return rows["State"].strip()[0], int(rows["TracerPid"])


def is_gone(pid: int) -> bool:
    """Whether a process has ended; a zombie that nobody reaps counts as ended."""
    try:
        return state(pid)[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def _leaf(pid: int) -> int:
    """Return the only child's only child's ... PID: the program behind its wrappers."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    is_wrapper = Path(f"/proc/{pid}/comm").read_text().strip() == "unshare"
    return _leaf(int(children[0])) if is_wrapper else pid
