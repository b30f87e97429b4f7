"""Traces of the torch profiler become slices, exactly, whatever their layout."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collectors.errors import ImportInvalid
from collectors.importers import kineto
from collectors.importers.json_elements import WRONG_TYPE
from collectors.importers.kineto_events import nanoseconds
from collectors.importers.source import head
from collectors.importers.trace import Clock, Trace
from collectors.slices import (
    ANNOTATION,
    API,
    DEVICE_KINDS,
    KERNEL,
    MEMCPY,
    MEMSET,
    NONE,
    OP,
    PYTHON,
    Slices,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "traces"
EXCERPT = GOLDEN / "kineto_minitoy_mi250.json.gz"
EXPECTED = json.loads((GOLDEN / "kineto_minitoy_mi250.expected.json").read_text())
PLAIN = gzip.decompress(EXCERPT.read_bytes())
BASE_NS = 1_767_189_312_000_000_000
HOST, MAIN = 851, 852

Read = Callable[..., Trace]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Return a function that reads a document, or one file after the other."""

    def read_documents(*documents: Any, device_only: bool = False) -> Trace:
        paths = []
        for number, document in enumerate(documents):
            path = tmp_path / f"{number}.json"
            content = document if isinstance(document, bytes) else json.dumps(document).encode()
            path.write_bytes(content)
            paths.append(path)
        return kineto.read(paths, device_only=device_only)

    return read_documents


def document(*events: dict[str, Any], **members: Any) -> dict[str, Any]:
    base = {"schemaVersion": 1, "traceEvents": list(events), "baseTimeNanoseconds": BASE_NS}
    return base | members


def gpu(ts: float, dur: float, category: str = "kernel", **args: Any) -> dict[str, Any]:
    name = args.pop("name", "gemm")
    known = {"External id": 5, "device": 2, "stream": 7, "correlation": 11} | args
    return {
        "ph": "X", "cat": category, "name": name, "pid": 2, "tid": 7, "ts": ts, "dur": dur,
        "args": {key: value for key, value in known.items() if value is not None},
    }  # fmt: skip


def call(ts: float, dur: float, category: str = "cuda_runtime", **fields: Any) -> dict[str, Any]:
    return {
        "ph": "X", "cat": category, "name": "cudaLaunchKernel", "pid": HOST, "tid": MAIN, "ts": ts,
        "dur": dur, "args": {"cbid": 211, "correlation": 11},
    } | fields  # fmt: skip


def meta(what: str, pid: Any, tid: Any = 0, **args: Any) -> dict[str, Any]:
    return {"name": what, "ph": "M", "ts": 1.5, "pid": pid, "tid": tid, "args": args}


def rows(trace: Trace) -> list[dict[str, Any]]:
    """Return slices as dicts, with names and tracks for their numbers."""
    slices = trace.slices()
    return [
        {
            "start": int(slices.time_ns[row]),
            "end": int(slices.end_ns[row]),
            "kind": trace.name_rows[slices.name[row]][0],
            "name": trace.name_rows[slices.name[row]][1],
            "track": trace.track_rows[slices.track[row]],
            "launch": dict(enumerate(trace.track_rows)).get(int(slices.launch_track[row])),
            "correlation": int(slices.correlation[row]),
            "size": int(slices.size_bytes[row]),
            "graph": int(slices.graph[row]),
        }
        for row in range(len(slices))
    ]


def union_ns(slices: Slices) -> int:
    total, reach = 0, -(1 << 63)
    for start, end in sorted(zip(slices.time_ns.tolist(), slices.end_ns.tolist(), strict=True)):
        total += max(0, end - max(start, reach))
        reach = max(reach, end)
    return total


def content(trace: Trace) -> list[str]:
    """Return slices as texts, without the numbers and the order in which they came."""
    found = rows(trace)
    for row in found:
        for key in ("track", "launch"):
            row[key] = {**(row[key] or {}), "track": 0, "parent": 0}
    return sorted(map(str, found))


@pytest.mark.parametrize("device_only", [True, False])
def test_real_trace_gives_the_figures_of_its_digits(device_only):
    trace = kineto.read([EXCERPT], device_only=device_only)
    slices = trace.slices()
    kind = np.array([kind for kind, _ in trace.name_rows])[slices.name]
    on_gpu = slices.where(np.isin(kind, DEVICE_KINDS))
    assert {
        "kernel_count": int((kind == KERNEL).sum()),
        "memcpy_count": int((kind == MEMCPY).sum()),
        "span_ns": int(on_gpu.end_ns.max() - on_gpu.time_ns.min()),
        "busy_ns": union_ns(on_gpu),
        "compute_ns": union_ns(slices.where(kind == KERNEL)),
        "memcpy_ns": union_ns(slices.where(kind == MEMCPY)),
    }.items() <= EXPECTED.items()
    assert len(slices) == (len(on_gpu) if device_only else EXPECTED["slice_count"])
    assert trace.skipped == {}
    assert trace.clock is Clock.REALTIME


def test_real_trace_knows_who_launched_what():
    trace = kineto.read([EXCERPT])
    gpu_rows = [row for row in rows(trace) if row["kind"] in DEVICE_KINDS]
    assert {row["track"]["pid"] for row in gpu_rows} == {EXPECTED["pid"]}
    assert {row["track"]["device"] for row in gpu_rows} == {EXPECTED["device"]}
    assert all(row["launch"]["tid"] in (597913, 598009) for row in gpu_rows)
    names = {row["name"] for row in trace.track_rows if row["kind"] == "thread"}
    assert names == {"thread 597913 (python3)", "thread 598009 (pt_autograd_0)"}
    assert {row["name"] for row in trace.track_rows if row["kind"] == "device"} == {
        "AMD Radeon Graphics"
    }


@pytest.mark.parametrize("device_only", [True, False])
@settings(deadline=None, max_examples=20)
@given(block_bytes=st.integers(50, 5_000))
def test_borders_between_blocks_change_nothing(tmp_path_factory, device_only, block_bytes):
    path = tmp_path_factory.mktemp("kineto") / "plain.json"
    path.write_bytes(PLAIN)
    with patch.object(kineto, "BLOCK_BYTES", block_bytes):
        found = kineto.read([path], device_only=device_only)
    assert content(found) == content(kineto.read([EXCERPT], device_only=device_only))


@settings(deadline=None, max_examples=150)
@given(
    st.booleans(), st.integers(0), st.integers(0), st.integers(1, 255), st.booleans(),
    st.integers(200, 20_000),
)  # fmt: skip
def test_damage_ends_in_an_error_or_a_trace(
    tmp_path_factory, is_packed, end, at, flip, is_cut, block_bytes
):
    content = bytearray(EXCERPT.read_bytes() if is_packed else PLAIN)
    if is_cut:
        del content[end % len(content) :]
    else:
        content[at % len(content)] ^= flip
    path = tmp_path_factory.mktemp("damaged") / "trace"
    path.write_bytes(content)
    with patch.object(kineto, "BLOCK_BYTES", block_bytes):
        try:
            trace = kineto.read([path])
        except ImportInvalid:
            return
    assert len(trace.slices()) <= EXPECTED["slice_count"]


def test_cut_off_trace_says_so(read):
    with pytest.raises(ImportInvalid, match="cut off"):
        read(PLAIN[: len(PLAIN) // 2])


def test_times_are_exact_to_the_nanosecond(read):
    # A double at 6.5e12 us has a last digit of 0.98 ns: what was written still comes back.
    starts_ns = [6_520_618_853_487_000_000 // 1000 + offset for offset in (683, 684, 685, 686)]
    events = [gpu(start / 1000, 2.345 + index) for index, start in enumerate(starts_ns)]
    slices = read(document(*events)).slices()
    assert (slices.time_ns - BASE_NS).tolist() == starts_ns
    assert slices.duration_ns.tolist() == [2345, 3345, 4345, 5345]


@given(st.integers(0, 2**52 - 1))
def test_three_digits_of_any_time_below_52_days_survive(time_ns):
    assert nanoseconds([float(f"{time_ns // 1000}.{time_ns % 1000:03}")]).tolist() == [time_ns]


def test_base_may_stand_before_or_after_events_or_nowhere(read):
    after = document(gpu(5.0, 1.0))
    before = {"baseTimeNanoseconds": BASE_NS, "traceEvents": after["traceEvents"]}
    for found in (read(after), read(before)):
        assert found.slices().time_ns.tolist() == [BASE_NS + 5_000]
        assert found.clock is Clock.REALTIME
    old = read({"traceEvents": [gpu(1_683_564_901_540_885, 3)]})
    assert old.slices().time_ns.tolist() == [1_683_564_901_540_885_000]
    assert old.clock is Clock.REALTIME
    assert read([gpu(5.0, 1.0)]).clock is Clock.OWN


def test_categories_become_kinds(read):
    host = {
        "cuda_runtime": API, "cuda_driver": API, "xpu_runtime": API, "cpu_op": OP,
        "python_function": PYTHON, "user_annotation": ANNOTATION,
    }  # fmt: skip
    device = {
        "kernel": KERNEL, "gpu_memcpy": MEMCPY, "gpu_memset": MEMSET, "Kernel": KERNEL,
        "Memcpy": MEMCPY, "Memset": MEMSET,
    }  # fmt: skip
    trace = read(
        document(
            *(call(1.0, 1.0, category) for category in host),
            *(gpu(1.0, 1.0, category) for category in device),
        )
    )
    assert sorted(row["kind"] for row in rows(trace)) == sorted([*host.values(), *device.values()])
    assert trace.skipped == {}


def test_known_events_that_are_not_taken_are_no_loss_but_unknown_ones_are(read):
    trace = read(
        document(
            gpu(1.0, 1.0),
            gpu(1.0, 1.0, "gpu_user_annotation"),
            call(1.0, 1.0, "Trace", pid="Spans", tid="PyTorch Profiler"),
            {"ph": "s", "id": 1, "pid": 1, "tid": 1, "ts": 1, "cat": "ac2g", "name": "ac2g"},
            {"ph": "i", "name": "Record Window End", "pid": "", "tid": "", "ts": 1, "s": "g"},
            call(1.0, 1.0, "quantum_op"),
        )
    )
    assert len(trace.slices()) == 1
    assert trace.skipped == {"events of unknown categories": 1}


def test_copies_have_sizes_and_replayed_kernels_their_graph(read):
    copy = gpu(1.0, 1.0, "gpu_memcpy", bytes=4096)
    replayed = gpu(2.0, 1.0, **{"graph id": 3, "graph node id": 77})
    older = gpu(3.0, 1.0, **{"graph node id": 78})
    launched = gpu(4.0, 1.0, **{"graph id": 0, "graph node id": 0})
    found = sorted(rows(read(document(copy, replayed, older, launched))), key=lambda r: r["start"])
    assert [row["size"] for row in found] == [4096, NONE, NONE, NONE]
    assert [row["graph"] for row in found] == [NONE, 3, 78, NONE]


def test_stream_is_the_launching_process_and_thread_is_found_by_correlation(read):
    trace = read(
        document(
            gpu(3.0, 1.0, correlation=11),
            gpu(4.0, 1.0, correlation=12),
            gpu(5.0, 1.0, correlation=99),
            call(1.0, 1.0),
            call(2.0, 1.0, tid=853, args={"correlation": 12}),
            meta("process_name", HOST, name="python3"),
            meta("thread_name", HOST, 853, name="worker"),
            deviceProperties=[{"id": 0, "name": "MI300X"}],
            distributedInfo={"backend": "nccl", "rank": 3, "world_size": 8},
        )
    )
    found = [row for row in rows(trace) if row["kind"] == KERNEL]
    assert [row["launch"] and row["launch"]["tid"] for row in found] == [MAIN, 853, None]
    assert found[1]["launch"]["name"] == "worker"
    assert {row["track"]["pid"] for row in found} == {HOST}  # the only process, for the third
    process = next(row for row in trace.track_rows if row["kind"] == "process")
    assert (process["pid"], process["name"], process["rank"]) == (HOST, "python3", 3)
    device = next(row for row in trace.track_rows if row["kind"] == "device")
    assert (device["device"], device["name"], device["rank"]) == (2, "MI300X", 3)


def test_correlation_that_two_processes_used_tells_nothing(read):
    trace = read(document(gpu(3.0, 1.0), call(1.0, 1.0), call(1.0, 1.0, pid=999)))
    (kernel,) = [row for row in rows(trace) if row["kind"] == KERNEL]
    assert kernel["launch"] is None
    assert kernel["track"]["pid"] is None


def test_device_only_takes_the_process_from_the_labels(read):
    labels = [meta("process_labels", HOST, labels="CPU"), meta("process_labels", 2, labels="GPU 2")]
    trace = read(document(gpu(1.0, 1.0), call(1.0, 1.0), *labels), device_only=True)
    assert [row["track"]["pid"] for row in rows(trace)] == [HOST]
    trace = read(document(gpu(1.0, 1.0), call(1.0, 1.0)), device_only=True)
    assert [row["track"]["pid"] for row in rows(trace)] == [None]


def test_ids_may_be_words_as_old_writers_put_them(read):
    old = gpu(1.0, 1.0, "Kernel", device=None, stream=None) | {"pid": 3, "tid": "stream 7"}
    unsigned = call(1.0, 1.0, tid=-774634496)
    odd = call(1.0, 1.0, pid="Spans", tid="PyTorch Profiler")
    odd_arguments = call(1.0, 1.0, args={"stream": "0x0", "correlation": "x", "bytes": [1]})
    trace = read(document(old, unsigned, odd, odd_arguments))
    streams = [row for row in trace.track_rows if row["kind"] == "stream"]
    assert [(row["device"], row["tid"]) for row in streams] == [(3, 7)]
    assert {row["tid"] for row in trace.track_rows if row["kind"] == "thread"} == {-774634496, MAIN}
    assert trace.skipped == {"events without a process or a thread": 1}


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (gpu(1.0, 1.0) | {"ts": "soon"}, WRONG_TYPE),
        (gpu(1.0, 1.0) | {"name": None}, WRONG_TYPE),
        (gpu(1.0, 1.0) | {"args": 5}, WRONG_TYPE),
        (gpu(1.0, 1.0) | {"ts": 1e300}, "times out of range"),
        (gpu(1.0, 1.0) | {"dur": 1e19}, "times out of range"),
        (gpu(1.0, -1.0), "negative durations"),
        (gpu(1.0, 1.0, device="none") | {"pid": None}, "GPU events without a device or a stream"),
    ],
)
def test_events_that_cannot_be_are_left_out_and_counted(read, event, reason):
    trace = read(document(gpu(1.0, 1.0), event, gpu(3.0, 1.0)))
    assert trace.slices().time_ns.tolist() == [BASE_NS + 1_000, BASE_NS + 3_000]
    assert trace.skipped == {reason: 1}


def test_events_without_times_are_counted(read):
    timeless = gpu(1.0, 1.0)
    del timeless["ts"]
    endless = gpu(1.0, 1.0)
    del endless["dur"]
    trace = read(document(timeless, endless))
    assert len(trace.slices()) == 0
    assert trace.skipped == {"times out of range": 2}


def test_nan_and_wrong_utf8_cost_no_trace(read):
    text = json.dumps(document(gpu(1.0, 1.0, ratio="RATIO", name="NAME"), gpu(3.0, 1.0))).encode()
    trace = read(text.replace(b'"RATIO"', b"-nan").replace(b"NAME", b"ge\xffmm"))
    assert [row["name"] for row in rows(trace)] == ["ge\ufffdmm", "gemm"]
    assert sum(trace.skipped.values()) == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cut off"),
        (b"{}", "no traceEvents"),
        (b'{"traceEvents": {}}', "is no list"),
        (b'{"traceEvents": [], "traceEvents": []}', "twice"),
        (b'{"traceEvents": []} {}', "is not JSON"),
        (b"5", "is not JSON"),
        (b"\x00\x01\x02", "is not JSON"),
    ],
)
def test_what_is_no_trace_says_why(read, content, said):
    with pytest.raises(ImportInvalid, match=said):
        read(content)


def test_members_that_are_not_what_they_should_be_are_unknown(read):
    odd = {"baseTimeNanoseconds": "x", "deviceProperties": {"id": 1}, "distributedInfo": [1]}
    trace = read(document(gpu(1.0, 1.0), **odd))
    assert trace.slices().time_ns.tolist() == [1_000]
    assert trace.clock is Clock.OWN


def test_files_are_scopes_of_their_own(read):
    ranks = [
        document(gpu(1.0, 1.0), call(0.5, 0.2), distributedInfo={"rank": rank}) for rank in (0, 1)
    ]
    trace = read(*ranks)
    processes = [row for row in trace.track_rows if row["kind"] == "process"]
    assert [(row["pid"], row["rank"]) for row in processes] == [(HOST, 0), (HOST, 1)]
    assert len({row["track"]["track"] for row in rows(trace) if row["kind"] == KERNEL}) == 2


def test_progress_of_several_files_is_one():
    told: list[float] = []
    kineto.read([EXCERPT, EXCERPT], told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_file_is_known_by_its_content(tmp_path):
    assert kineto.is_mine(EXCERPT, head(EXCERPT))
    bare = json.dumps([call(1.0, 1.0)], indent=2).encode()
    py_spy = b'[{"args":{"filename":"a.py"},"cat":"py-spy","name":"f","ph":"B","ts":1}]'
    for content, is_mine in (
        (bare, True),
        (b'{"traceEvents": [', True),
        (b'\n  {\n "schemaVersion": 1, "big": {', True),
        (py_spy, False),
        (b'{"rocprofiler-sdk-tool":[{"metadata":{', False),
        (b"main;f 5\n", False),
        (b"SQLite format 3\x00", False),
        (b"", False),
    ):
        assert kineto.is_mine(tmp_path, content) is is_mine
