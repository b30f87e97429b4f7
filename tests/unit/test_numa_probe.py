"""Where pages lie: which mappings count, a fair draw, and processes that end or refuse."""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors import host_counters as names
from collectors.capture import open_capture
from probes.base import Capability, Context, Level
from probes.numa.mappings import Mappings, parse_maps
from probes.numa.pages import find_nodes
from probes.numa.probe import CALL_LIMIT, CALL_PAGES, ONE_NODE, NumaProbe
from probes.target import find_target
from tests import hosts
from tests.fakeproc import PYTHON, FakeProc
from tests.hosts import FakeHost
from tests.recordings import PID, make_recorder

PAGE = 4096
MAPS = b"""\
200000000-200200000 rw-s 00000000 00:06 467   /dev/nvidia-uvm
300000000-300100000 rw-s 00000000 00:06 468   /dev/dri/renderD128
55d0c0000000-55d0c0002000 r--p 00000000 fe:00 1  /usr/bin/python3.11
55d0c1000000-55d0c1004000 rw-p 00000000 00:00 0  [heap]
7f0000000000-7f0040000000 ---p 00000000 00:00 0
7f0100000000-7f0100001000 rw-s 00000000 00:01 9  /dev/shm/psm_1a (deleted)
7f0200000000-7f0200200000 rw-p 00000000 00:0f 7  /dev/hugepages/x
7f0300000000-7f0300001000 rw-p 00000000 00:00 0  anon_inode:[perf_event]
7ffd00000000-7ffd00004000 r--p 00000000 00:00 0  [vvar]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0  [vsyscall]
"""


def no_node(code: int) -> Any:
    def refuse(_pid: int, _addresses: object) -> np.ndarray:
        raise OSError(code, os.strerror(code))

    return refuse


def test_only_mappings_that_may_hold_this_machine_s_memory_count():
    mappings = parse_maps(MAPS, PAGE)

    assert mappings.starts.tolist() == [
        0x55D0C0000000, 0x55D0C1000000, 0x7F0100000000, 0x7F0200000000,
    ]  # fmt: skip
    assert mappings.page_counts.tolist() == [2, 4, 1, 512]


@pytest.mark.parametrize("text", [b"", b"garbage\n", b"1-\n", b"2000-1000 rw-p 0 0:0 0 \n"])
def test_garbage_has_no_pages(text):
    assert parse_maps(text, PAGE).page_count == 0


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(0, 2**32))
def test_every_page_drawn_lies_in_a_mapping(counts, seed):
    starts = np.arange(1, len(counts) + 1, dtype=np.uint64) * np.uint64(1 << 40)
    mappings = Mappings(starts, np.array(counts, np.int64), PAGE)

    pages = mappings.draw(50, np.random.default_rng(seed))

    rows = (pages >> np.uint64(40)).astype(int) - 1
    offsets = (pages & np.uint64((1 << 40) - 1)).astype(int)
    assert (offsets % PAGE == 0).all()
    assert (offsets // PAGE < np.array(counts)[rows]).all()


def test_large_mappings_are_drawn_from_more_often():
    # Given two mappings of 1 and 3 pages
    mappings = Mappings(np.array([0, 1 << 30], np.uint64), np.array([1, 3], np.int64), PAGE)

    pages = mappings.draw(40_000, np.random.default_rng(7))

    # Then each page comes up as often as any other: 4 standard errors are 0.9 % of all
    _, counts = np.unique(pages, return_counts=True)
    assert len(counts) == 4
    assert np.abs(counts / 40_000 - 0.25).max() < 0.009


def test_the_kernel_tells_touched_pages_from_others():
    # Given sixteen pages of our own, every second one touched
    area = mmap.mmap(-1, 16 * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(mmap.MADV_NOHUGEPAGE)
    for page in range(0, 16, 2):
        area[page * PAGE] = 1
    view = np.frombuffer(area, np.uint8)
    start = view.ctypes.data

    nodes = find_nodes(os.getpid(), np.arange(start, start + 16 * PAGE, PAGE, np.uint64))

    assert (nodes[::2] >= 0).all()
    assert nodes[1::2].tolist() == [-errno.ENOENT] * 8


def test_a_page_that_is_not_mapped_is_no_memory():
    assert find_nodes(os.getpid(), np.array([PAGE], np.uint64)).tolist() == [-errno.EFAULT]


def test_a_process_that_is_gone_is_told_by_type(program):
    pid = program.pid
    program.end()

    with pytest.raises(ProcessLookupError):
        find_nodes(pid, np.zeros(0, np.uint64))


@pytest.fixture
def host(tmp_path) -> FakeHost:
    return hosts.memory_off_node(tmp_path / "host")


def looked(host: FakeHost, probe: NumaProbe, directory: Path) -> tuple[Any, dict[Any, float]]:
    """Let the probe look twice; return its record, and the last value by (PID, node)."""
    target = host.target()
    recorder = make_recorder(directory)
    context = Context(target, recorder, None, {pid: pid for pid in target.processes})  # type: ignore[arg-type]
    assert probe.check(target).level is Level.WORKS
    probe.start(context)
    record = probe.stop()
    recorder.close()
    capture = open_capture(directory)
    labels = {
        row["counter"]: row["labels"]
        for row in capture.table("counter_types").to_pylist()
        if row["name"] == names.NUMA_PAGES
    }
    rows = capture.table("counters").to_pylist()
    return record, {(row["track"], labels[row["counter"]]): row["value"] for row in rows}


def test_shares_are_those_of_the_present_pages(host, tmp_path):
    record, values = looked(host, NumaProbe(find=host.find_nodes, seed=1), tmp_path / "c")

    # Given 25 % of the mapped pages on node 0, 5 % on node 2 and the rest absent
    far, near = (values[hosts.WORKER, f"node={node}"] for node in (0, 2))
    # then of those present five sixths are far, within 4 standard errors
    assert far / (far + near) == pytest.approx(5 / 6, abs=4 * (5 / 36 / (far + near)) ** 0.5)
    assert values[hosts.WORKER, "node=1"] == 0  # looked at, and none there
    worker = record.detail["processes"][str(hosts.WORKER)]
    assert worker["look_count"] == 2
    assert worker["present_count"] < worker["page_count"]


def test_it_draws_again_where_few_pages_are_present_but_not_for_ever(host, tmp_path):
    host.put_pages(hosts.WORKER, {2: 0.01})
    host.put_pages(hosts.CORE, {2: 0.9})

    record, _ = looked(host, NumaProbe(find=host.find_nodes, seed=1), tmp_path / "c")

    drawn = {pid: one["page_count"] for pid, one in record.detail["processes"].items()}
    assert drawn[str(hosts.WORKER)] == 2 * CALL_LIMIT * CALL_PAGES
    assert drawn[str(hosts.CORE)] == 2 * CALL_PAGES


def test_where_no_page_is_present_nothing_is_said(host, tmp_path):
    host.put_pages(hosts.WORKER, {})

    _, values = looked(host, NumaProbe(find=host.find_nodes, seed=1), tmp_path / "c")

    assert {pid for pid, _ in values} == {hosts.API, hosts.CORE}


def test_a_process_that_ends_leaves_the_others(host, tmp_path):
    def find(pid: int, addresses: Any) -> Any:
        if pid == hosts.CORE and len(addresses):
            raise ProcessLookupError(errno.ESRCH, "gone")
        return host.find_nodes(pid, addresses)

    (host.root / f"proc/{hosts.API}/maps").write_text("")  # a zombie's
    record, values = looked(host, NumaProbe(find=find, seed=1), tmp_path / "c")

    assert {pid for pid, _ in values} == {hosts.WORKER}
    assert record.level == Level.WORKS


def test_a_refusal_while_recording_is_said(host, tmp_path):
    def find(pid: int, addresses: Any) -> Any:
        if pid == hosts.CORE and len(addresses):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return host.find_nodes(pid, addresses)

    record, values = looked(host, NumaProbe(find=find, seed=1), tmp_path / "c")

    assert record.level == Level.DEGRADED
    assert str(hosts.CORE) in record.reason
    assert {pid for pid, _ in values} == {hosts.API, hosts.WORKER}


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSYS])
def test_a_filter_of_system_calls_is_told_from_a_foreign_process(host, code):
    capability = NumaProbe(find=no_node(code)).check(host.target())

    assert capability.level is Level.UNAVAILABLE
    assert "seccomp" in str(capability.remedy)


def test_a_foreign_process_asks_for_other_rights(host):
    def find(pid: int, addresses: Any) -> Any:
        return addresses if pid == os.getpid() else no_node(errno.EPERM)(pid, addresses)

    capability = NumaProbe(find=find).check(host.target())

    assert capability.level is Level.UNAVAILABLE
    assert "SYS_PTRACE" in str(capability.remedy)


def test_one_node_leaves_nothing_to_do_and_nothing_to_worry_about(tmp_path):
    # Given a machine without nodes, whose calls would fail
    proc = FakeProc(tmp_path / "proc")
    proc.add(PID, [PYTHON, "x.py"])

    capability = NumaProbe(find=no_node(errno.EPERM)).check(find_target(PID, proc.procfs))

    assert capability == Capability("numa", Level.NOT_APPLICABLE, ONE_NODE)
