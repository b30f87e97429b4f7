"""From rings to rows: whose slices they are, who came next, what waits, and what was lost."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from switch_rings import (
    SYSCALL,
    WIDE,
    comm,
    drained,
    fork,
    lost,
    register_sample,
    switch,
    switch_in,
    switch_out,
    waking,
)

from collectors.capture import open_capture
from collectors.cpu_slices import BLOCKED, PREEMPTED, READY
from collectors.manifest import ProbeRecord
from probes.base import Capability, Context, Level
from probes.perf.attributes import PerfEventAttr
from probes.switches import probe as switches
from probes.switches.plans import Mode, Plan
from probes.switches.probe import BROKEN, LOST, SETTLE_NS, SwitchProbe
from probes.switches.records import Drained
from probes.target import find_target
from tests.fakeproc import PYTHON, FakeProc
from tests.recordings import PID, make_recorder

CHILD, ORPHAN, STRANGER = PID + 10, PID + 20, 77
MAIN, CHILDS, OTHER, IDLE = (PID, PID), (CHILD, CHILD), (STRANGER, STRANGER), (0, 0)
MS = 1_000_000


class Rings:
    """A source of two CPUs, 0 and 4, whose rings the test fills."""

    plan = Plan(Mode.PER_CPU, WIDE, PerfEventAttr())
    cpus = (0, 4)
    rings = (None, None)
    ring_bytes = 1 << 20
    is_full = False

    def __init__(self) -> None:
        self.started_ns = time.monotonic_ns()
        self.held = [b"", b""]
        self.is_closed = False

    def enable(self) -> int:
        return self.started_ns

    def disable(self) -> int:
        return self.started_ns + 1000 * MS

    def drain(self) -> Drained:
        taken, self.held = drained(*self.held), [b"", b""]
        return taken

    def close(self) -> None:
        self.is_closed = True


class Bench:
    """A probe on a fake process, fed by hand; ``at`` counts ms from its start."""

    def __init__(self, tmp_path, *, namespace: str = switches._INITIAL_NAMESPACE) -> None:
        self.proc = FakeProc(tmp_path / "proc")
        self.proc.add(PID, [PYTHON, "x.py"])
        self.proc.add(STRANGER, ["cc1"], comm="cc1", program="/bin/cc1")
        (self.proc.root / "self" / "ns").mkdir(parents=True)
        (self.proc.root / "self" / "ns" / "pid").symlink_to(namespace)
        self.recorder = make_recorder(tmp_path / "c")
        target = find_target(PID, self.proc.procfs)
        self.context = Context(target, self.recorder, None, {PID: 0})  # type: ignore[arg-type]
        self.rings = Rings()
        self.probe = SwitchProbe()
        self.probe._context = self.context
        self.probe._capability = Capability("switches", Level.WORKS)
        self.probe._pacer.stop = lambda: None  # type: ignore[method-assign]
        self.probe._begin(self.rings)  # type: ignore[arg-type]
        self.record: ProbeRecord

    def at(self, ms: float) -> int:
        return self.rings.started_ns + int(ms * MS)

    def tick(self, ms: float, *rings: bytes) -> None:
        """Drain these rings at ``ms``."""
        self.rings.held = [*rings, b"", b""][:2]
        self.probe._tick(self.at(ms))

    def end(self) -> None:
        self.record = self.probe.stop()
        self.recorder.close()
        capture = open_capture(self.recorder.directory)
        self.tracks = {row["track"]: row for row in capture.table("tracks").to_pylist()}
        rows = capture.table("gaps").to_pylist()
        self.gaps = [row for row in rows if row["probe"] == SwitchProbe.name]
        self.slices = [self._readable(row) for row in capture.table("cpu_slices").to_pylist()]

    def _readable(self, row: dict[str, Any]) -> dict[str, Any]:
        """Give times in ms since the start, and tracks as (kind, tid, name)."""
        coming = row["next"] if row["next"] is None else self._who(row["next"])
        woken_ns = row["woken_ns"]
        start_ms = (row["time_ns"] - self.rings.started_ns) / MS
        return {
            "tid": self.tracks[row["track"]]["tid"], "start": start_ms, "cpu": row["cpu"],
            "end": start_ms + row["duration_ns"] / MS, "leave": row["leave"], "next": coming,
            "woken": woken_ns and (woken_ns - self.rings.started_ns) / MS,
        }  # fmt: skip

    def _who(self, track: int) -> tuple[str, int | None, str]:
        row = self.tracks[track]
        return row["kind"], row["tid"], row["name"]


@pytest.fixture
def bench(tmp_path, monkeypatch) -> Bench:
    monkeypatch.setattr(switches, "online_cpus", lambda: [0, 4])
    return Bench(tmp_path)


def test_a_slice_says_where_why_who_came_and_when_it_was_woken(bench):
    bench.tick(
        100,
        waking(bench.at(9), PID)
        + switch(bench.at(10), IDLE, MAIN)
        + switch(bench.at(20), MAIN, OTHER, runnable=True, registers=(5, 99))
        + switch(bench.at(30), OTHER, IDLE),
        waking(bench.at(39), PID) + switch(bench.at(40), IDLE, MAIN)
        + switch(bench.at(50), MAIN, IDLE),
    )  # fmt: skip

    bench.end()

    assert bench.slices == [
        {"tid": PID, "start": 10, "end": 20, "cpu": 0, "leave": PREEMPTED, "woken": 9,
         "next": ("outsider", STRANGER, "cc1")},
        {"tid": PID, "start": 40, "end": 50, "cpu": 4, "leave": BLOCKED, "woken": None,
         "next": ("idle", None, "")},
    ]  # fmt: skip
    assert bench.gaps == []
    detail = bench.record.detail
    assert (detail["slice_count"], detail["record_count"], detail["lost_count"]) == (2, 13, 0)
    assert (detail["mode"], detail["wake_latency"]) == ("per_cpu", "measured")
    assert bench.rings.is_closed


def test_what_has_just_ended_waits_for_what_other_cpus_say_of_the_time_before(bench):
    # Given a wake-up whose ring was drained before it was written
    bench.tick(50, switch(bench.at(5), MAIN, IDLE), b"")
    came = bench.at(100) - SETTLE_NS // 4
    bench.tick(100, b"", switch(came, IDLE, MAIN) + switch(came + 1000, MAIN, IDLE))
    bench.tick(200, waking(came - 9 * MS, PID), b"")

    bench.end()

    assert [one["woken"] for one in bench.slices] == [None, (came - 9 * MS - bench.at(0)) / MS]


def test_a_thread_that_starts_is_the_targets_and_a_strangers_is_not(bench):
    new, theirs = PID + 3, STRANGER + 1
    bench.tick(
        100,
        fork(bench.at(1), PID, PID, new) + fork(bench.at(2), STRANGER, STRANGER, theirs)
        + comm(PID, new, b"worker")
        + switch(bench.at(10), IDLE, (PID, new)) + switch(bench.at(20), (PID, new), OTHER)
        + switch(bench.at(30), OTHER, (STRANGER, theirs))
        + switch(bench.at(40), (STRANGER, theirs), IDLE),
    )  # fmt: skip

    bench.end()

    assert [one["tid"] for one in bench.slices] == [new]
    assert "worker" in {row["name"] for row in bench.tracks.values() if row["tid"] == new}


def test_a_new_process_waits_until_the_session_knows_it(bench):
    bench.proc.add(CHILD, [PYTHON, "y.py"], parent=PID, start_ticks=900)
    ran = switch(bench.at(10), IDLE, CHILDS) + switch(bench.at(20), CHILDS, IDLE)
    bench.tick(100, fork(bench.at(1), CHILD, PID, CHILD) + ran)
    assert bench.probe._counts["slice"] == 0

    for process in bench.context.target.refresh():
        track = bench.recorder.process_track(process.pid, 900, name="y", role="worker")
        bench.context.tracks[process.pid] = track
        bench.probe.add(process)
    bench.tick(200)

    assert bench.probe._counts["slice"] == 1
    bench.end()
    assert [one["tid"] for one in bench.slices] == [CHILD]


def test_a_process_that_is_gone_before_anybody_looked_is_told_all_the_same(bench):
    ran = switch(bench.at(10), IDLE, CHILDS) + switch(bench.at(20), CHILDS, IDLE)
    bench.tick(100, fork(bench.at(1), CHILD, PID, CHILD) + comm(CHILD, CHILD, b"nvidia-smi") + ran)

    bench.end()

    assert [one["tid"] for one in bench.slices] == [CHILD]
    process = next(r for r in bench.tracks.values() if r["kind"] == "process" and r["pid"] == CHILD)
    assert (process["name"], process["parent"]) == ("nvidia-smi", 0)


def test_per_task_a_process_that_was_not_seen_to_start_is_watched_from_now_on(bench):
    # Given one whose start was recorded, and one that the session found
    followed = []
    bench.rings.plan = Plan(Mode.PER_TASK, WIDE, PerfEventAttr())
    bench.rings.follow = followed.append  # type: ignore[attr-defined]
    for pid in (CHILD, ORPHAN):
        bench.proc.add(pid, [PYTHON, "y.py"], parent=PID)
    bench.tick(100, fork(bench.at(1), CHILD, PID, CHILD))

    for process in bench.context.target.refresh():
        bench.probe.add(process)

    assert followed == [[ORPHAN]]
    bench.end()


def test_ids_are_used_again_for_others(bench):
    # Given a thread of the target that ended, and then a stranger with its id
    tid = PID + 1
    bench.tick(
        100, fork(bench.at(1), PID, PID, tid) + switch(bench.at(5), IDLE, (PID, tid))
        + switch(bench.at(6), (PID, tid), IDLE),
    )  # fmt: skip
    bench.tick(
        200, fork(bench.at(101), STRANGER, STRANGER, tid)
        + switch(bench.at(105), IDLE, (STRANGER, tid))
        + switch(bench.at(106), (STRANGER, tid), IDLE),
    )  # fmt: skip

    bench.end()

    assert [one["start"] for one in bench.slices] == [5]


def test_what_runs_at_the_start_and_at_the_end_is_cut_there(bench):
    bench.tick(100, switch(bench.at(10), MAIN, IDLE) + switch(bench.at(90), IDLE, MAIN))

    bench.end()

    first, last = bench.slices
    assert (first["start"], first["end"], first["leave"]) == (0, 10, BLOCKED)
    assert (last["start"], last["end"], last["leave"], last["next"]) == (90, 1000, None, None)


def test_lost_records_are_a_gap_between_the_last_seen_and_the_next(bench):
    bench.tick(100, switch(bench.at(10), IDLE, MAIN))
    bench.tick(
        200, switch(bench.at(110), MAIN, OTHER) + lost(bench.at(120), 3) + lost(bench.at(130), 4),
        lost(bench.at(150), 5),
    )  # fmt: skip

    bench.end()

    spans = [
        ((gap["start_ns"] - bench.at(0)) / MS, (gap["end_ns"] - bench.at(0)) / MS,
         gap["lost_count"], gap["reason"], gap["probe"])
        for gap in bench.gaps
    ]  # fmt: skip
    assert spans == [
        (110.0009, 130, 7, LOST, "switches"),
        (100, 150, 5, LOST, "switches"),
    ]
    assert bench.record.detail["lost_count"] == 12


def test_a_ring_that_is_full_at_the_end_has_lost_nobody_knows_how_much(bench):
    bench.tick(100)
    bench.rings.is_full = True

    bench.end()

    assert [(gap["lost_count"], gap["reason"]) for gap in bench.gaps] == [(None, LOST)]


def test_a_ring_that_makes_no_sense_is_a_gap_and_the_next_is_read(bench):
    bench.tick(100, np.zeros(4, np.uint64).tobytes())
    bench.tick(200, switch(bench.at(110), IDLE, MAIN) + switch(bench.at(120), MAIN, IDLE))

    bench.end()

    assert [gap["reason"] for gap in bench.gaps] == [BROKEN]
    assert len(bench.slices) == 1


def test_a_cpu_that_comes_online_later_is_a_gap(bench, monkeypatch):
    monkeypatch.setattr(switches, "online_cpus", lambda: [0, 4, 5])

    bench.end()

    assert [gap["reason"] for gap in bench.gaps] == ["CPU 5 came online later"]


def test_in_a_pid_namespace_idle_and_strangers_look_the_same_and_are_not_told(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(switches, "online_cpus", lambda: [0, 4])
    bench = Bench(tmp_path, namespace="pid:[4026532000]")
    bench.tick(100, switch(bench.at(10), IDLE, MAIN) + switch(bench.at(20), MAIN, IDLE))

    bench.end()

    assert [one["next"] for one in bench.slices] == [None]


def test_yields_are_counted(bench, monkeypatch):
    monkeypatch.setattr("probes.switches.yields.read_code", lambda pid, ip: None)
    sample = register_sample(bench.at(19), MAIN, SYSCALL, 5)
    bench.tick(
        100,
        switch(bench.at(10), IDLE, MAIN) + sample
        + switch_out(bench.at(20), MAIN, OTHER, 1 << 13 | 1 << 14)
        + switch_in(bench.at(20.1), MAIN, OTHER),
    )  # fmt: skip

    bench.end()

    assert [one["leave"] for one in bench.slices] == [READY]
    assert bench.record.detail["unreadable_call_count"] == 1
    assert bench.record.detail["yield_count"] == 0


@pytest.mark.parametrize(
    ("release", "is_enough"), [("4.14.0", False), ("4.17.0-1", True), ("6.8.0-45-generic", True)]
)
def test_a_kernel_that_does_not_say_why_a_thread_left_is_too_old(release: str, is_enough: bool):
    assert switches._is_new_enough(release) is is_enough
