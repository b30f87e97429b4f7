"""The switch probe on real threads, in every mode that the kernel allows here."""

from __future__ import annotations

import ctypes
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

# Looked up late, when nobody may not be allowed to read where numpy is installed.
import numpy.ma  # noqa: F401
import pytest

from collectors.capture import finalise, open_capture
from collectors.cpu_slices import BLOCKED, PREEMPTED, READY, YIELDED
from collectors.manifest import ProbeRecord
from probes.base import Context, Level
from probes.perf.errors import PerfError
from probes.switches import plans
from probes.switches import probe as switches
from probes.switches.plans import Plan
from probes.switches.probe import SwitchProbe
from probes.target import Target, find_target
from tests.programs import TARGETS, Program, start_program
from tests.recordings import make_recorder
from tests.waiting import wait_until

NOBODY = 65534
PR_SET_DUMPABLE = 4
PER_CPU = (plans.traced, plans.recorded)
TELLS_YIELDS = (*PER_CPU, plans.per_task)


@pytest.fixture
def switching() -> Iterator[Program]:
    running = start_program(TARGETS / "switching.py")
    yield running
    running.end()


class Recording:
    """What the probe saw of a target until enough was there."""

    def __init__(self, target: Target, directory: Path, is_enough: Callable[[Recording], bool]):
        self.target = target
        self.rows: list[dict[str, Any]] = []
        recorder = make_recorder(directory)
        append = recorder.append

        def keep(table: str, columns: Any) -> None:
            append(table, columns)
            if table == "cpu_slices":
                names = list(columns)
                lists = (getattr(one, "to_pylist", one.tolist)() for one in columns.values())
                rows = zip(*lists, strict=True)
                self.rows += [dict(zip(names, row, strict=True)) for row in rows]

        recorder.append = keep  # type: ignore[method-assign]
        context = Context(target, recorder, None)  # type: ignore[arg-type]
        for process in target.processes.values():
            context.tracks[process.pid] = recorder.process_track(
                process.pid, process.start_ticks, name=process.name, role=process.role
            )
        self.tracks = recorder._tracks
        self.counts = [self._switches()]
        probe = SwitchProbe(rate_hz=20.0)
        probe.check(target)
        probe.start(context)
        self.counts.append(self._switches())
        try:
            wait_until(lambda: is_enough(self), "everything was seen")
        finally:
            self.counts.append(self._switches())
            self.record: ProbeRecord = probe.stop()
            self.counts.append(self._switches())
            recorder.close()
        finalise(directory, recorder.manifest)
        self.gaps = [
            row for row in open_capture(directory).table("gaps").to_pylist()
            if row["probe"] == "switches"
        ]  # fmt: skip

    def _switches(self) -> tuple[int, int]:
        """Return main's voluntary and involuntary switches so far, as the kernel counts."""
        pid = self.target.root_pid
        with suppress(ProcessLookupError):
            return self.target.procfs.switches(pid, pid)
        return 0, 0

    def of(self, pid: int) -> list[dict[str, Any]]:
        """Return the slices of a process's first thread, in order."""
        mine = {row["track"] for row in self.tracks.values() if row.get("tid") == pid}
        rows = [row for row in list(self.rows) if row["track"] in mine]
        return sorted(rows, key=lambda row: row["time_ns"])

    def leaves(self, pid: int) -> set[int | None]:
        """Return for what reasons it left."""
        return {row["leave"] for row in self.of(pid)}

    def threads(self) -> set[tuple[int, int]]:
        """Return (PID, thread id) of all that were seen."""
        seen = {row["track"] for row in list(self.rows)}
        every = list(self.tracks.values())
        return {(row["pid"], row["tid"]) for row in every if row["track"] in seen}


def record(program: Program, directory: Path, pid: str = "spinner") -> Recording:
    """Record until both children were seen to leave, and others to be born."""
    target = find_target(program.pid)

    def is_enough(seen: Recording) -> bool:
        threads = seen.threads()
        return (
            len(seen.of(program.hello["spinner"])) > 3
            and len(seen.of(program.hello["yielder"])) > 3
            and len(seen.of(program.pid)) > 10
            and any(pid == program.pid != tid for pid, tid in threads)
            and any(pid not in target.processes for pid, tid in threads)
        )

    return Recording(target, directory, is_enough)


def only(monkeypatch: pytest.MonkeyPatch, make: Callable[[], Plan]) -> None:
    """Let the probe choose this plan or none."""
    try:
        plans.choose_plan(os.getpid(), plans.online_cpus()[0], (make,))
    except PerfError as error:
        pytest.skip(error.message)
    monkeypatch.setattr(switches, "PLANS", (make,))


@pytest.mark.parametrize("make", plans.PLANS, ids=lambda make: make.__name__)
def test_every_mode_sees_all_threads_and_counts_as_the_kernel_does(
    make, switching, tmp_path, monkeypatch
):
    only(monkeypatch, make)

    seen = record(switching, tmp_path / "c")

    # Then no thread is in two places at once
    for _, tid in seen.threads():
        rows = seen.of(tid)
        assert all(
            before["time_ns"] + before["duration_ns"] <= after["time_ns"]
            for before, after in pairwise(rows)
        )
    # and it blocked as often as the kernel says, which was asked outside and inside of the window
    blocked_count = sum(row["leave"] == BLOCKED for row in seen.of(switching.pid))
    (before, _), (started, _), (ending, _), (after, _) = seen.counts
    assert ending - started <= blocked_count <= after - before
    assert seen.gaps == []
    assert seen.record.detail["lost_count"] == 0


@pytest.mark.parametrize("make", TELLS_YIELDS, ids=lambda make: make.__name__)
def test_yields_are_told_from_preemptions(make, switching, tmp_path, monkeypatch):
    only(monkeypatch, make)

    seen = record(switching, tmp_path / "c")

    assert YIELDED in seen.leaves(switching.hello["yielder"])
    assert PREEMPTED in seen.leaves(switching.hello["spinner"])
    assert YIELDED not in seen.leaves(switching.hello["spinner"])
    assert seen.record.detail["yields_told_apart"] is True


def test_where_yields_cannot_be_told_no_preemption_is_claimed(switching, tmp_path, monkeypatch):
    only(monkeypatch, plans.per_task_of_user)

    seen = record(switching, tmp_path / "c")

    for name in ("yielder", "spinner"):
        assert READY in seen.leaves(switching.hello[name]) <= {None, BLOCKED, READY}
    assert seen.record.level == Level.DEGRADED
    assert "a yield looks like a preemption" in (seen.record.reason or "")


@pytest.mark.parametrize("make", PER_CPU, ids=lambda make: make.__name__)
def test_who_comes_next_is_known_where_all_cpus_are_watched(make, switching, tmp_path, monkeypatch):
    only(monkeypatch, make)

    seen = record(switching, tmp_path / "c")

    tracks = {row["track"]: row for row in seen.tracks.values()}
    after_yields = [
        tracks[row["next"]]
        for row in seen.of(switching.hello["yielder"])
        if row["leave"] == YIELDED and row["next"] is not None
    ]
    assert switching.hello["spinner"] in {row["tid"] for row in after_yields}


def test_wake_ups_come_before_the_stays_they_lead_to(switching, tmp_path, monkeypatch):
    only(monkeypatch, plans.traced)

    seen = record(switching, tmp_path / "c")

    woken = [row for row in seen.of(switching.pid) if row["woken_ns"] is not None]
    assert woken
    assert all(row["woken_ns"] <= row["time_ns"] for row in woken)
    ends = [row["time_ns"] + row["duration_ns"] for row in seen.of(switching.pid)]
    assert all(any(end <= row["woken_ns"] for end in ends) for row in woken[1:])
    assert seen.record.detail["wake_latency"] == "measured"


def test_a_target_that_exits_ends_its_slices(switching, tmp_path, monkeypatch):
    target = find_target(switching.pid)

    def has_ended(seen: Recording) -> bool:
        if len(seen.of(target.root_pid)) > 3 and switching.process.poll() is None:
            switching.end()
        return switching.process.poll() is not None

    try:
        seen = Recording(target, tmp_path / "c", has_ended)
    except PerfError as error:
        pytest.skip(error.message)

    assert {row["leave"] for row in seen.of(target.root_pid)[-1:]} == {BLOCKED}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_anybody_sees_the_threads_of_his_own_processes():
    # Given a user without privileges, as whom a process of his own starts threads
    if int(Path("/proc/sys/kernel/perf_event_paranoid").read_text()) > 2:
        pytest.skip("kernel.perf_event_paranoid allows nobody anything")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with TemporaryDirectory() as directory:
                os.chown(directory, NOBODY, NOBODY)
                os.write(write, json.dumps(_record_as_nobody(Path(directory))).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)

    # When
    os.close(write)
    with os.fdopen(read, "rb") as said:
        answer = json.loads(said.read())
    os.waitpid(child, 0)

    # Then
    assert answer["mode"] == "per_task"
    assert "CAP_PERFMON" in answer["reason"]
    assert "perf_event_paranoid" in answer["remedy"]
    assert answer["thread_count"] > 1
    assert answer["gaps"] == []


def _record_as_nobody(directory: Path) -> dict[str, Any]:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # as after an exec
    os.chdir(directory)
    hello, ready = os.pipe()
    asked, stop = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(stop)
        os.dup2(asked, 0)
        os.environ["HELLO_FD"] = str(ready)
        sys.stdin = os.fdopen(0)
        exec(SOURCE, {"__name__": "__main__"})
        os._exit(0)
    os.close(ready)
    with os.fdopen(hello) as said:
        said.readline()
    target = find_target(pid)
    seen = Recording(target, directory / "c", lambda seen: len(seen.threads()) > 3)
    os.close(stop)
    return {
        "mode": seen.record.detail["mode"], "reason": seen.record.reason,
        "remedy": seen.record.remedy, "thread_count": len(seen.threads()), "gaps": seen.gaps,
    }  # fmt: skip


SOURCE = (TARGETS / "switching.py").read_text()
