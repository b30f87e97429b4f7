"""JSON of rocprofv3 becomes slices: kernels, copies, calls and marks, under readable names."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collectors.errors import ImportInvalid
from collectors.importers import rocprofv3_json
from collectors.importers.json_elements import WRONG_TYPE
from collectors.importers.trace import Clock, Trace
from collectors.slices import ANNOTATION, API, KERNEL, MEMCPY, NONE

PID, MAIN, WORKER = 908, 908, 1229
CPU, GPU0, GPU1 = 37944, 37946, 37947
KERNEL_KIND, COPY_KIND, HIP_KIND, MARKER_KIND = 3, 2, 1, 4
START_NS = 63_857_982_592_000

Read = Callable[..., Trace]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def read_document(content: Any, *, device_only: bool = False) -> Trace:
        path = tmp_path / "908_results.json"
        path.write_bytes(content if isinstance(content, bytes) else packed(content))
        return rocprofv3_json.read([path], device_only=device_only)

    return read_document


def packed(content: Any) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


def kernel(offset_ns: int, duration_ns: int, **fields: Any) -> dict[str, Any]:
    return {
        "size": 184, "kind": KERNEL_KIND, "operation": 2, "thread_id": WORKER,
        "correlation_id": {"internal": 7, "external": 0},
        "start_timestamp": START_NS + offset_ns,
        "end_timestamp": START_NS + offset_ns + duration_ns,
        "dispatch_info": {
            "size": 72, "agent_id": {"handle": GPU0}, "queue_id": {"handle": 16}, "kernel_id": 1,
            "dispatch_id": 1, "grid_size": {"x": 512, "y": 1, "z": 1},
        },
        "stream_id": {"handle": 5},
    } | fields  # fmt: skip


def copy(offset_ns: int, to: int, origin: int, operation: int) -> dict[str, Any]:
    return {
        "size": 96, "kind": COPY_KIND, "operation": operation, "thread_id": MAIN,
        "correlation_id": {"internal": 8, "external": 0},
        "start_timestamp": START_NS + offset_ns, "end_timestamp": START_NS + offset_ns + 10,
        "dst_agent_id": {"handle": to}, "src_agent_id": {"handle": origin}, "bytes": 4096,
        "stream_id": {"handle": 0},
    }  # fmt: skip


def called(offset_ns: int, kind: int, operation: int, correlation: int = 7) -> dict[str, Any]:
    return {
        "size": 64, "kind": kind, "operation": operation, "thread_id": MAIN,
        "correlation_id": {"internal": correlation, "external": 0},
        "start_timestamp": START_NS + offset_ns, "end_timestamp": START_NS + offset_ns + 10,
    }  # fmt: skip


def process(**records: list[dict[str, Any]]) -> dict[str, Any]:
    kinds = {
        "NONE": [],
        "HIP_RUNTIME_API": ["hipFree", "hipLaunchKernel"],
        "MEMORY_COPY": ["MEMORY_COPY_NONE", "MEMORY_COPY_HOST_TO_DEVICE"],
        "KERNEL_DISPATCH": ["NONE", "ENQUEUE", "COMPLETE"],
        "MARKER_CORE_API": ["roctxMarkA", "roctxRangePushA"],
    }
    return {
        "metadata": {
            "node": {"id": 0, "hostname": "secret", "release": "5.15", "hardware_name": "x86_64"},
            "pid": PID, "init_time": START_NS - 9, "fini_time": START_NS + 9_999,
            "command": ["python"],
        },
        "agents": [
            {"size": 312, "id": {"handle": CPU}, "type": 1, "gpu_index": -1, "name": "EPYC"},
            {"size": 312, "id": {"handle": GPU0}, "type": 2, "gpu_index": 0,
             "product_name": "AMD Instinct MI350X", "io_links": [{"type": 2}, {"type": 3}]},
            {"size": 312, "id": {"handle": GPU1}, "type": 2, "gpu_index": 1, "name": "gfx950"},
        ],
        "counters": [],
        "strings": {
            "callback_records": [],
            "buffer_records": [
                {"kind": kind, "operations": operations} for kind, operations in kinds.items()
            ],
            "marker_api": [{"key": 70, "value": "decode step"}],
            "correlation_id": {"external": []},
        },
        "code_objects": [{"size": 0}, {"size": 1}],
        "kernel_symbols": [
            {"size": 0, "kernel_id": 0, "kernel_name": ""},
            {"size": 88, "kernel_id": 1, "kernel_name": "_Z4gemmv.kd",
             "formatted_kernel_name": "gemm()", "demangled_kernel_name": "gemm() [clone].kd"},
            {"size": 88, "kernel_id": 2, "kernel_name": "fill.kd"},
        ],
        "host_functions": [],
        "callback_records": {"counter_collection": []},
        "buffer_records": records,
    }  # fmt: skip


def document(**records: list[dict[str, Any]]) -> dict[str, Any]:
    return {rocprofv3_json.ROOT_KEY: [process(**records)]}


FULL = document(
    kernel_dispatch=[
        kernel(0, 100),
        kernel(200, 50, stream_id={"handle": 0}),
        kernel(300, 50, dispatch_info=kernel(0, 0)["dispatch_info"] | {"kernel_id": 2}),
    ],
    hip_api=[called(0, HIP_KIND, 1), called(20, HIP_KIND, 0, 9)],
    marker_api=[called(0, MARKER_KIND, 1, 70), called(50, MARKER_KIND, 0, 71)],
    memory_copy=[copy(500, GPU0, CPU, 1), copy(600, CPU, GPU1, 1), copy(700, GPU1, GPU0, 1)],
    memory_allocation=[{"kind": 16}],
)
FULL_COUNT = 10


def rows(trace: Trace, kind: str) -> list[dict[str, Any]]:
    slices = trace.slices()
    return [
        {
            "start": int(slices.time_ns[row]) - START_NS,
            "length": int(slices.duration_ns[row]),
            "name": trace.name_rows[slices.name[row]][1],
            "track": trace.track_rows[slices.track[row]],
            "launch": dict(enumerate(trace.track_rows)).get(int(slices.launch_track[row])),
            "correlation": int(slices.correlation[row]),
            "size": int(slices.size_bytes[row]),
        }
        for row in range(len(slices))
        if trace.name_rows[slices.name[row]][0] == kind
    ]


def unnumbered(trace: Trace, kind: str) -> list[dict[str, Any]]:
    """Return rows without the numbers of tracks, which depend on the order of first sight."""
    found = rows(trace, kind)
    for row in found:
        for key in ("track", "launch"):
            row[key] = {**(row[key] or {}), "track": 0, "parent": 0}
    return found


def test_kernels_have_their_name_stream_and_launching_thread(read):
    trace = read(FULL)
    found = rows(trace, KERNEL)
    assert [(row["start"], row["length"], row["name"]) for row in found] == [
        (0, 100, "gemm()"), (200, 50, "gemm()"), (300, 50, "fill"),
    ]  # fmt: skip
    assert [(row["track"]["tid"], row["track"]["name"]) for row in found] == [
        (5, "stream 5"), (-16, "queue 16"), (5, "stream 5"),
    ]  # fmt: skip
    assert {(row["track"]["pid"], row["track"]["device"]) for row in found} == {(PID, 0)}
    assert {row["launch"]["tid"] for row in found} == {WORKER}
    assert {row["correlation"] for row in found} == {7}
    assert trace.clock is Clock.BOOTTIME
    assert trace.skipped == {}
    names = {row["device"]: row["name"] for row in trace.track_rows if row["kind"] == "device"}
    assert names == {0: "AMD Instinct MI350X", 1: "gfx950"}


def test_copies_belong_to_the_gpu_that_receives_or_else_sends(read):
    found = rows(read(FULL), MEMCPY)
    assert [row["track"]["device"] for row in found] == [0, 1, 1]
    assert {row["name"] for row in found} == {"HOST_TO_DEVICE"}
    assert {row["size"] for row in found} == {4096}
    assert {row["track"]["name"] for row in found} == {"default stream"}


def test_calls_and_marks_are_on_their_threads(read):
    trace = read(FULL)
    calls, marks = rows(trace, API), rows(trace, ANNOTATION)
    assert [(row["name"], row["correlation"]) for row in calls] == [
        ("hipLaunchKernel", 7), ("hipFree", 9),
    ]  # fmt: skip
    assert [row["name"] for row in marks] == ["decode step", "roctxMarkA"]
    assert {row["track"]["tid"] for row in calls + marks} == {MAIN}


def test_device_only_leaves_out_the_host(read):
    trace = read(FULL, device_only=True)
    assert {kind for kind, _ in trace.name_rows} == {KERNEL, MEMCPY}
    assert len(trace.slices()) == 6


def test_machine_is_described_without_its_name(read):
    assert read(FULL).host == {"kernel": "5.15", "machine": "x86_64"}


def test_older_files_have_no_streams_and_no_gpu_index(read):
    old = kernel(0, 100)
    del old["stream_id"]
    older = document(kernel_dispatch=[old])
    for agent in older[rocprofv3_json.ROOT_KEY][0]["agents"]:
        del agent["gpu_index"]
        agent["logical_node_type_id"] = 4
    (found,) = rows(read(older), KERNEL)
    assert (found["track"]["tid"], found["track"]["device"]) == (-16, 4)


def test_processes_share_the_gpus_of_their_file(read):
    both = {rocprofv3_json.ROOT_KEY: [process(kernel_dispatch=[kernel(0, 5)]) for _ in range(2)]}
    both[rocprofv3_json.ROOT_KEY][1]["metadata"]["pid"] = 909
    trace = read(both)
    assert [row["track"]["pid"] for row in rows(trace, KERNEL)] == [908, 909]
    assert len([row for row in trace.track_rows if row["kind"] == "device"]) == 1


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (kernel(0, -5), "negative durations"),
        (kernel(0, 5, start_timestamp=-1), WRONG_TYPE),
        (kernel(0, 5, end_timestamp=1 << 63), WRONG_TYPE),
        (kernel(0, 5, dispatch_info={}), WRONG_TYPE),
        (
            kernel(0, 5, dispatch_info=kernel(0, 0)["dispatch_info"] | {"agent_id": {"handle": 1}}),
            "records of GPUs that the file does not list",
        ),
    ],
)
def test_records_that_cannot_be_are_left_out_and_counted(read, record, reason):
    trace = read(document(kernel_dispatch=[kernel(0, 1), record, kernel(9, 1)]))
    assert [row["start"] for row in rows(trace, KERNEL)] == [0, 9]
    assert trace.skipped == {reason: 1}


def test_numbers_without_a_name_are_said_as_numbers(read):
    unknown = kernel(0, 0)["dispatch_info"] | {"kernel_id": 99}
    trace = read(
        document(kernel_dispatch=[kernel(0, 1, dispatch_info=unknown)], hip_api=[called(0, 77, 5)])
    )
    assert [row["name"] for row in rows(trace, KERNEL)] == ["kernel 99"]
    assert [row["name"] for row in rows(trace, API)] == ["operation 5 of kind 77"]


def test_thread_that_cannot_be_is_unknown(read):
    trace = read(document(kernel_dispatch=[kernel(0, 1, thread_id=1 << 40)]))
    assert trace.slices().launch_track.tolist() == [NONE]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{}", "does not begin with the process"),
        (b'{"rocprofiler-sdk-tool": 5}', "does not begin with the process"),
        (b'{"rocprofiler-sdk-tool": [{}]}', "does not begin with the process"),
        (b'{"rocprofiler-sdk-tool": [{"metadata": {"pid": -4}}]}', "does not begin"),
        (b'{"rocprofiler-sdk-tool": [{"metadata": {"pid": 4}, "metadata": {"pid": 4}}]}', "twice"),
        (packed(FULL)[:-100], "cut off"),
        (packed(FULL) + b"x", "is not JSON"),
        (b"", "cut off"),
    ],
)
def test_what_is_no_trace_says_why(read, content, said):
    with pytest.raises(ImportInvalid, match=said):
        read(content)


@settings(deadline=None, max_examples=30)
@given(st.integers(50, 3_000))
def test_borders_between_blocks_change_nothing(tmp_path_factory, block_bytes):
    path = tmp_path_factory.mktemp("rocprof") / "trace.json"
    path.write_bytes(packed(FULL))
    expected = rocprofv3_json.read([path])
    with patch.object(rocprofv3_json, "BLOCK_BYTES", block_bytes):
        found = rocprofv3_json.read([path])
    for kind in (KERNEL, MEMCPY, API, ANNOTATION):
        assert unnumbered(found, kind) == unnumbered(expected, kind)


@settings(deadline=None, max_examples=150)
@given(st.booleans(), st.integers(0), st.integers(1, 255), st.booleans(), st.integers(100, 8_000))
def test_damage_ends_in_an_error_or_a_trace(
    tmp_path_factory, is_packed, at, flip, is_cut, block_bytes
):
    content = bytearray(gzip.compress(packed(FULL), mtime=0) if is_packed else packed(FULL))
    if is_cut:
        del content[at % len(content) :]
    else:
        content[at % len(content)] ^= flip
    path = tmp_path_factory.mktemp("damaged") / "trace"
    path.write_bytes(content)
    with patch.object(rocprofv3_json, "BLOCK_BYTES", block_bytes):
        try:
            trace = rocprofv3_json.read([path])
        except ImportInvalid:
            return
    assert len(trace.slices()) <= FULL_COUNT


def test_file_is_known_by_its_content(tmp_path):
    assert rocprofv3_json.is_mine(tmp_path, packed(FULL))
    assert not rocprofv3_json.is_mine(tmp_path, b'{"traceEvents": [')
    assert not rocprofv3_json.is_mine(tmp_path, b"rocprofiler-sdk-tool")
