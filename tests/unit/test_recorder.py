"""The recorder: rows from any thread, tracks once, loss as gaps, and no half-made directories."""

from __future__ import annotations

import errno
import json
import resource
import subprocess
import sys
import threading

import numpy as np
import pyarrow as pa
import pytest

from collectors.capture import finalise, open_capture
from collectors.errors import OutputExists, OutputFull, OutputNotWritable
from collectors.recorder import RESERVE_BYTES, Recorder
from tests.programs import TARGETS
from tests.recordings import PID, count, make_manifest, make_recorder


def finish(recorder):
    recorder.close()
    recorder.manifest.stopped_ns = recorder.manifest.started_ns + 1_000
    return finalise(recorder.directory, recorder.manifest)


def test_rows_of_many_threads_are_all_kept(tmp_path):
    # Given
    recorder = make_recorder(tmp_path / "c")
    threads = [
        threading.Thread(target=lambda at=at: [count(recorder, [at + i]) for i in range(200)])
        for at in range(0, 1000, 200)
    ]

    # When
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    capture = finish(recorder)

    # Then
    assert sorted(capture.table("counters")["value"].to_pylist()) == list(range(1000))
    assert recorder.row_count == 1002


def test_columns_may_be_arrays_lists_or_left_out(tmp_path):
    recorder = make_recorder(tmp_path / "c")

    recorder.append(
        "gil",
        {
            "time_ns": np.array([1, 2], np.int64),
            "track": [0, 0],
            "switch_count": pa.array([7, 8], pa.int64()),
        },
    )
    recorder.append("gil", {"time_ns": [], "track": [], "switch_count": []})

    rows = finish(recorder).table("gil").to_pylist()
    assert [row["switch_count"] for row in rows] == [7, 8]
    assert all(row["holder"] is row["waiter_count"] is row["waiters"] is None for row in rows)


def test_a_track_is_registered_once(tmp_path):
    recorder = make_recorder(tmp_path / "c")

    again = recorder.thread_track(0, PID, PID + 1, name="busy", role="python")
    other = recorder.thread_track(0, PID, PID + 2, name="idle", role="python")
    reused = recorder.process_track(PID, 99, name="python", role="python")

    assert (again, other, reused) == (1, 2, 3)
    assert finish(recorder).table("tracks")["track"].to_pylist() == [0, 1, 2, 3]


def test_a_track_takes_what_is_learned_later_and_forgets_nothing(tmp_path):
    # Given a thread that was first seen by a probe that knows neither name nor inner id
    recorder = make_recorder(tmp_path / "c")
    first = recorder.thread_track(0, PID, 9, role="python")

    # When
    named = recorder.thread_track(0, PID, 9, name="engine", role="python", inner_tid=3)
    renamed = recorder.thread_track(0, PID, 9, name="other", role="python")

    # Then
    assert first == named == renamed
    row = next(r for r in finish(recorder).table("tracks").to_pylist() if r["track"] == first)
    assert (row["name"], row["inner_tid"], row["tid"]) == ("engine", 3, 9)


def test_a_counter_is_registered_once_for_each_label_set(tmp_path):
    recorder = make_recorder(tmp_path / "c")

    ids = [
        recorder.counter(name, labels, unit="s", kind="total")
        for name, labels in [("a", ""), ("a", 'x="1"'), ("a", ""), ("b", "")]
    ]

    assert ids == [0, 1, 0, 2]
    types = finish(recorder).table("counter_types").to_pylist()
    assert [(row["name"], row["labels"]) for row in types] == [("a", ""), ("a", 'x="1"'), ("b", "")]


def test_a_place_that_is_taken_is_left_alone(tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "mine").write_text("precious")

    with pytest.raises(OutputExists, match=str(tmp_path)):
        Recorder(tmp_path / "c", make_manifest())

    assert [path.name for path in (tmp_path / "c").iterdir()] == ["mine"]


def test_an_empty_directory_is_used(tmp_path):
    make_recorder(tmp_path).close()

    assert (tmp_path / "manifest.json").exists()


def test_below_a_file_nothing_can_be_made(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(OutputNotWritable, match="ENOTDIR"):
        Recorder(tmp_path / "file" / "c", make_manifest())


def test_a_disk_that_is_full_from_the_start_leaves_nothing_behind(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (RESERVE_BYTES // 2, before[1]))
    try:
        with pytest.raises(OutputFull):
            Recorder(tmp_path / "c", make_manifest())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert not (tmp_path / "c").exists()


def test_a_full_disk_ends_in_gaps_that_count_what_was_lost(tmp_path):
    # Given a process whose files may not grow beyond a little more than the reserve
    script = TARGETS / "record_until_full.py"

    # When
    ended = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "c")],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip

    # Then nothing was raised in it
    assert ended.stderr == ""
    said = json.loads(ended.stdout)
    assert said["slug"] == "output-full"
    # and each row is either in the capture or in its gaps
    capture = open_capture(tmp_path / "c")
    kept_count = capture.table("counters").num_rows
    gaps = [g for g in capture.table("gaps").to_pylist() if "counters" in g["reason"]]
    assert kept_count > 0
    assert kept_count + sum(gap["lost_count"] for gap in gaps) == said["appended_count"]
    assert capture.table("counters")["value"].to_pylist() == list(range(kept_count))


def test_a_disk_that_refuses_never_raises_in_a_probe(tmp_path, monkeypatch):
    # Given
    recorder = make_recorder(tmp_path / "c")
    recorder.flush()

    def refuse(_stream, _batch):
        raise OSError(errno.EIO, "")

    monkeypatch.setattr("collectors.stream.StreamWriter.write", refuse)

    # When
    count(recorder, range(3))
    recorder.flush()
    monkeypatch.undo()

    # Then
    assert recorder.failure is not None
    assert recorder.failure.slug == "output-not-writable"
    assert "EIO" in recorder.failure.message
    lost = [row["lost_count"] for row in finish(recorder).table("gaps").to_pylist()]
    assert lost == [3]
