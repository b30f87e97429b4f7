"""The probe as a whole: processes in, rows in the capture out, and losses as gaps."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from collectors.manifest import Manifest, TargetRecord
from collectors.recorder import Recorder
from probes.base import Context, Level
from probes.gil.probe import RESTART_LIMIT, GilProbe
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

    def seen(self, pid: int) -> int:
        track = self.context.tracks[pid]
        return sum(row["track"] == track for row in self.rows.get("gil", []))

    def close(self) -> None:
        self.keeper.close()
        self.recorder.close()
        for program in self._programs:
            program.kill()
            program.communicate()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path / "capture")
    yield made
    made.close()


def test_rows_name_threads_of_the_process_and_the_record_its_rate(rig: Rig) -> None:
    program = rig.program()
    target = rig.target(program)
    probe = GilProbe()
    assert probe.check(target).level is Level.WORKS
    probe.start(rig.context)
    rig.until(lambda: rig.seen(program.pid) > 500)
    record = probe.stop()
    process = rig.context.tracks[program.pid]
    threads = {row["track"] for row in rig.rows["tracks"] if row.get("parent") == process}
    holders = {row["holder"].as_py() for row in rig.rows["gil"]} - {None}
    waiters = {track for row in rig.rows["gil"] for track in row["waiters"].as_py() or []}
    assert len(threads) == 2
    assert holders <= threads
    assert waiters <= threads
    assert record.level == Level.WORKS
    assert record.requested_hz == 1000
    assert record.achieved_hz is not None
    assert record.cpu_seconds is not None
    assert record.detail["processes"][str(program.pid)]["sample_count"] == rig.seen(program.pid)


def test_a_process_that_appears_is_taken_up(rig: Rig) -> None:
    first, second = rig.program(), rig.program()
    rig.target(first)
    probe = GilProbe()
    probe.start(rig.context)
    rig.until(lambda: rig.seen(first.pid) > 0)
    process = find_target(second.pid).processes[second.pid]
    rig.enrol(process)
    probe.add(process)
    rig.until(lambda: rig.seen(second.pid) > 0)
    assert probe.stop().detail["restart_count"] == 0


def test_a_killed_sampler_is_replaced_and_leaves_a_gap(rig: Rig) -> None:
    program = rig.program()
    rig.target(program)
    probe = GilProbe()
    probe.start(rig.context)
    rig.until(lambda: rig.seen(program.pid) > 0)
    before = rig.seen(program.pid)
    os.kill(sampler_pid(rig), signal.SIGKILL)
    rig.until(lambda: rig.seen(program.pid) > before + 300)
    assert probe.stop().detail["restart_count"] == 1
    reasons = [row["reason"] for row in rig.rows["gaps"] if row["probe"] == "gil"]
    assert any("restarted" in reason for reason in reasons)


def test_a_sampler_that_keeps_dying_is_given_up(rig: Rig) -> None:
    program = rig.program()
    rig.target(program)
    probe = GilProbe()
    probe.start(rig.context)
    for count in range(1, RESTART_LIMIT + 2):
        rig.until(lambda: sampler_pid(rig) > 0)
        os.kill(sampler_pid(rig), signal.SIGKILL)
        rig.until(lambda count=count: len(rig.said) >= count)  # type: ignore[misc]
    record = probe.stop()
    assert record.level == Level.DEGRADED
    assert record.reason is not None
    assert "given up" in record.reason
    assert any("given up" in row["reason"] for row in rig.rows["gaps"])


def test_the_end_of_the_last_process_is_no_failure(rig: Rig) -> None:
    program = rig.program()
    rig.target(program)
    probe = GilProbe()
    probe.start(rig.context)
    rig.until(lambda: rig.seen(program.pid) > 0)
    program.kill()
    program.wait()
    rig.until(lambda: any("exited" in text for text in rig.said))
    record = probe.stop()
    assert record.level == Level.WORKS
    assert record.detail["restart_count"] == 0
    assert "gaps" not in rig.rows or not any(
        "no samples" in row["reason"] for row in rig.rows["gaps"]
    )


def sampler_pid(rig: Rig) -> int:
    """The keeper's only child, or 0."""
    children = Path(f"/proc/{rig.keeper.pid}/task/{rig.keeper.pid}/children").read_text().split()
    return int(children[0]) if children else 0
