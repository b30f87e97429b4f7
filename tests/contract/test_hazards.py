"""What happens to a recording whose parts are killed or frozen, and to its target: nothing."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from collectors.capture import Capture, open_capture
from tests.commands import recorded_ns, said_error, start_cputax
from tests.programs import Program, is_gone, state
from tests.waiting import wait_until


def below(pid: int) -> list[int]:
    """Return the PIDs of all descendants."""
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def named(pids: list[int], name: str) -> list[int]:
    """Return those that live and run the program ``name``."""
    return [
        pid for pid in pids
        if not is_gone(pid) and Path(f"/proc/{pid}/comm").read_text().strip() == name
    ]  # fmt: skip


# Who can read stacks: the name of its process, and of its probe.
READERS = {"memory": ("cputax-stacks", "stacks"), "py-spy": ("py-spy", "pyspy")}


class Recording:
    """``cputax attach`` on a program, at work."""

    def __init__(self, program: Program, directory: Path, reader: str) -> None:
        self.program, self.directory = program, directory
        self._process_name, self.probe = READERS[reader]
        self.process = start_cputax(
            "attach", program.pid, "-q", "-d", "10m", "--rate", 20, "--stacks", reader,
            "-o", directory,
        )  # fmt: skip
        self.pid = self.process.pid
        wait_until(lambda: bool(self.recorders()), "stacks are read")
        wait_until(lambda: recorded_ns(directory) > 500_000_000, "half a second is on disk")

    def recorders(self) -> list[int]:
        return named(below(self.pid), self._process_name)

    @property
    def keeper(self) -> int:
        (keeper,) = psutil.Process(self.pid).children()
        return keeper.pid

    def end(self) -> tuple[int, str, Capture]:
        """Ctrl-C; return the exit code, what it said, and the capture."""
        self.process.send_signal(signal.SIGINT)
        stderr = self.process.communicate(timeout=60)[1]
        return self.process.returncode, stderr, open_capture(self.directory)

    def assert_target_is_unharmed(self) -> None:
        letter, tracer_pid = state(self.program.pid)
        assert letter in "RSD"
        assert tracer_pid == 0


@pytest.fixture(params=READERS)
def recording(
    program: Program, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Recording]:
    running = Recording(program, tmp_path / "out", request.param)
    yield running
    if running.process.poll() is None:
        running.process.send_signal(signal.SIGCONT)
        running.process.kill()
        running.process.communicate()


def stack_gaps(capture: Capture) -> list[dict[str, object]]:
    """Return the readers' gaps but for those that a busy machine makes at any time."""
    return [
        gap
        for gap in capture.table("gaps").to_pylist()
        if gap["probe"] in ("stacks", "pyspy") and not gap["reason"].endswith("got no CPU")
    ]


def test_nothing_happens(recording):
    exit_code, stderr, capture = recording.end()

    assert (exit_code, stderr) == (0, "")
    assert capture.manifest.state == "complete"
    assert capture.manifest.stop_reason == "user"
    assert capture.table("samples").num_rows > 0
    assert capture.table("gil").num_rows > 0
    assert capture.table("thread_counters").num_rows > 0
    names = {track["name"] for track in capture.table("tracks").to_pylist()}
    assert {"busy", "idle"} <= names
    recording.assert_target_is_unharmed()


def test_a_killed_sampler_is_a_gap_and_a_new_one(program, tmp_path):
    recording = Recording(program, tmp_path / "out", "memory")

    # When
    (first,) = recording.recorders()
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: recording.recorders() not in ([], [first]), "a new sampler")
    killed_ns = recorded_ns(recording.directory)
    wait_until(lambda: recorded_ns(recording.directory) > killed_ns + 1e9, "it is at work")

    # Then
    exit_code, stderr, capture = recording.end()
    assert (exit_code, stderr) == (0, "")
    (lost,) = stack_gaps(capture)
    assert "restarted" in lost["reason"]
    assert lost["end_ns"] > lost["start_ns"]
    record = next(record for record in capture.manifest.probes if record.name == "stacks")
    assert record.detail["restart_count"] == 1
    times_ns = capture.table("samples")["time_ns"].to_pylist()
    assert min(times_ns) < lost["start_ns"]
    assert max(times_ns) >= lost["end_ns"]
    recording.assert_target_is_unharmed()


def test_a_killed_pyspy_is_a_gap_and_a_new_one(program, tmp_path):
    recording = Recording(program, tmp_path / "out", "py-spy")

    # When
    (first,) = recording.recorders()
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: recording.recorders() not in ([], [first]), "a new py-spy")

    # Then
    exit_code, stderr, capture = recording.end()
    assert (exit_code, stderr) == (0, "")
    lost, *rest = stack_gaps(capture)
    assert "-9" in lost["reason"]
    assert lost["end_ns"] > lost["start_ns"]
    assert [gap["start_ns"] for gap in rest] == [lost["end_ns"]], "to when the new one began"
    record = next(record for record in capture.manifest.probes if record.name == "pyspy")
    assert record.level == "degraded"
    assert record.detail["processes"][str(recording.program.pid)]["restart_count"] == 1
    assert capture.table("samples").num_rows > 0
    recording.assert_target_is_unharmed()


def test_a_killed_keeper_takes_its_recorders_along_and_is_told(recording):
    # When
    recorders = recording.recorders()
    keeper = recording.keeper
    os.kill(keeper, signal.SIGKILL)
    wait_until(lambda: all(map(is_gone, [keeper, *recorders])), "no recorder outlives it")

    # Then the capture is kept, and said to be partial
    exit_code, stderr, capture = recording.end()
    error = said_error(stderr)
    assert exit_code == 1
    assert error["slug"] == "keeper-gone"
    assert capture.manifest.state == "partial"
    assert capture.table("thread_counters").num_rows > 0
    gaps = {gap["probe"]: gap for gap in capture.table("gaps").to_pylist()}
    assert gaps[recording.probe]["end_ns"] > gaps[recording.probe]["start_ns"]
    levels = {record.name: record.level for record in capture.manifest.probes}
    assert levels[recording.probe] == levels["gil"] == "degraded"
    recording.assert_target_is_unharmed()


def test_no_recorder_outlives_a_killed_cputax_by_more_than_two_seconds(recording):
    # Given
    children = below(recording.pid)

    # When
    recording.process.kill()
    recording.process.wait()

    # Then
    wait_until(lambda: all(map(is_gone, children)), "no child is left", within_s=2.0)
    capture = open_capture(recording.directory)
    assert capture.is_recovered
    assert capture.table("thread_counters").num_rows > 0
    recording.assert_target_is_unharmed()


def test_a_frozen_cputax_loses_its_recorders_and_starts_them_again(recording):
    # When it is frozen for longer than the keeper bears its silence
    before = recording.recorders()
    recording.process.send_signal(signal.SIGSTOP)
    wait_until(lambda: all(map(is_gone, before)), "the recorders end")
    recording.assert_target_is_unharmed()

    # and goes on
    recording.process.send_signal(signal.SIGCONT)
    wait_until(lambda: bool(recording.recorders()), "a new reader")

    # Then
    exit_code, stderr, capture = recording.end()
    assert (exit_code, stderr) == (0, "")
    (gap,) = stack_gaps(capture)
    assert gap["end_ns"] > gap["start_ns"]
    samples = capture.table("samples").to_pylist()
    assert any(row["time_ns"] < gap["start_ns"] for row in samples)
    recording.assert_target_is_unharmed()


def test_a_second_ctrl_c_changes_nothing(recording):
    recording.process.send_signal(signal.SIGINT)

    exit_code, stderr, capture = recording.end()

    assert (exit_code, stderr) == (0, "")
    assert capture.manifest.state == "complete"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_polite_signals_keep_the_capture_too(recording, number):
    recording.process.send_signal(number)
    recording.process.communicate(timeout=60)

    assert recording.process.returncode == 0
    assert not open_capture(recording.directory).is_partial


def test_a_target_that_dies_by_a_signal_is_as_one_that_exits(recording):
    recording.program.process.kill()
    try:
        stderr = recording.process.communicate(timeout=60)[1]
    except subprocess.TimeoutExpired:
        pytest.fail("the recording goes on without its target")

    assert recording.process.returncode == 3
    assert said_error(stderr)["slug"] == "target-exited"
    assert open_capture(recording.directory).manifest.state == "partial"
