"""Thread counters: a row when something changed, one at the end, and no thread is kept open."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from collectors.capture import open_capture
from probes.base import Context
from probes.governor import WakeGovernor
from probes.procfs import Procfs
from probes.target import find_target
from probes.threads import DORMANT_TICKS, RESCAN_TICKS, ThreadProbe
from tests.fakeproc import PYTHON, FakeProc
from tests.recordings import PID, make_recorder


class Bench:
    """A probe on a fake process, ticked by hand."""

    def __init__(self, tmp_path) -> None:
        self.proc = FakeProc(tmp_path / "proc")
        self.proc.add(PID, [PYTHON, "x.py"])
        self.recorder = make_recorder(tmp_path / "c")
        target = find_target(PID, self.proc.procfs)
        self.probe = ThreadProbe()
        self.probe._context = Context(target, self.recorder, None, {PID: 0})  # type: ignore[arg-type]
        self.probe._procfs = self.proc.procfs
        self.probe._governor = WakeGovernor(20.0, self.proc.procfs, 1.0)  # any host is as good
        self.probe._processes = list(target.processes.values())
        self.probe._pacer.stop = lambda: None  # type: ignore[method-assign]
        self.task = self.proc.root / str(PID) / "task"

    def ran(self, tid: int, text: str) -> None:
        (self.task / str(tid) / "schedstat").write_text(text)

    def rows(self) -> list[dict[str, object]]:
        self.probe.stop()
        self.recorder.close()
        return open_capture(self.recorder.directory).table("thread_counters").to_pylist()


@pytest.fixture
def bench(tmp_path) -> Bench:
    return Bench(tmp_path)


def test_a_row_only_when_something_changed_and_one_at_the_end(bench):
    # Given a thread that runs once and then sleeps
    bench.probe._tick(10)
    bench.ran(PID, "5000 300 4\n")
    for now_ns in (20, 30, 40):
        bench.probe._tick(now_ns)

    # When
    rows = bench.rows()

    # Then
    assert [row["run_ns"] for row in rows] == [1000, 5000, 5000]
    assert [row["time_ns"] for row in rows[:2]] == [10, 20]
    assert [(row["wait_ns"], row["timeslice_count"]) for row in rows[1:]] == [(300, 4)] * 2


def test_switches_and_cpu_stand_where_they_were_looked_at_and_are_null_elsewhere(bench):
    for now_ns in range(3):
        bench.ran(PID, f"{now_ns} 0 1\n")
        bench.probe._tick(now_ns)

    rows = bench.rows()

    looked = [(row["voluntary_count"], row["involuntary_count"], row["cpu"]) for row in rows]
    assert looked == [(5, 6, 3), (None,) * 3, (None,) * 3, (5, 6, 3)]


def test_a_thread_that_appears_is_taken_up(bench):
    bench.probe._tick(0)
    new = bench.task / str(PID + 7)
    new.mkdir()
    for name in ("stat", "status", "schedstat"):
        (new / name).write_text((bench.task / str(PID) / name).read_text())

    for now_ns in range(1, RESCAN_TICKS + 1):
        bench.probe._tick(now_ns)

    tracks = {row["track"] for row in bench.rows()}
    names = open_capture(bench.recorder.directory).table("tracks").to_pylist()
    assert {row["tid"] for row in names if row["track"] in tracks} == {PID, PID + 7}


def test_a_dormant_thread_that_runs_again_is_seen_at_the_next_rescan(bench):
    # Given a thread that has not run for so long that it is looked at less often
    for now_ns in range(DORMANT_TICKS + 2):
        bench.probe._tick(now_ns)

    # When it runs
    bench.ran(PID, "9000 0 9\n")
    for now_ns in range(100, 100 + RESCAN_TICKS):
        bench.probe._tick(now_ns)

    # Then that stands in a row
    assert 9000 in [row["run_ns"] for row in bench.rows() if row["time_ns"] >= 100]


def test_totals_add_up_the_threads_of_a_process(bench):
    bench.probe._tick(0)
    bench.ran(PID, "5000 300 4\n")
    bench.probe._tick(1)

    assert bench.probe.totals_ns() == {PID: (5000, 300)}
    bench.rows()


def refusing(_path: str) -> Callable[..., int]:
    def refuse(*_arguments: object, **_options: object) -> int:
        raise OSError(24, "")  # EMFILE

    return refuse


def test_descriptors_are_given_back(bench):
    before = len(os.listdir("/proc/self/fd"))

    bench.probe._tick(0)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    bench.rows()

    # the streams of the recorder are closed as well
    assert len(os.listdir("/proc/self/fd")) < before


def test_an_ended_thread_ends_its_rows(program, tmp_path):
    # Given a real program under a probe
    recorder = make_recorder(tmp_path / "c")
    target = find_target(program.pid)
    probe = ThreadProbe()
    probe._governor = WakeGovernor(20.0, Procfs(), 1.0)
    probe._context = Context(target, recorder, None, {program.pid: 0})  # type: ignore[arg-type]
    probe._procfs = Procfs()
    probe._processes = list(target.processes.values())
    probe._tick(1)
    assert len(probe._threads) == 3

    # When it ends
    program.end()
    probe._tick(2)

    # Then nothing is looked at any more, and nothing is raised
    assert probe._threads == {}
    recorder.close()


def test_what_the_system_refuses_becomes_a_gap(bench, monkeypatch):
    monkeypatch.setattr("probes.threads.Procfs.tids", refusing("task"))
    with pytest.raises(OSError) as refused:  # noqa: PT011  (any number will do)
        bench.probe._tick(0)

    bench.probe._miss(refused.value)

    bench.rows()
    gaps = open_capture(bench.recorder.directory).table("gaps").to_pylist()
    assert os.strerror(24) in gaps[0]["reason"]
    assert gaps[0]["probe"] == "threads"
