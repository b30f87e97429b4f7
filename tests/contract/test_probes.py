"""What every probe promises, on a real process: it says what it can do, records, and accounts."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from collectors.capture import open_capture
from collectors.errors import CputaxError, ProbeUnavailable
from probes import pyspy
from probes.base import Capability, Level
from probes.procfs import Procfs
from probes.target import Process, Target, find_target
from profiler.probe_set import PROBE_NAMES, Rates, StackReading, make_probes
from profiler.session import Session, StopReason
from tests.fakeproc import PYTHON, FakeProc
from tests.programs import TARGETS, Program, start_program
from tests.waiting import wait_until

TABLE_OF = {
    "threads": "thread_counters", "stacks": "samples", "gil": "gil", "server_metrics": "counters",
}  # fmt: skip
RATES_HZ = {"threads": 20.0, "stacks": 50.0, "gil": 500.0, "server_metrics": 1.0}


def probe_named(name: str, target: Target, reading: StackReading = StackReading.AUTO):
    (probe,) = make_probes(
        target, [name], Rates(stack_hz=50, gil_hz=500, is_governed=False), stack_reading=reading
    )
    return probe


def record_a_while(session: Session) -> None:
    """Run until every probe has had its turn: two seconds of rows."""
    session.start()
    assert session.run(2.0, lambda: None) is StopReason.DURATION


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Session]]:
    """One recording of a small server with all probes."""
    link = tmp_path_factory.mktemp("bin") / "vllm"
    link.symlink_to(TARGETS / "metrics_server.py")
    server = start_program(link, "serve", "tiny")
    try:
        directory = tmp_path_factory.mktemp("all") / "c"
        target = find_target(server.pid)
        probes = make_probes(target, rates=Rates(stack_hz=50, gil_hz=500))
        session = Session(target, directory, probes)
        record_a_while(session)
        assert session.finish(StopReason.DURATION) is None
        yield directory, session
    finally:
        server.end()


def test_all_probes_are_under_this_contract():
    probes = make_probes(find_target(os.getpid()))
    assert set(PROBE_NAMES) == TABLE_OF.keys() == {probe.name for probe in probes}


@pytest.mark.parametrize("name", PROBE_NAMES)
def test_a_probe_that_works_says_only_that(name, server):
    target = find_target(server.pid)
    capability = probe_named(name, target).check(target)

    assert capability.probe == name
    assert capability.level is Level.WORKS
    assert capability.reason is capability.remedy is None


@pytest.mark.parametrize("name", PROBE_NAMES)
def test_a_probe_leaves_rows_in_its_table(name, recorded):
    directory, session = recorded
    capture = open_capture(directory)

    rows = capture.table(TABLE_OF[name]).to_pylist()

    assert rows
    tracks = {row["track"]: row for row in capture.table("tracks").to_pylist()}
    assert all(tracks[row["track"]]["pid"] == session.target.root_pid for row in rows)
    assert any(capture.start_ns <= row["time_ns"] < capture.end_ns for row in rows)


@pytest.mark.parametrize("name", PROBE_NAMES)
def test_a_probe_accounts_for_what_it_did(name, recorded):
    record = next(one for one in open_capture(recorded[0]).manifest.probes if one.name == name)

    assert record.level == "works"
    assert record.reason is record.remedy is None
    assert record.requested_hz == RATES_HZ[name]
    assert record.achieved_hz is not None
    assert record.achieved_hz > 0
    assert record.largest_gap_ns is not None


def test_a_whole_recording_says_so(recorded):
    capture = open_capture(recorded[0])

    assert capture.manifest.state == "complete"
    assert not capture.is_partial
    assert capture.manifest.target.kind == "vllm"
    assert capture.manifest.target.model == "tiny"
    assert [one.role for one in capture.manifest.target.processes] == ["api_server"]
    assert len(capture.manifest.anchors) == 2
    assert capture.manifest.overhead["window_seconds"] >= 2.0
    assert capture.manifest.overhead["recorder_cpu_seconds"] > 0


class Foreign:
    """A probe of somebody else that fails in the way it is told."""

    name = "foreign"

    def __init__(self, *, at_start: Exception | None = None, at_stop: Exception | None = None):
        self.at_start, self.at_stop = at_start, at_stop

    def check(self, target: Target):
        return Capability(self.name, Level.WORKS)

    def start(self, context) -> None:
        if self.at_start:
            raise self.at_start

    def add(self, process: Process) -> None:
        raise AssertionError("nothing appears in this test")

    def stop(self):
        assert self.at_stop
        raise self.at_stop


@pytest.mark.parametrize(
    ("foreign", "said"),
    [
        (Foreign(at_start=OSError(errno.EMFILE, "")), os.strerror(errno.EMFILE)),
        (Foreign(at_start=CputaxError("it broke", "mend it")), "it broke"),
        (Foreign(at_stop=OSError(errno.EIO, "")), os.strerror(errno.EIO)),
        (Foreign(at_stop=CputaxError("it broke late", "mend it")), "it broke late"),
    ],
)
def test_a_probe_that_fails_does_not_take_the_others_down(
    program: Program, tmp_path, foreign, said
):
    # Given it beside one that works
    target = find_target(program.pid)
    threads = probe_named("threads", target)
    session = Session(target, tmp_path / "c", [foreign, threads])

    # When
    session.start()
    session.run(0.1, lambda: None)
    session.finish(StopReason.DURATION)

    # Then
    capture = open_capture(tmp_path / "c")
    assert capture.table("thread_counters").num_rows > 0
    records = {one.name: one for one in capture.manifest.probes}
    assert records["threads"].level == "works"
    assert records["foreign"].level == "unavailable"
    assert records["foreign"].reason == said
    assert records["foreign"].remedy
    gaps = [gap for gap in capture.table("gaps").to_pylist() if gap["probe"] == "foreign"]
    assert [gap["reason"] for gap in gaps] == [said]


def test_a_program_without_metrics_is_told_how_to_name_them(program: Program):
    target = find_target(program.pid)
    capability = probe_named("server_metrics", target).check(target)

    assert capability.level is Level.NOT_APPLICABLE
    assert "no inference server" in (capability.reason or "")
    assert "--metrics-url" in (capability.remedy or "")


def test_a_program_whose_metrics_were_named_is_asked(program: Program, server: Program):
    url = f"http://127.0.0.1:{server.hello['port']}"
    target = find_target(program.pid)
    (probe,) = make_probes(target, ["server_metrics"], metrics_url=url)

    assert probe.check(target).level is Level.WORKS


def test_without_the_pyspy_program_stacks_are_unavailable(program: Program, monkeypatch):
    monkeypatch.setattr(pyspy, "find_pyspy", lambda: None)

    target = find_target(program.pid)
    capability = probe_named("stacks", target, StackReading.PYSPY).check(target)

    assert capability.level is Level.UNAVAILABLE
    assert "pip install py-spy" in (capability.remedy or "")


def test_without_schedstat_thread_counters_are_unavailable(tmp_path):
    proc = FakeProc(tmp_path / "proc")
    target = find_target(proc.add(300, [PYTHON, "x.py"]), proc.procfs)
    (proc.root / "300" / "task" / "300" / "schedstat").unlink()

    capability = probe_named("threads", target).check(target)

    assert capability.level is Level.UNAVAILABLE
    assert "CONFIG_SCHED_INFO" in (capability.reason or "")
    assert capability.remedy


def test_where_no_probe_works_nothing_is_begun(program: Program, tmp_path):
    target = find_target(program.pid)
    session = Session(target, tmp_path / "c", [probe_named("server_metrics", target)])

    with pytest.raises(ProbeUnavailable, match="no inference server") as refused:
        session.start()

    assert f"cputax doctor {program.pid}" in refused.value.remedy
    assert not (tmp_path / "c").exists()


def test_a_process_that_appears_is_taken_up(program: Program, tmp_path):
    # Given a recording of a program
    sleeper = shutil.which("sleep")
    target = find_target(os.getpid())
    session = Session(target, tmp_path / "c", [probe_named("threads", target)])
    session.start()
    known = set(target.processes)

    # When it starts another one
    child = subprocess.Popen([str(sleeper), "60"])
    try:
        wait_until(lambda: Procfs().stat(child.pid).comm == "sleep", "it runs")
        on_disk = tmp_path / "c"

        def stop_once_recorded() -> None:
            capture = open_capture(on_disk)
            tracks = capture.table("tracks").to_pylist()
            numbers = {row["track"] for row in tracks if row["tid"] == child.pid}
            if numbers & set(capture.table("thread_counters")["track"].to_pylist()):
                session.stop_requested.set()

        reason = session.run(30.0, stop_once_recorded)
    finally:
        child.kill()
        child.wait()
    session.finish(reason)

    # Then it is in the tree, below its parent
    assert reason is StopReason.USER, "it had rows"
    assert child.pid not in known
    capture = open_capture(tmp_path / "c")
    tracks = {row["pid"]: row for row in capture.table("tracks").to_pylist() if not row["tid"]}
    assert tracks[child.pid]["parent"] == tracks[os.getpid()]["track"]
    assert child.pid in [process.pid for process in capture.manifest.target.processes]
