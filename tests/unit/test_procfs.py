"""The door to /proc: odd names, gone processes, and a real process read for real."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from probes.procfs import NS_PER_TICK, Procfs
from tests.fakeproc import FakeProc

NOBODYS_PID = (1 << 22) + 1  # above PID_MAX_LIMIT


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    return FakeProc(tmp_path / "proc")


@pytest.mark.parametrize("comm", ["python", "a b", "x) R 1 (y", "((", "", "tab\tnew\nline"])
def test_a_name_may_hold_any_character(proc, comm):
    proc.add(7, ["x"], comm=comm, parent=3, start_ticks=77, state="D")

    stat = proc.procfs.stat(7)

    assert (stat.comm, stat.state, stat.parent_pid) == (comm, "D", 3)
    assert (stat.start_ticks, stat.last_cpu) == (77, 3)


def test_ourselves_read_for_real():
    procfs, pid = Procfs(), os.getpid()

    stat, status = procfs.stat(pid), procfs.status(pid)

    assert stat.parent_pid == os.getppid()
    assert stat.state == "R"
    assert status.inner_pids[0] == pid
    assert threading.get_native_id() in procfs.tids(pid)
    assert pid in procfs.children(os.getppid())
    assert pid in procfs.pids()
    run_ns, wait_ns, timeslice_count = procfs.schedstat(pid, pid)
    assert run_ns > 0
    assert wait_ns >= 0
    assert timeslice_count > 0


@pytest.mark.parametrize(
    "read",
    [
        lambda procfs: procfs.stat(NOBODYS_PID),
        lambda procfs: procfs.stat(os.getpid(), NOBODYS_PID),
        lambda procfs: procfs.status(NOBODYS_PID),
        lambda procfs: procfs.schedstat(NOBODYS_PID, NOBODYS_PID),
        lambda procfs: procfs.tids(NOBODYS_PID),
        lambda procfs: procfs.cmdline(NOBODYS_PID),
    ],
)
def test_what_is_gone_is_a_process_lookup_error(read):
    with pytest.raises(ProcessLookupError):
        read(Procfs())


def test_a_process_that_is_gone_has_no_children_and_no_namespace():
    assert Procfs().children(NOBODYS_PID) == []
    assert Procfs().pid_namespace(NOBODYS_PID) is None
    assert Procfs().network_namespace(NOBODYS_PID) is None


def test_children_are_found_without_the_kernels_list(proc):
    # Given a kernel without CONFIG_PROC_CHILDREN
    proc.add(10, ["a"])
    proc.add(12, ["b"], parent=10)
    proc.add(11, ["c"], parent=10)
    for path in proc.root.rglob("children"):
        path.unlink()

    assert proc.procfs.children(10) == [11, 12]


def test_a_title_comes_as_one_part_without_its_padding(proc):
    proc.add(10, [])
    (proc.root / "10" / "cmdline").write_bytes(b"VLLM::EngineCore\0\0\0\0   \0")

    assert proc.procfs.cmdline(10) == ["VLLM::EngineCore"]


def test_a_command_line_that_is_not_utf8_is_still_read(proc):
    proc.add(10, [])
    (proc.root / "10" / "cmdline").write_bytes(b"a\xff\0b\0")

    assert proc.procfs.cmdline(10) == ["a�", "b"]


def test_idle_time_is_what_nobody_used(proc):
    proc.cpu_times(busy=50, niced=20, idle=200, iowait=30)

    idle_ns, all_ns = proc.procfs.idle_ns()

    assert idle_ns == 230 * NS_PER_TICK
    assert all_ns == 300 * NS_PER_TICK
