"""Captures of schema version 2, which brought slices, requests and devices, open for ever.

See `test_old_captures`: made once, by that version.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from collectors.capture import Capture, open_capture
from collectors.schema import TABLES

HERE = Path(__file__).parent
SECOND = 1_000_000_000
START_NS = 1_000 * SECOND
KERNEL, CALL, COPY = range(3)
WORKER, THREAD, DEVICE, STREAM = range(1, 5)


@pytest.fixture(params=["v2_finished", "v2_unfinished"])
def capture(request: pytest.FixtureRequest) -> Capture:
    return open_capture(HERE / request.param)


def rows(capture: Capture, table: str) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in capture.table(table).to_pylist()]


def test_the_manifest_says_which_version(capture):
    assert capture.manifest.schema_version == 2
    assert capture.manifest.clock == "monotonic"
    assert capture.manifest.probes[1].detail["clock"] == {"error_ns": 1160}


def test_the_tables_have_today_s_columns(capture):
    assert {name: capture.table(name).schema for name in TABLES} == TABLES
    assert capture.table("cpu_slices").num_rows == 0


def test_tracks_of_devices(capture):
    assert rows(capture, "tracks")[WORKER:] == [
        (1, "process", 0, 4250, None, "VLLM::Worker_TP0", "worker", 0, None, None),
        (2, "thread", 1, 4250, 4250, "MainThread", "worker", None, None, None),
        (3, "device", None, None, None, "AMD Instinct MI300X", "gpu", 0, None, 0),
        (4, "stream", 3, 4250, 7, "stream 7", "gpu", 0, None, 0),
    ]


def test_slices_and_their_names(capture):
    assert rows(capture, "names") == [
        (KERNEL, "kernel", "gemm_kernel"),
        (CALL, "api", "hipLaunchKernel"),
        (COPY, "memcpy", "HtoD"),
    ]
    assert rows(capture, "slices") == [
        (START_NS + 100, 20, THREAD, CALL, 17, None, None, None),
        (START_NS + 200, 500, STREAM, KERNEL, 17, THREAD, None, 3),
        (START_NS + 900, 80, STREAM, COPY, None, None, 4096, None),
    ]


def test_counters_of_a_device(capture):
    assert rows(capture, "counter_types") == [
        (0, "gpu_utilisation", 'device="0"', "ratio", "level")
    ]
    assert rows(capture, "counters") == [(START_NS + 4, DEVICE, 0, 0.5)]


def test_requests(capture):
    (row,) = capture.table("requests").to_pylist()
    known = {name: value for name, value in row.items() if value is not None}

    assert known == {
        "time_ns": START_NS + 5, "request": "r1", "source": "client", "scenario": "1 x 1k",
        "status": "ok", "prompt_tokens": 1024, "output_tokens": 2, "begun_ns": START_NS + 6,
        "sent_ns": START_NS + 7, "first_token_ns": START_NS + 50, "done_ns": START_NS + 90,
        "token_ns": [START_NS + 50, START_NS + 80],
    }  # fmt: skip


def test_samples_and_gaps(capture):
    assert rows(capture, "samples") == [
        (START_NS, 10_000_000, THREAD, 1),
        (START_NS + 10_000_000, 5_000_000, THREAD, 0),
    ]
    gap = ("torch_profiler", START_NS, START_NS + 500, None, "the slice had not begun", WORKER)
    assert rows(capture, "gaps")[0] == gap
    assert capture.is_recovered == (len(rows(capture, "gaps")) == 2)
