"""A target in another PID namespace, for real: found by its host PID, threads told apart."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from collectors.capture import open_capture
from probes.procfs import Procfs
from probes.target import find_target
from tests.commands import run_cputax
from tests.programs import TARGETS, Program, start_program

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a PID namespace")


@pytest.fixture
def contained() -> Iterator[Program]:
    """Yield a plain Python program that believes to be PID 1."""
    wrapper = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    running = start_program(TARGETS / "python_threads.py", wrapper=wrapper)
    yield running
    running.end()


def test_it_is_found_by_its_host_pid_and_by_its_wrapper(contained):
    target = find_target(contained.pid)

    assert contained.hello["pid"] == 1
    assert contained.pid != 1
    assert [process.pid for process in target.python_processes] == [contained.pid]
    above = find_target(contained.process.pid)
    assert [process.pid for process in above.python_processes] == [contained.pid]
    assert Procfs().pid_namespace(contained.pid) != Procfs().pid_namespace()


def test_stacks_counters_and_gil_land_on_the_same_threads(contained, tmp_path):
    # Given what the threads are called inside
    inner_tids = contained.hello["tids"]

    # When
    ended = run_cputax("attach", contained.pid, "-q", "-d", "2s", "-o", tmp_path / "out")

    # Then each has one track, with both of its ids
    assert ended.returncode == 0, ended.stderr
    capture = open_capture(tmp_path / "out")
    tracks = [row for row in capture.table("tracks").to_pylist() if row["kind"] == "thread"]
    by_inner = {row["inner_tid"]: row for row in tracks}
    assert by_inner.keys() == set(inner_tids.values())
    assert {row["tid"] for row in tracks} == set(Procfs().tids(contained.pid))
    # named by Python
    busy, idle = by_inner[inner_tids["busy"]], by_inner[inner_tids["idle"]]
    assert (busy["name"], idle["name"]) == ("busy", "idle")
    # and the stacks stand where the work is
    frames = capture.table("frames")["function"].to_pylist()
    leaves = capture.table("stacks")["frame"].to_pylist()
    seen = {
        track["track"]: {
            frames[leaves[row["stack"]]]
            for row in capture.table("samples").to_pylist()
            if row["track"] == track["track"]
        }
        for track in (busy, idle)
    }
    assert "compute_a_while" in seen[busy["track"]]
    assert "compute_a_while" not in seen[idle["track"]]
    ran_ns = {
        track["track"]: max(
            row["run_ns"]
            for row in capture.table("thread_counters").to_pylist()
            if row["track"] == track["track"]
        )
        for track in (busy, idle)
    }
    assert ran_ns[busy["track"]] > ran_ns[idle["track"]]
    holders = set(capture.table("gil")["holder"].to_pylist()) - {None}
    assert busy["track"] in holders
