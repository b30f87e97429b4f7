"""The stack probe: rotation, restarts and losses, with recorders that are not there."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from collectors.capture import open_capture
from probes import pyspy
from probes.base import Context
from probes.keeper import Child, KeeperGone
from probes.pyspy import MAX_RESTARTS, OVERLAP_S, SEGMENT_S, PySpyProbe
from probes.target import find_target
from tests.fakeproc import PYTHON, FakeProc
from tests.recordings import PID, make_recorder, two_frames

SECOND = 1_000_000_000


class FakeClock:
    """The time that the probe reads; it passes when the test says so."""

    def __init__(self) -> None:
        self.now_ns = time.monotonic_ns()

    def monotonic_ns(self) -> int:
        return self.now_ns

    def monotonic(self) -> float:
        return self.now_ns / SECOND

    def sleep(self, seconds: float) -> None:
        self.now_ns += round(seconds * SECOND)


class FakeKeeper:
    """Hands out children that run until they are stopped; a stopped one writes its file."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.is_gone = False
        self.children: list[Child] = []
        self.argvs: list[list[str]] = []

    def spawn(self, argv, *, stdout, stderr, **_options) -> Child:
        if self.is_gone:
            raise KeeperGone
        child = Child(len(self.children))
        child.pid, child.spawn_ns = 900_000 + child.key, self.clock.now_ns
        self.children.append(child)
        self.argvs.append(argv)
        return child

    def stop(self, child: Child) -> None:
        if self.is_gone:
            raise KeeperGone
        if child.is_alive:
            Path(self.argvs[child.key][-1]).write_text(json.dumps(two_frames(PID + 1)))
            self.die(child, 0)

    def die(self, child: Child, exit_code: int) -> None:
        child.exit_code, child.exit_ns = exit_code, self.clock.now_ns
        child.exited.set()

    @property
    def living(self) -> list[Child]:
        return [child for child in self.children if child.is_alive]


class CalmGovernor:
    """A host with idle CPU enough."""

    def __init__(self, rate_hz: int, _procfs: object) -> None:
        self.rate_hz = rate_hz

    def look(self, *_what: float) -> None:
        pass


class Bench:
    """A probe on a fake process, ticked by hand at times of our own."""

    def __init__(self, tmp_path, monkeypatch) -> None:
        monkeypatch.setattr(pyspy, "find_pyspy", lambda: Path("/opt/py-spy"))
        monkeypatch.setattr(pyspy, "FIRST_WINDOW_NS", 0)
        monkeypatch.setattr(pyspy, "Governor", CalmGovernor)
        self.proc = FakeProc(tmp_path / "proc")
        self.proc.add(PID, [PYTHON, "x.py"])
        self.recorder = make_recorder(tmp_path / "c")
        self.clock = FakeClock()
        monkeypatch.setattr(pyspy, "time", self.clock)
        self.keeper = FakeKeeper(self.clock)
        self.context = Context(
            find_target(PID, self.proc.procfs),
            self.recorder,
            self.keeper,
            {PID: 0},  # type: ignore[arg-type]
        )
        self.probe = PySpyProbe(100)
        self.probe._pacer.start = self.probe._pacer.stop = lambda: None  # type: ignore[method-assign]
        self.probe.start(self.context)

    @property
    def now_ns(self) -> int:
        return self.clock.now_ns

    def after(self, seconds: float) -> None:
        self.clock.sleep(seconds)
        self.probe._tick(self.now_ns)

    def kill(self, child: Child) -> None:
        self.keeper.die(child, -9)

    def end(self):
        self.clock.sleep(0.1)
        record = self.probe.stop()
        self.recorder.close()
        gaps = open_capture(self.recorder.directory).table("gaps").to_pylist()
        return record, [gap for gap in gaps if gap["probe"] == "pyspy"]


@pytest.fixture
def bench(tmp_path, monkeypatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def test_a_recorder_never_pauses_its_target_and_is_bounded(bench):
    (argv,) = bench.keeper.argvs

    assert "--nonblocking" in argv
    assert int(argv[argv.index("--duration") + 1]) > 0
    assert argv[argv.index("--pid") + 1] == str(PID)
    bench.end()


def test_a_segment_is_taken_over_before_it_ends(bench):
    # When its time is over, a second one is at work beside it
    bench.after(SEGMENT_S + 0.1)
    assert len(bench.keeper.living) == 2

    # and then the first is stopped
    bench.after(OVERLAP_S + 0.1)
    assert [child.key for child in bench.keeper.living] == [1]

    record, gaps = bench.end()
    assert gaps == []
    assert record.level == "works"


def test_a_killed_recorder_is_a_gap_up_to_the_next_one(bench):
    # Given one that was killed without a file
    bench.after(1.0)
    bench.kill(bench.keeper.children[0])
    lost_ns = bench.now_ns
    bench.after(0.2)
    bench.after(0.2)
    again_ns = bench.now_ns

    # Then
    record, gaps = bench.end()
    assert [(gap["start_ns"], gap["end_ns"]) for gap in gaps] == [
        (bench.keeper.children[0].spawn_ns, lost_ns),
        (lost_ns, again_ns),
    ]
    assert "-9" in gaps[0]["reason"]
    assert record.level == "degraded"
    assert str(PID) in (record.reason or "")


def test_a_recorder_that_ended_by_itself_leaves_only_the_time_to_the_next(bench):
    # Given one that wrote its file: the keeper ended it while we were frozen
    bench.after(1.0)
    bench.keeper.stop(bench.keeper.children[0])
    ended_ns = bench.keeper.children[0].exit_ns
    bench.after(7.0)
    bench.after(0.2)
    again_ns = bench.now_ns

    record, gaps = bench.end()
    assert [(gap["start_ns"], gap["end_ns"]) for gap in gaps] == [(ended_ns, again_ns)]
    assert record.level == "works"


def test_a_recorder_that_never_lives_is_given_up_and_the_rest_is_a_gap(bench):
    # When each new one is killed
    for _ in range(2 * MAX_RESTARTS + 10):
        for child in bench.keeper.living:
            bench.kill(child)
        bench.after(0.2)

    # Then it stops trying
    assert len(bench.keeper.children) == MAX_RESTARTS + 1
    _, gaps = bench.end()
    last = gaps[-1]
    assert "could be started" in last["reason"]
    assert last["end_ns"] > last["start_ns"] >= bench.keeper.children[-1].exit_ns


def test_a_dead_keeper_is_a_gap_to_the_end(bench):
    # Given
    bench.after(1.0)
    bench.keeper.is_gone = True
    bench.kill(bench.keeper.children[0])

    # When
    for _ in range(3):
        bench.after(0.2)

    # Then
    record, gaps = bench.end()
    assert record.level == "degraded"
    assert max(gap["end_ns"] for gap in gaps) == bench.now_ns
    assert sum("could be started" in gap["reason"] for gap in gaps) == 1


def test_a_lower_rate_takes_over_at_once(bench):
    # When the host has less to spare
    bench.probe._governor.rate_hz = 20
    bench.after(1.0)

    # Then a slower recorder begins, and the faster one is stopped
    bench.after(OVERLAP_S + 0.1)
    rates = [argv[argv.index("--rate") + 1] for argv in bench.keeper.argvs]
    assert rates == ["100", "20"]
    assert [child.key for child in bench.keeper.living] == [1]
    record, _ = bench.end()
    assert record.detail["processes"][str(PID)]["rates_hz"] == [20, 100]


def test_a_process_that_exits_is_no_loss(bench):
    # Given a target that ended, and its recorder with it, with its file
    bench.after(1.0)
    bench.proc.add(PID, [], state="Z")
    bench.keeper.stop(bench.keeper.children[0])

    bench.after(0.2)
    bench.after(0.2)

    record, gaps = bench.end()
    assert gaps == []
    assert record.level == "works"
    assert len(bench.keeper.children) == 1


def test_a_process_that_appears_gets_a_recorder(bench):
    bench.proc.add(PID + 50, [PYTHON, "y.py"], parent=PID)
    (process,) = bench.context.target.refresh()
    bench.context.tracks[process.pid] = 0

    bench.probe.add(process)
    bench.after(0.2)

    assert [argv[argv.index("--pid") + 1] for argv in bench.keeper.argvs] == [
        str(PID), str(PID + 50),
    ]  # fmt: skip
    bench.end()


def test_the_py_spy_beside_this_python_comes_first(tmp_path, monkeypatch):
    beside = tmp_path / "py-spy"
    beside.write_text("")
    beside.chmod(0o755)
    monkeypatch.setattr(pyspy.sys, "executable", str(tmp_path / "python"))

    assert pyspy.find_pyspy() == beside

    beside.unlink()
    monkeypatch.setenv("PATH", "")
    assert pyspy.find_pyspy() is None
