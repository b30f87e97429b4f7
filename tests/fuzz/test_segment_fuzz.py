"""Hostile py-spy files: never anything but ImportInvalid, or a segment whose runs are in order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collectors.capture import open_capture
from collectors.errors import ImportInvalid
from collectors.importers.pyspy_chrometrace import Segment, read_segment
from collectors.stacks import StackTable
from tests.recordings import make_recorder, two_frames, write_segment

HOSTILE = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
ODD_TIMES = st.integers() | st.integers(0, 50_000) | st.floats() | st.none() | st.booleans()
ODD_NAMES = st.text() | st.from_regex(r"thread \(\d{1,12}\)(: .*)?", fullmatch=True) | st.integers()
EVENTS = st.fixed_dictionaries(
    {
        "ph": st.sampled_from(["B", "E", "X"]),
        "ts": ODD_TIMES,
        "tid": st.integers(0, 3) | st.text(max_size=2) | st.none(),
        "name": ODD_NAMES,
        "args": st.fixed_dictionaries({"filename": st.text() | st.none()}) | st.none(),
    }
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def check_segment(segment: Segment, stacks: StackTable) -> None:
    stack_count = len(stacks.stack_columns()["stack"])
    assert len({runs.tid for runs in segment.threads}) == len(segment.threads)
    assert segment.lost_count >= 0
    for runs in segment.threads:
        edges = [
            edge for run in zip(runs.start_ns, runs.end_ns, strict=True) for edge in run
        ]  # fmt: skip
        assert edges == sorted(edges)
        assert all(s < e for s, e in zip(runs.start_ns, runs.end_ns, strict=True))
        assert all(0 <= stack < stack_count for stack in runs.stack)
        assert not edges or (segment.first_ns <= edges[0] and edges[-1] <= segment.end_ns)


def read(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    stacks = StackTable()
    try:
        segment = read_segment(path, stacks)
    except ImportInvalid:
        return
    check_segment(segment, stacks)


@HOSTILE
@given(st.binary(max_size=400))
def test_random_bytes(tmp_path, content):
    read(tmp_path / "s.json", content)


@HOSTILE
@given(JSON)
def test_random_json(tmp_path, document):
    read(tmp_path / "s.json", json.dumps(document).encode())


@HOSTILE
@given(st.lists(EVENTS, max_size=40))
def test_random_events(tmp_path, events):
    read(tmp_path / "s.json", json.dumps(events).encode())


@HOSTILE
@given(st.data())
def test_bytes_changed_in_a_real_segment(tmp_path, data):
    content = bytearray(json.dumps(two_frames(7) + two_frames(8, key=2)).encode())
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.sampled_from(b'0123456789"{}[],:BE-. ') | st.integers(0, 255))
    read(tmp_path / "s.json", bytes(content))


@st.composite
def mutated_segments(draw: st.DrawFn) -> list[Any]:
    """Whole events of a real segment dropped, doubled, exchanged, moved in time or made odd."""
    events = two_frames(7) + two_frames(7, begin_us=3_000, key=2) + two_frames(9, key=3)
    for _ in range(draw(st.integers(1, 8))):
        at = draw(st.integers(0, len(events) - 1))
        change = draw(st.sampled_from(["drop", "double", "exchange", "time", "odd"]))
        if change == "drop" and len(events) > 1:
            del events[at]
        elif change == "double":
            events.insert(draw(st.integers(0, len(events))), events[at])
        elif change == "exchange":
            other = draw(st.integers(0, len(events) - 1))
            events[at], events[other] = events[other], events[at]
        elif change == "time":
            events[at] = {**events[at], "ts": draw(st.integers(-5, 40_000))}
        else:
            events[at] = draw(EVENTS)
    return events


@HOSTILE
@given(mutated_segments())
def test_events_changed_in_a_real_segment(tmp_path, events):
    read(tmp_path / "s.json", json.dumps(events).encode())


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recorder = make_recorder(tmp_path_factory.mktemp("fuzz") / "c")
    recorder.close()
    return recorder.directory


@settings(max_examples=60, deadline=None)
@given(events=mutated_segments() | st.lists(EVENTS, max_size=20) | JSON)
def test_a_capture_with_a_hostile_segment_opens(recording, events):
    # Given
    spawn_ns = open_capture(recording).start_ns
    path = write_segment(recording, events, spawn_ns=spawn_ns)

    # When
    capture = open_capture(recording)

    # Then
    path.unlink()
    tracks = set(capture.table("tracks")["track"].to_pylist())
    for row in capture.table("samples").to_pylist():
        assert row["duration_ns"] > 0
        assert row["time_ns"] >= spawn_ns
        assert row["track"] in tracks
