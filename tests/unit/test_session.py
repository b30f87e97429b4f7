"""A session: from its target to a finished capture, and what it says when it was not whole."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from collectors.capture import open_capture
from collectors.errors import OutputExists, TargetExited, TargetReplaced
from collectors.manifest import ProbeRecord
from probes.base import Capability, Context, Level
from probes.target import Process, Target, find_target
from profiler.session import Session, StopReason
from tests.fakeproc import PYTHON, FakeProc
from tests.programs import Program, is_gone


class QuietProbe:
    """Does nothing but remember what it was asked."""

    def __init__(self, name: str, calls: list[str], level: Level = Level.WORKS) -> None:
        self.name, self.calls, self.level = name, calls, level

    def check(self, target: Target) -> Capability:
        return Capability(self.name, self.level, "because", "do so")

    def start(self, context: Context) -> None:
        self.context = context
        self.calls.append(f"start {self.name}")

    def add(self, process: Process) -> None:
        self.calls.append(f"add {process.pid} to {self.name}")

    def stop(self) -> ProbeRecord:
        self.calls.append(f"stop {self.name}")
        return ProbeRecord(self.name, self.level.value, cpu_seconds=0.5)


@pytest.fixture
def calls() -> list[str]:
    return []


@pytest.fixture
def proc(tmp_path) -> FakeProc:
    proc = FakeProc(tmp_path / "proc")
    proc.add(100, [PYTHON, "/usr/bin/vllm", "serve", "tiny"])
    return proc


@pytest.fixture
def session(proc, calls, tmp_path) -> Iterator[Session]:
    """A session with two quiet probes on a server that is not there."""
    probes = [QuietProbe("one", calls), QuietProbe("two", calls)]
    session = Session(find_target(100, proc.procfs), tmp_path / "c", probes)
    yield session
    keeper = getattr(session, "_keeper", None)
    if keeper is not None and not is_gone(keeper.pid):
        keeper.close()


def run(session: Session, *, seconds: float | None = 0.0) -> StopReason:
    return session.run(seconds, lambda: None)


def test_probes_start_in_order_and_stop_in_reverse(session, calls):
    session.start()
    assert run(session) is StopReason.DURATION
    assert session.finish(StopReason.DURATION) is None

    assert calls == ["start one", "start two", "stop two", "stop one"]


def test_a_whole_capture_says_who_was_recorded_and_what_it_cost(session):
    session.start()
    run(session)
    session.finish(StopReason.DURATION)

    capture = open_capture(session.directory)
    manifest = capture.manifest
    assert (manifest.state, manifest.stop_reason) == ("complete", "duration")
    assert (manifest.target.root_pid, manifest.target.kind, manifest.target.model) == (
        100, "vllm", "tiny",
    )  # fmt: skip
    assert [record.name for record in manifest.probes] == ["one", "two"]
    assert manifest.overhead["probe_children_cpu_seconds"] == 1.0
    assert manifest.host["cpu_count"] == os.cpu_count()
    assert [row["pid"] for row in capture.table("tracks").to_pylist()] == [100]


def test_a_probe_that_cannot_work_is_left_out_and_named(proc, calls, tmp_path):
    probes = [QuietProbe("one", calls), QuietProbe("two", calls, Level.UNAVAILABLE)]
    session = Session(find_target(100, proc.procfs), tmp_path / "c", probes)

    session.start()
    session.finish(StopReason.USER)

    assert calls == ["start one", "stop one"]
    record = open_capture(session.directory).manifest.probes[1]
    assert (record.name, record.level) == ("two", "unavailable")
    assert (record.reason, record.remedy) == ("because", "do so")


def test_a_reused_pid_is_noticed_before_anything_is_made(session, proc, calls):
    # Given a target that was chosen, and ended, and another took its PID
    proc.add(100, ["/bin/sh"], program="/bin/dash", comm="sh", start_ticks=9_000)

    # When
    with pytest.raises(TargetReplaced, match="100"):
        session.start()

    # Then
    assert calls == []
    assert not session.directory.exists()


def test_a_target_that_ended_before_the_start_is_noticed(session, proc, calls):
    proc.add(100, [], state="Z")

    with pytest.raises(TargetExited, match="100"):
        session.start()

    assert calls == []
    assert not session.directory.exists()


def test_a_place_that_is_taken_starts_no_probe(session, calls):
    session.directory.mkdir()
    (session.directory / "mine").write_text("")

    with pytest.raises(OutputExists):
        session.start()

    assert calls == []


def test_a_target_that_ends_ends_the_recording(session, proc):
    session.start()
    proc.add(100, [], state="Z")

    reason = run(session, seconds=None)
    problem = session.finish(reason)

    assert reason is StopReason.TARGET_EXITED
    assert problem is not None
    assert problem.exit_code == 3
    assert str(session.directory) in problem.remedy
    assert open_capture(session.directory).manifest.state == "partial"


def test_a_pid_that_is_reused_meanwhile_ends_the_recording(session, proc):
    session.start()
    proc.add(100, ["/bin/sh"], program="/bin/dash", start_ticks=9_000)

    assert run(session, seconds=None) is StopReason.TARGET_EXITED
    session.finish(StopReason.TARGET_EXITED)


def test_the_user_ends_it(session):
    session.start()
    session.stop_requested.set()

    assert run(session, seconds=None) is StopReason.USER
    assert session.finish(StopReason.USER) is None
    assert not open_capture(session.directory).is_partial


def test_a_process_that_appears_gets_a_track_and_is_given_to_every_probe(session, proc, calls):
    session.start()
    proc.add(110, ["VLLM::EngineCore"], parent=100)
    calls.clear()

    session.run(None, session.stop_requested.set)
    session.finish(StopReason.USER)

    assert calls[:2] == ["add 110 to one", "add 110 to two"]
    capture = open_capture(session.directory)
    tracks = {row["pid"]: row for row in capture.table("tracks").to_pylist()}
    assert tracks[110]["parent"] == tracks[100]["track"]
    assert tracks[110]["role"] == "engine_core"


def test_a_dead_keeper_makes_the_capture_partial(session):
    session.start()
    os.kill(session._keeper.pid, signal.SIGKILL)
    session._keeper._thread.join(20)

    problem = session.finish(StopReason.DURATION)

    assert problem is not None
    assert (problem.slug, problem.exit_code) == ("keeper-gone", 1)
    assert open_capture(session.directory).manifest.state == "partial"


def test_a_disk_that_refuses_ends_the_recording(session, monkeypatch):
    # Given
    session.start()

    def refuse(_stream, _batch):
        raise OSError(28, "")

    monkeypatch.setattr("collectors.stream.StreamWriter.write", refuse)

    # When
    reason = run(session, seconds=None)
    monkeypatch.undo()
    problem = session.finish(reason)

    # Then
    assert reason is StopReason.OUTPUT
    assert problem is not None
    assert (problem.slug, problem.exit_code) == ("output-full", 1)
    capture = open_capture(session.directory)
    assert capture.manifest.state == "partial"
    assert "output-full" in capture.table("gaps").to_pylist()[0]["reason"]


def test_nothing_of_a_finished_session_runs_on(session):
    session.start()
    keeper_pid = session._keeper.pid

    session.finish(StopReason.USER)

    assert is_gone(keeper_pid)


def test_a_real_program_from_its_start_to_its_end(program: Program, calls, tmp_path):
    session = Session(find_target(program.pid), tmp_path / "c", [QuietProbe("one", calls)])
    session.start()
    program.end()

    assert run(session, seconds=None) is StopReason.TARGET_EXITED
    problem = session.finish(StopReason.TARGET_EXITED)
    assert isinstance(problem, TargetExited)
