"""SQLite exports of Nsight Systems."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from collectors.errors import ImportInvalid
from collectors.importers import nsys_sqlite
from collectors.importers.formats import find_format
from collectors.importers.sqlite_columns import ODD_ROWS
from collectors.importers.trace import Clock, Trace
from collectors.slices import ANNOTATION, API, KERNEL, MEMCPY, MEMSET, NONE
from tests import foreign_traces as made

START = made.NSYS_START_NS


def read(directory: Path, *, device_only: bool = False, **tables: list[tuple[Any, ...]]) -> Trace:
    """Read the made export with some tables changed; an empty one is not there at all."""
    rows = {name: values for name, values in {**made.NSYS_ROWS, **tables}.items() if values}
    return nsys_sqlite.read([made.nsys(directory, rows)], device_only=device_only)


def test_an_export_is_known_by_its_tables(tmp_path):
    assert find_format(made.nsys(tmp_path)) == "nsys_sqlite"


def test_each_kind_of_row_becomes_slices_in_wall_time(tmp_path):
    trace = read(tmp_path)

    rows = [(*row[:3], row[3] - START, row[4] - START) for row in made.rows_of(trace)]
    assert trace.clock is Clock.REALTIME
    assert rows == [
        (ANNOTATION, "decode step", "EngineCore", 800, 9000),
        (ANNOTATION, "forward", "EngineCore", 850, 960),
        (API, "cudaLaunchKernel", "EngineCore", 900, 950),
        (KERNEL, "void gemm<float, 128>(float const*, float*)", "stream 7", 1000, 5000),
        (KERNEL, "ncclDevKernel_AllReduce", "stream 8", 4000, 6000),
        (MEMCPY, "HOST_TO_DEVICE", "stream 7", 7000, 7500),
        (MEMSET, "Memset", "stream 7", 8000, 8100),
    ]
    assert made.union_ns(made.on_gpus(trace)) == 5000 + 500 + 100
    assert not trace.skipped


def test_ids_of_processes_and_threads_are_unpacked(tmp_path):
    trace = read(tmp_path)

    (process,) = (row for row in trace.track_rows if row["kind"] == "process")
    (thread,) = (row for row in trace.track_rows if row["kind"] == "thread")
    assert (process["pid"], process["name"]) == (made.NSYS_PID, "python3.12")
    assert (thread["tid"], thread["name"]) == (made.NSYS_TID, "EngineCore")


def test_a_device_is_counted_as_the_machine_does(tmp_path):
    trace = read(tmp_path)

    (device,) = (row for row in trace.track_rows if row["kind"] == "device")
    assert (device["device"], device["name"]) == (3, "NVIDIA H200")


def test_without_a_table_of_devices_the_process_count_stands(tmp_path):
    trace = read(tmp_path, TARGET_INFO_CUDA_DEVICE=[])

    (device,) = (row for row in trace.track_rows if row["kind"] == "device")
    assert (device["device"], device["name"]) == (0, "NVIDIA H100")


def test_correlations_sizes_and_graphs(tmp_path):
    trace = read(tmp_path, NVTX_EVENTS=[])

    slices = trace.slices()
    found = zip(
        slices.correlation.tolist(), slices.size_bytes.tolist(), slices.graph.tolist(), strict=True
    )
    assert sorted(found) == [
        (11, NONE, NONE), (11, NONE, NONE), (12, NONE, 9), (13, 4096, NONE), (14, 512, NONE),
    ]  # fmt: skip


def test_a_graph_traced_as_a_whole_is_one_kernel_and_says_so(tmp_path):
    replay = (10_000, 20_000, 0, 1, None, 7, 15, made.NSYS_GLOBAL_PID, 6, 2)

    trace = read(tmp_path, CUPTI_ACTIVITY_KIND_GRAPH_TRACE=[replay])

    assert ("kernel", "CUDA graph 6 (whole)") in trace.name_rows
    assert 6 in trace.slices().graph.tolist()
    assert "as wholes" in trace.host["caveat"]


def test_device_only_leaves_out_the_host(tmp_path):
    trace = read(tmp_path, device_only=True)

    assert {kind for kind, _ in trace.name_rows} == {KERNEL, MEMCPY, MEMSET}


def test_without_a_start_of_the_session_the_clock_is_its_own(tmp_path):
    trace = read(tmp_path, TARGET_INFO_SESSION_START_TIME=[])

    assert trace.clock is Clock.OWN
    assert int(trace.slices().time_ns.min()) == 800


def test_sessions_are_scopes_of_their_own(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    paths = [made.nsys(tmp_path / name) for name in "ab"]

    trace = nsys_sqlite.read(paths)

    assert len([row for row in trace.track_rows if row["kind"] == "device"]) == 2


@pytest.mark.parametrize(
    ("kernel", "reason"),
    [
        ((0, 0, 0, 1, None, 7, 11, 1 << 24, 1, 2, None, 1, 32, 1, 128, None), "without a time"),
        ((9, 5, 0, 1, None, 7, 11, 1 << 24, 1, 2, None, 1, 32, 1, 128, None), "negative durations"),
        ((1 << 62, (1 << 62) + 9, 0, 1, None, 7, 11, 1 << 24, 1, 2, None, 1, 32, 1, 128, None),
         "without a time"),
        ((1, 2, 2**31 - 1, 1, None, 7, 11, 1 << 24, 1, 2, None, 1, 32, 1, 128, None), "of no GPU"),
        (("x", 2, 0, 1, None, 7, 11, 1 << 24, 1, 2, None, 1, 32, 1, 128, None), ODD_ROWS),
        ((1, 2, 0, 1, None, 7, 11, None, 1, 2, None, 1, 32, 1, 128, None), ODD_ROWS),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_are_left_out_and_counted(tmp_path, kernel, reason):
    trace = read(tmp_path, CUPTI_ACTIVITY_KIND_KERNEL=[kernel])

    ((said, count),) = trace.skipped.items()
    assert reason in said
    assert count == 1
    assert not any(kind == KERNEL for kind, *_ in made.rows_of(trace))


def test_an_export_without_cuda_and_nvtx_is_refused(tmp_path):
    with pytest.raises(ImportInvalid, match="nothing that CUDA or NVTX did"):
        nsys_sqlite.read([made.nsys(tmp_path, {"StringIds": [], "PROCESSES": []})])


def test_a_missing_string_leaves_its_number(tmp_path):
    trace = read(tmp_path, StringIds=[(99, "other")])

    assert ("kernel", "string 1") in trace.name_rows
