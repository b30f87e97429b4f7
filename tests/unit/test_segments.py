"""Segments become samples on the capture's clock, without a gap or an overlap between them."""

from __future__ import annotations

import os

import pytest

from collectors.capture import Capture, open_capture
from collectors.segments import MTIME_ERROR_NS, TYPICAL_START_NS, segment_name
from tests.recordings import PID, event, make_recorder, two_frames, write_segment

MS = 1_000_000


@pytest.fixture
def recorder(tmp_path):
    recorder = make_recorder(tmp_path / "c")
    recorder.close()
    return recorder


def samples(capture: Capture) -> list[tuple[int, int, str]]:
    """Return (ms since the recording began, duration in ms, function at the leaf)."""
    frames = capture.table("frames")["function"].to_pylist()
    leaves = capture.table("stacks")["frame"].to_pylist()
    rows = capture.table("samples").sort_by("time_ns").to_pylist()
    return [
        (
            round((row["time_ns"] - capture.start_ns - TYPICAL_START_NS) / MS),
            round(row["duration_ns"] / MS),
            frames[leaves[row["stack"]]],
        )
        for row in rows
    ]


def written_at(path, recorder, after_ns: int) -> None:
    """Say that a file was written so long after the recording began."""
    anchor = recorder.manifest.anchors[0]
    since_anchor_ns = recorder.manifest.started_ns + after_ns - anchor.monotonic_ns
    written_ns = anchor.realtime_ns + since_anchor_ns
    os.utime(path, ns=(written_ns, written_ns))


def test_a_segment_lies_a_typical_start_after_its_spawn(recorder):
    started_ns = recorder.manifest.started_ns
    path = write_segment(recorder.directory, two_frames(PID + 1), spawn_ns=started_ns + 100 * MS)
    written_at(path, recorder, 130 * MS)

    capture = open_capture(recorder.directory)

    assert samples(capture) == [(100, 10, "work"), (110, 5, "main"), (115, 5, "rest")]
    assert set(capture.table("samples")["track"].to_pylist()) == {1}


def test_the_clock_error_is_the_bracket_between_spawn_and_file(recorder):
    # Given a recorder that took its time: 20 ms of samples, written 50 ms after its spawn
    started_ns = recorder.manifest.started_ns
    path = write_segment(recorder.directory, two_frames(PID + 1), spawn_ns=started_ns)
    written_at(path, recorder, 50 * MS)

    (record,) = open_capture(recorder.directory).manifest.probes

    expected_ns = 50 * MS + MTIME_ERROR_NS - 20 * MS - TYPICAL_START_NS
    assert record.detail["clock_error_ns"] == pytest.approx(expected_ns, abs=1_000)


def test_where_segments_overlap_the_later_one_takes_over(recorder):
    # Given two recorders at once from 15 ms to 20 ms
    started_ns = recorder.manifest.started_ns
    for spawn_ms in (0, 15):
        events = two_frames(PID + 1)
        path = write_segment(recorder.directory, events, spawn_ns=started_ns + spawn_ms * MS)
        written_at(path, recorder, (spawn_ms + 30) * MS)

    rows = samples(open_capture(recorder.directory))

    assert rows == [
        (0, 10, "work"), (10, 5, "main"),
        (15, 10, "work"), (25, 5, "main"), (30, 5, "rest"),
    ]  # fmt: skip


def test_a_thread_that_only_pyspy_saw_gets_a_track(recorder):
    write_segment(
        recorder.directory, two_frames(PID + 9, label="late"), spawn_ns=recorder.manifest.started_ns
    )

    capture = open_capture(recorder.directory)

    track = capture.table("tracks").to_pylist()[-1]
    assert (track["track"], track["kind"], track["parent"]) == (2, "thread", 0)
    assert (track["pid"], track["tid"], track["name"]) == (PID, PID + 9, "late")
    assert set(capture.table("samples")["track"].to_pylist()) == {2}


def test_a_thread_of_another_pid_namespace_is_known_by_its_inner_id(tmp_path):
    recorder = make_recorder(tmp_path / "c")
    track = recorder.thread_track(0, PID, PID + 5, role="python", inner_tid=6)
    recorder.close()

    write_segment(recorder.directory, two_frames(6), spawn_ns=recorder.manifest.started_ns)

    capture = open_capture(recorder.directory)
    assert set(capture.table("samples")["track"].to_pylist()) == {track}
    assert capture.table("tracks")["name"].to_pylist()[track] == "busy"


def test_a_segment_of_an_unknown_process_is_left_out(recorder):
    started_ns = recorder.manifest.started_ns
    write_segment(recorder.directory, two_frames(8), spawn_ns=started_ns, pid=PID + 1)

    assert open_capture(recorder.directory).table("samples").num_rows == 0


def test_a_segment_that_cannot_be_read_is_a_gap_and_the_others_stay(recorder):
    # Given a whole one, and one that was cut off
    started_ns = recorder.manifest.started_ns
    write_segment(recorder.directory, two_frames(PID + 1), spawn_ns=started_ns)
    write_segment(recorder.directory, "[{", spawn_ns=started_ns + 50 * MS)

    capture = open_capture(recorder.directory)

    gaps = [gap for gap in capture.table("gaps").to_pylist() if gap["probe"] == "pyspy"]
    assert [gap["start_ns"] for gap in gaps] == [started_ns + 50 * MS]
    assert gaps[0]["end_ns"] >= gaps[0]["start_ns"]
    assert gaps[0]["track"] == 0
    assert len(samples(capture)) == 3


def test_events_that_made_no_sense_are_a_gap_with_their_count(recorder):
    events = [*two_frames(PID + 1), {}, event("X", 1, "x")]
    write_segment(recorder.directory, events, spawn_ns=recorder.manifest.started_ns)

    gaps = open_capture(recorder.directory).table("gaps").to_pylist()

    assert [gap["lost_count"] for gap in gaps if gap["probe"] == "pyspy"] == [2]


@pytest.mark.parametrize(
    "name",
    ["x.json", "1-2.json", "1-2-3.txt", "-1-2-3.json", f"{'9' * 30}-1-1.json",
     f"1-{'9' * 30}-1.json"],
)  # fmt: skip
def test_a_file_that_is_no_segment_is_left_alone(recorder, name):
    (recorder.directory / "raw" / "pyspy").mkdir()
    (recorder.directory / "raw" / "pyspy" / name).write_text("[]")

    capture = open_capture(recorder.directory)

    assert capture.table("samples").num_rows == 0
    assert "pyspy" not in capture.table("gaps")["probe"].to_pylist()


def test_names_that_utf8_cannot_say_are_replaced(recorder):
    # Given JSON with half a surrogate pair in it, which py-spy's target may choose
    events = [event("B", 0, "thread (5): \ud800"), event("B", 0, "f\udfff", "\ud900.py")]
    events.append(event("E", 10, "f"))
    write_segment(recorder.directory, events, spawn_ns=recorder.manifest.started_ns)

    capture = open_capture(recorder.directory)

    assert capture.table("frames")["function"].to_pylist() == ["f?"]
    assert capture.table("frames")["file"].to_pylist() == ["?.py"]


def test_a_segments_name_says_who_when_and_how_fast():
    assert segment_name(12, 345, 100) == "12-345-100.json"
