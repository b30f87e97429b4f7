"""What cannot be recorded ends in a sentence, a remedy and an exit code; the target lives."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from collectors.capture import open_capture
from tests.commands import recorded_ns, run_cputax, said_error, start_cputax
from tests.programs import TARGETS, Program, state
from tests.waiting import wait_until

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount or change user")


def assert_unharmed(pid: int) -> None:
    """The target runs or sleeps, is not stopped, and nobody traces it."""
    letter, tracer_pid = state(pid)
    assert letter in "RSD"
    assert tracer_pid == 0


def free_pid() -> int:
    """Return a PID that nobody has."""
    ended = subprocess.Popen(["/bin/true"])
    ended.wait()
    return ended.pid


def as_nobody(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run cputax as the user nobody, who may traverse neither root's home nor the checkout."""
    return subprocess.run(
        [sys.executable, str(TARGETS / "as_nobody.py"), *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )


def test_no_such_pid(tmp_path):
    pid = free_pid()

    ended = run_cputax("attach", pid, "-o", tmp_path / "out")

    error = said_error(ended.stderr)
    assert ended.returncode == 3
    assert error["slug"] == "target-not-found"
    assert str(pid) in error["message"]
    assert not (tmp_path / "out").exists()


def test_a_program_that_is_not_python(tmp_path):
    # Given a C program
    sleeper = subprocess.Popen(["/bin/sleep", "600"])
    try:
        # When
        ended = run_cputax("attach", sleeper.pid, "-o", tmp_path / "out")

        # Then
        error = said_error(ended.stderr)
        assert ended.returncode == 3
        assert error["slug"] == "target-not-python"
        assert str(sleeper.pid) in error["message"]
        assert "sleep" in error["message"]
        assert not (tmp_path / "out").exists()
        assert_unharmed(sleeper.pid)
    finally:
        sleeper.kill()
        sleeper.wait()


@needs_root
def test_another_users_python(program: Program, tmp_path):
    ended = as_nobody("attach", program.pid, "-o", tmp_path / "out")

    error = said_error(ended.stderr)
    assert ended.returncode == 4
    assert error["slug"] == "target-forbidden"
    assert str(program.pid) in error["message"]
    assert "SYS_PTRACE" in error["remedy"]
    assert_unharmed(program.pid)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every process")
def test_a_process_of_root(tmp_path):
    ended = run_cputax("attach", 1, "-o", tmp_path / "out")

    error = said_error(ended.stderr)
    assert ended.returncode == 4
    assert error["slug"] == "target-forbidden"
    assert "sudo" in error["remedy"]


def test_an_output_that_exists(program: Program, tmp_path):
    # Given a directory with something in it
    (tmp_path / "mine.txt").write_text("precious")

    # When
    ended = run_cputax("attach", program.pid, "-o", tmp_path)

    # Then
    error = said_error(ended.stderr)
    assert ended.returncode == 2
    assert error["slug"] == "output-exists"
    assert str(tmp_path) in error["message"]
    assert [each.name for each in tmp_path.iterdir()] == ["mine.txt"]
    assert_unharmed(program.pid)


def test_an_output_that_is_a_file(program: Program, tmp_path):
    (tmp_path / "out").write_text("precious")

    ended = run_cputax("attach", program.pid, "-o", tmp_path / "out")

    assert ended.returncode == 2
    assert said_error(ended.stderr)["slug"] == "output-exists"
    assert (tmp_path / "out").read_text() == "precious"


def test_an_output_where_nothing_can_be_made(program: Program):
    # Given a directory that even root cannot write to
    ended = run_cputax("attach", program.pid, "-o", "/proc/capture")

    error = said_error(ended.stderr)
    assert ended.returncode == 4
    assert error["slug"] == "output-not-writable"
    assert "/proc/capture" in error["message"]
    assert "-o" in error["remedy"]
    assert_unharmed(program.pid)


@needs_root
def test_an_output_on_a_read_only_file_system(program: Program, tmp_path):
    mount = f'mount -t tmpfs -o ro tmpfs {tmp_path} && exec "$@"'

    ended = run_cputax(
        "attach", program.pid, "-o", tmp_path / "out",
        wrapper=["unshare", "--mount", "sh", "-c", mount, "sh"],
    )  # fmt: skip

    error = said_error(ended.stderr)
    assert ended.returncode == 4
    assert error["slug"] == "output-not-writable"
    assert "EROFS" in error["message"]
    assert_unharmed(program.pid)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_in_a_directory_that_is_not_ours(program: Program, tmp_path):
    tmp_path.chmod(0o500)

    ended = run_cputax("attach", program.pid, "-o", tmp_path / "out")

    assert ended.returncode == 4
    assert "EACCES" in said_error(ended.stderr)["message"]


def record_on_a_small_disk(
    program: Program, place: Path, size_kib: int, *options: object
) -> subprocess.CompletedProcess[str]:
    """Record onto a tmpfs of ``size_kib`` in a mount namespace; ``place/out`` is copied back."""
    disk = place / "disk"
    disk.mkdir()
    script = (
        f"mount -t tmpfs -o size={size_kib}k tmpfs {disk} || exit 99\n"
        f'"$@"\ncode=$?\n[ ! -e {disk}/out ] || cp -a {disk}/out {place}/out\nexit $code'
    )
    return run_cputax(
        "attach", program.pid, "-q", "-d", "60s", "-o", disk / "out", *options,
        wrapper=["unshare", "--mount", "sh", "-c", script, "sh"],
    )  # fmt: skip


@needs_root
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_no_space_left_while_recording(program: Program, tmp_path):
    # Given a disk with room for the reserve and a little more, and a probe that writes much
    # When
    ended = record_on_a_small_disk(program, tmp_path, 1_400, "--gil-rate", 10_000)

    # Then it says so
    error = said_error(ended.stderr)
    assert ended.returncode == 1
    assert error["slug"] == "output-full"
    assert "out" in error["message"]
    assert_unharmed(program.pid)
    # and what fitted is kept, with its loss
    capture = open_capture(tmp_path / "out")
    assert capture.is_partial
    assert capture.table("gil").num_rows > 0
    lost = [row for row in capture.table("gaps").to_pylist() if "output-full" in row["reason"]]
    assert lost
    assert all(row["lost_count"] > 0 and row["end_ns"] > row["start_ns"] for row in lost)


@needs_root
def test_no_space_left_at_the_start(program: Program, tmp_path):
    ended = record_on_a_small_disk(program, tmp_path, 200)

    assert ended.returncode == 1
    assert said_error(ended.stderr)["slug"] == "output-full"
    assert not list(tmp_path.glob("out/*")), "nothing half-made is left behind"
    assert_unharmed(program.pid)


def test_the_target_exits_while_it_is_recorded(program: Program, tmp_path):
    # Given a recording that has begun
    recording = start_cputax("attach", program.pid, "-q", "-d", "60s", "-o", tmp_path / "out")
    wait_until(lambda: recorded_ns(tmp_path / "out") > 0, "the recording begins")

    # When
    program.end()

    # Then it ends by itself, says so, and keeps the capture
    stderr = recording.communicate(timeout=30)[1]
    error = said_error(stderr)
    assert recording.returncode == 3
    assert error["slug"] == "target-exited"
    assert str(program.hello["pid"]) in error["message"]
    assert str(tmp_path / "out") in error["remedy"]
    capture = open_capture(tmp_path / "out")
    assert capture.manifest.state == "partial"
    assert capture.manifest.stop_reason == "target-exited"
    assert capture.table("thread_counters").num_rows > 0
