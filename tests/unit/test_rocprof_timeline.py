"""What a traced process told, as a trace: GPUs, queues, names, and what cannot be placed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from collectors.clock import Anchor
from collectors.slices import KERNEL
from probes.rocprof import _abi, wire
from probes.rocprof.clock import boottime_offset
from probes.rocprof.timeline import Dispatches, Timeline
from probes.rocprof.traced import host_tids
from tests.fakeproc import PYTHON, FakeProc

MARKS = {"KERNEL_DISPATCH": wire.mark_of(1, 11), "MEMORY_COPY": wire.mark_of(1, 10)}
HELLO = {
    "pid": 7, "library": "lib", "version": [1, 1, 0], "marks": MARKS, "policy": 2, "calls": [],
    "agents": [
        {"id": 100, "is_gpu": False, "index": 0, "name": "EPYC"},
        {"id": 101, "is_gpu": True, "index": 0, "name": "MI300X"},
    ],
}  # fmt: skip


def greeted(**changes: Any) -> Timeline:
    timeline = Timeline(7)
    timeline.take(wire.HELLO, json.dumps({**HELLO, **changes}).encode())
    return timeline


def kernel(number: int, *, agent: int = 101, start: int = 1000, end: int = 1500) -> bytes:
    record = _abi.KernelDispatchRecord(size=184, start_timestamp=start, end_timestamp=end)
    record.thread_id = 7
    record.dispatch_info.agent_id, record.dispatch_info.queue_id = agent, 3
    record.dispatch_info.kernel_id, record.dispatch_info.dispatch_id = 1, number
    return bytes(record)


def data(*records: bytes, mark: int = MARKS["KERNEL_DISPATCH"], drops: int = 0) -> bytes:
    size = len(records[0])
    return wire.RECORDS.pack(mark, size, len(records), drops) + b"".join(records)


def test_what_cannot_be_placed_is_counted():
    timeline = greeted()
    good, unknown_gpu, untimed = kernel(1), kernel(2, agent=999), kernel(3, end=0)

    timeline.take(wire.DATA, data(good, unknown_gpu, untimed))
    timeline.take(wire.DATA, data(good, good, mark=12345))

    trace = timeline.drain()
    assert len(trace.slices()) == 1
    assert dict(trace.skipped) == {
        "records of an unknown GPU": 1,
        "records without a time": 1,
        "records of an unknown kind": 2,
    }
    assert timeline.dispatches.missing_count == 0


def test_a_trace_holds_what_came_since_the_last_one():
    timeline = greeted()
    timeline.take(wire.KERNELS, json.dumps([[1, "softmax.kd"]]).encode())
    for number in (1, 2):
        timeline.take(wire.DATA, data(kernel(number)))
        trace = timeline.drain()
        assert trace.name_rows == [(KERNEL, "softmax")]
        assert len(trace.slices()) == 1
    assert timeline.drain().slice_count == 0
    assert timeline.dispatches.count == 2


def test_copies_between_hosts_have_no_gpu():
    record = _abi.MemoryCopyRecord(
        size=96, operation=1, start_timestamp=1, end_timestamp=2, dst_agent_id=100, src_agent_id=100
    )
    timeline = greeted()

    timeline.take(wire.DATA, data(bytes(record), mark=MARKS["MEMORY_COPY"]))

    assert dict(timeline.drain().skipped) == {"records of an unknown GPU": 1}


def test_dispatches_may_come_in_any_order():
    timeline = greeted()
    for numbers in ((5, 3), (9, 4), (8,)):
        timeline.take(wire.DATA, data(*map(kernel, numbers)))

    assert timeline.dispatches == Dispatches(count=5, first=3, last=9)
    assert timeline.dispatches.missing_count == 2


def test_a_count_of_drops_is_the_librarys_last_word():
    timeline = greeted()
    for drops in (3, 8, 8):
        timeline.take(wire.DATA, data(kernel(1), drops=drops))

    assert timeline.account.drops == {MARKS["KERNEL_DISPATCH"]: 8}


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (wire.HELLO, b"not json"),
        (wire.HELLO, b"{}"),
        (wire.KERNELS, b"[1]"),
        (wire.DATA, b""),
        (wire.DATA, wire.RECORDS.pack(MARKS["KERNEL_DISPATCH"], 184, 2, 0) + bytes(184)),
        (wire.DATA, wire.RECORDS.pack(MARKS["KERNEL_DISPATCH"], 8, 1, 0) + bytes(8)),
    ],
)
def test_a_frame_that_makes_no_sense_is_refused(kind, body):
    timeline = greeted()

    with pytest.raises(ValueError, match=r"sense|bytes|Expecting"):
        timeline.take(kind, body)


def test_gpu_times_become_the_captures_own():
    first = Anchor(1_000, 0, 5_000, 20)

    assert boottime_offset(first, Anchor(2_000, 0, 6_010, 30)).offset_ns == -4_000
    awake = boottime_offset(first, Anchor(2_000, 0, 6_010, 30))
    assert (awake.error_ns, awake.has_slept) == (60, False)
    slept = boottime_offset(first, Anchor(2_000, 0, 96_000, 30))
    assert (slept.error_ns, slept.has_slept) == (50 + 90_000, True)


def test_threads_of_another_pid_namespace_are_told_by_the_hosts_number(tmp_path):
    proc = FakeProc(tmp_path)
    proc.add(300, [PYTHON])
    for host, inner in ((300, 1), (301, 2)):
        task = proc.root / "300" / "task" / str(host)
        task.mkdir(exist_ok=True)
        (task / "status").write_text(f"NSpid:\t{host}\t{inner}\n")

    host_tid = host_tids(proc.procfs, 300)

    assert [host_tid(tid) for tid in (1, 2, 77)] == [300, 301, 77]
