"""Who lets the server run first: the session's own threads. Its samplers look when they are due."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from profiler.recording import NICE
from tests.commands import recorded_ns, start_cputax
from tests.waiting import wait_until


@pytest.fixture
def session_pid(program, tmp_path) -> Iterator[int]:
    running = start_cputax("attach", program.pid, "-q", "-d", "10m", "-o", tmp_path / "out")
    wait_until(lambda: recorded_ns(tmp_path / "out") > 0, "rows are on disk")
    yield running.pid
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=60)


def nices(pid: int) -> set[int]:
    """Return the nice values of a process's threads."""
    tids = map(int, os.listdir(f"/proc/{pid}/task"))
    return {os.getpriority(os.PRIO_PROCESS, tid) for tid in tids}


def test_the_session_steps_back_and_its_samplers_do_not(session_pid):
    usual = os.getpriority(os.PRIO_PROCESS, 0)

    assert nices(session_pid) == {max(usual, NICE)}
    below = psutil.Process(session_pid).children(recursive=True)
    samplers = {Path(f"/proc/{one.pid}/comm").read_text().strip(): one.pid for one in below}
    assert nices(samplers["cputax-gil"]) == nices(samplers["cputax-stacks"]) == {usual}
