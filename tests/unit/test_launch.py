"""``cputax attach -- COMMAND`` starts it, waits until it serves, records it and ends it."""

from __future__ import annotations

import json
import sys

import pytest

from collectors.capture import open_capture
from collectors.errors import TargetExited
from profiler.launch import CommandNotFound, launch
from profiler.render.console import console
from tests.commands import run_cputax, said_error
from tests.programs import TARGETS, is_gone

# Writes who it is to FILE and waits to be ended.
PROGRAM = """
import json, os, signal, sys, subprocess
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
with open(sys.argv[1] + ".tmp", "w") as file:
    json.dump([os.getpid(), child.pid], file)
os.rename(sys.argv[1] + ".tmp", sys.argv[1])
signal.pause()
"""


WAITING = "import signal; signal.pause()"


@pytest.fixture
def out():
    return console(to_stderr=True)


def test_a_python_program_is_started_recorded_and_ended_with_its_children(tmp_path):
    # When
    ended = run_cputax(
        "attach", "-q", "-d", "1s", "-o", tmp_path / "out", "--", sys.executable, "-c", PROGRAM,
        tmp_path / "pids",
    )  # fmt: skip

    # Then
    assert (ended.returncode, ended.stderr) == (0, "")
    pid, child_pid = json.loads((tmp_path / "pids").read_text())
    assert is_gone(pid)
    assert is_gone(child_pid)
    capture = open_capture(tmp_path / "out")
    assert capture.manifest.target.root_pid == pid
    assert not capture.is_partial


def test_a_server_is_recorded_once_it_answers(tmp_path, monkeypatch, out):
    # Given a program that is a server from outside
    link = tmp_path / "vllm"
    link.symlink_to(TARGETS / "metrics_server.py")
    with (tmp_path / "hello").open("w") as hello:
        monkeypatch.setenv("HELLO_FD", "1")
        monkeypatch.setattr("profiler.launch.subprocess.Popen", popen_writing_to(hello))

        # When
        with launch([sys.executable, str(link), "serve", "tiny"], out) as target:
            # Then it answers
            assert target.kind == "vllm"
            assert target.model == "tiny"
            assert not is_gone(target.root_pid)
        assert is_gone(target.root_pid)


def popen_writing_to(hello):
    """A Popen whose child says hello to a file, and whose stdin stays open."""
    import subprocess

    popen = subprocess.Popen
    return lambda command, **options: popen(command, stdin=subprocess.PIPE, stdout=hello, **options)


def test_a_command_that_is_not_there(out):
    with (
        pytest.raises(CommandNotFound, match="no-such-program") as refused,
        launch(["/no-such-program"], out),
    ):
        pass

    assert refused.value.exit_code == 2


def test_a_command_that_may_not_be_run(tmp_path, out):
    (tmp_path / "x").write_text("")

    with pytest.raises(CommandNotFound), launch([str(tmp_path / "x")], out):
        pass


def test_a_command_that_ends_before_it_is_ready(out):
    with pytest.raises(TargetExited, match="exit code 7"), launch(["/bin/sh", "-c", "exit 7"], out):
        pass


def test_the_command_line_says_so(tmp_path):
    ended = run_cputax("attach", "-o", tmp_path / "out", "--", "/bin/sh", "-c", "exit 7")

    assert ended.returncode == 3
    assert said_error(ended.stderr)["slug"] == "target-exited"
    assert not (tmp_path / "out").exists()


def test_what_was_started_is_ended_when_the_recording_fails(out):
    with pytest.raises(RuntimeError), launch([sys.executable, "-c", WAITING], out) as target:
        raise RuntimeError

    assert is_gone(target.root_pid)
