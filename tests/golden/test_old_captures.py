"""Captures of every schema version that was ever released open for ever.

Each is kept as files, made once by the version that it names; a change that breaks one of these
tests needs a reader for the old layout, not another file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from collectors.capture import Capture, open_capture
from collectors.clock import Anchor
from collectors.schema import TABLES

HERE = Path(__file__).parent
SECOND = 1_000_000_000
START_NS = 1_000 * SECOND


@pytest.fixture(params=["v1_finished", "v1_unfinished"])
def capture(request: pytest.FixtureRequest) -> Capture:
    return open_capture(HERE / request.param)


def rows(capture: Capture, table: str) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in capture.table(table).to_pylist()]


def test_the_manifest_says_who_and_how(capture):
    manifest = capture.manifest

    assert manifest.schema_version == 1
    assert (manifest.target.kind, manifest.target.version) == ("vllm", "0.32.0")
    assert manifest.target.model == "facebook/opt-125m"
    assert manifest.target.url == "http://127.0.0.1:8000"
    assert [(one.pid, one.role, one.rank) for one in manifest.target.processes] == [
        (4242, "api_server", None),
        (4250, "worker", 0),
    ]
    assert manifest.anchors[0] == Anchor(START_NS, 1_700_000_000 * SECOND, 2_000 * SECOND, 40)
    threads, pyspy = manifest.probes
    assert (threads.level, threads.requested_hz, threads.achieved_hz) == ("works", 20.0, 19.9)
    assert (pyspy.level, pyspy.remedy) == ("degraded", "see the gaps")
    assert pyspy.detail["processes"]["4242"]["restart_count"] == 1


def test_the_tables_have_today_s_columns(capture):
    assert {name: capture.table(name).schema for name in TABLES} == TABLES


def test_tracks(capture):
    assert rows(capture, "tracks") == [
        (0, "process", None, 4242, None, "vllm", "api_server", None, None, None),
        (1, "process", 0, 4250, None, "VLLM::Worker_TP0", "worker", 0, None, None),
        (2, "thread", 0, 4242, 4243, "asyncio_0", "api_server", None, 2, None),
    ]


def test_thread_counters(capture):
    assert rows(capture, "thread_counters") == [
        (START_NS + 1, 2, 5, 0, 1, None, None, None),
        (START_NS + SECOND, 2, 900_000_000, 10, 2, 7, 8, 1),
    ]


def test_gil(capture):
    assert rows(capture, "gil") == [
        (START_NS + 2, 0, 2, 1, 10, [2]),
        (START_NS + 3, 0, None, None, 11, None),
    ]


def test_counters(capture):
    assert rows(capture, "counter_types") == [
        (0, "vllm:num_requests_running", 'engine="0"', "requests", "level")
    ]
    assert rows(capture, "counters") == [(START_NS + 4, 0, 0, 32.0)]


def test_samples_and_their_stacks(capture):
    assert rows(capture, "frames") == [
        (0, "main", "a.py"),
        (1, "work", "b.py"),
        (2, "rest", "a.py"),
    ]
    assert rows(capture, "stacks") == [(0, -1, 0), (1, 0, 1), (2, 0, 2)]
    samples = rows(capture, "samples")
    assert [row[1:] for row in samples] == [
        (10_000_000, 2, 1),
        (5_000_000, 2, 0),
        (5_000_000, 2, 2),
    ]
    assert [row[0] - samples[0][0] for row in samples] == [0, 10_000_000, 15_000_000]
    assert 0 <= samples[0][0] - START_NS < 10_000_000


def test_gaps_and_how_it_ended(capture):
    gaps = rows(capture, "gaps")

    first = ("pyspy", START_NS, START_NS + 500, None)
    assert gaps[0][:4] == first
    if capture.is_recovered:
        assert capture.is_partial
        assert gaps[1][0] == "recorder"
        assert len(gaps) == 2
        assert capture.end_ns == START_NS + SECOND
    else:
        assert not capture.is_partial
        assert len(gaps) == 1
        assert capture.manifest.stop_reason == "duration"
        assert capture.end_ns == START_NS + 2 * SECOND
        assert capture.manifest.overhead == {"window_seconds": 2.0, "recorder_cpu_seconds": 0.05}
