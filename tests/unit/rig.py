"""What a sampler probe needs around it: a recorder that keeps rows in memory, and programs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from collectors.manifest import Manifest, TargetRecord
from collectors.recorder import Recorder
from probes.base import Context
from probes.keeper import Keeper
from probes.target import Process, Target, find_target

DEADLINE_S = 30.0
BUSY = """
import threading
def spin():
    while True: pass
threading.Thread(target=spin).start()
print('up', flush=True)
spin()
"""


class Rig:
    """A recorder that keeps rows in memory, a keeper, and targets."""

    def __init__(self, directory: Path) -> None:
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.said: list[str] = []
        self.keeper = Keeper()
        self.recorder = Recorder(directory, Manifest(TargetRecord(1, "python"), 0, "0"))
        self._append = self.recorder.append
        self.recorder.append = self._keep  # type: ignore[method-assign]
        self._programs: list[subprocess.Popen[bytes]] = []
        self.context: Context

    def _keep(self, table: str, columns: Any) -> None:
        rows = zip(*(list(column) for column in columns.values()), strict=True)
        named = [dict(zip(columns, row, strict=True)) for row in rows]
        self.rows.setdefault(table, []).extend(named)
        self._append(table, columns)

    def program(self, code: str = BUSY) -> subprocess.Popen[bytes]:
        program = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE
        )
        self._programs.append(program)
        assert program.stdout is not None
        program.stdout.readline()
        return program

    def target(self, program: subprocess.Popen[bytes]) -> Target:
        target = find_target(program.pid)
        self.context = Context(
            target,
            self.recorder,
            self.keeper,
            on_status=lambda _probe, text: self.said.append(text),
        )
        for process in target.processes.values():
            self.enrol(process)
        return target

    def enrol(self, process: Process) -> None:
        self.context.tracks[process.pid] = self.recorder.process_track(
            process.pid, process.start_ticks, name=process.name, role=process.role
        )

    def until(self, condition: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline_s, self.said
            os.sched_yield()

    @property
    def sampler_pid(self) -> int:
        """The keeper's first child, or 0."""
        path = Path(f"/proc/{self.keeper.pid}/task/{self.keeper.pid}/children")
        children = path.read_text().split()
        return int(children[0]) if children else 0

    def close(self) -> None:
        self.keeper.close()
        self.recorder.close()
        for program in self._programs:
            program.kill()
            program.communicate()
