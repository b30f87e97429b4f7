"""A capture opens, finished or not, here and in the tools that people query with."""

from __future__ import annotations

import json
import os
import shutil

import duckdb
import polars
import pyarrow.dataset
import pytest

from collectors.capture import finalise, open_capture
from collectors.errors import CaptureInvalid, OutputNotWritable
from collectors.schema import TABLES
from tests.recordings import PID, count, make_recorder, two_frames, write_segment


@pytest.fixture
def recorder(tmp_path):
    """A recording with some rows of every kind, and a segment."""
    recorder = make_recorder(tmp_path / "c")
    started_ns = recorder.manifest.started_ns
    count(recorder, range(100))
    recorder.counter("latency", 'model="m"', unit="s", kind="total")
    recorder.append("gil", {"time_ns": [started_ns + 5], "track": [0], "holder": [1],
                            "switch_count": [3], "waiters": [[0, 1]]})  # fmt: skip
    recorder.gap("threads", started_ns, started_ns + 10, "because", 4, 0)
    write_segment(recorder.directory, two_frames(PID + 1), spawn_ns=started_ns)
    recorder.flush()
    return recorder


def finish(recorder):
    recorder.close()
    recorder.manifest.stopped_ns = recorder.manifest.started_ns + 30_000_000
    recorder.manifest.state = "complete"
    return finalise(recorder.directory, recorder.manifest)


def test_a_finished_capture_is_what_was_recorded(recorder):
    # When
    finished = finish(recorder)
    opened = open_capture(recorder.directory)

    # Then
    assert not opened.is_recovered
    assert not opened.is_partial
    assert opened.end_ns - opened.start_ns == 30_000_000
    assert opened.manifest == finished.manifest
    for name, schema in TABLES.items():
        assert opened.table(name).schema == schema, name
        assert opened.table(name).equals(finished.table(name)), name
    assert opened.table("counters")["value"].to_pylist() == list(range(100))
    assert opened.table("samples")["duration_ns"].to_pylist() == [10_000_000, 5_000_000, 5_000_000]
    assert sorted(path.name for path in recorder.directory.iterdir()) == ["manifest.json", "tables"]


def test_an_unfinished_capture_holds_the_same_rows_and_says_that_it_was_cut_off(recorder):
    # Given a recorder that was killed, so to say
    copy = recorder.directory.with_name("cut")
    shutil.copytree(recorder.directory, copy)
    finished = finish(recorder)

    # When
    opened = open_capture(copy)

    # Then
    assert opened.is_recovered
    assert opened.is_partial
    for name in ("tracks", "counters", "gil", "samples", "stacks", "frames"):
        assert opened.table(name).num_rows == finished.table(name).num_rows, name
    gap = opened.table("gaps").to_pylist()[-1]
    assert gap["probe"] == "recorder"
    assert gap["start_ns"] == opened.end_ns
    assert opened.end_ns >= opened.table("counters")["time_ns"][-1].as_py()


def test_opening_never_writes(recorder):
    def content():
        return {p: p.read_bytes() for p in recorder.directory.rglob("*") if p.is_file()}

    before = content()

    open_capture(recorder.directory)

    assert content() == before


def test_rows_of_a_finished_capture_are_in_order_of_time(recorder):
    started_ns = recorder.manifest.started_ns
    recorder.append("counters", {"time_ns": [started_ns - 50], "track": [0], "counter": [0],
                                 "value": [-1.0]})  # fmt: skip

    times_ns = finish(recorder).table("counters")["time_ns"].to_pylist()

    assert times_ns[0] == started_ns - 50
    assert times_ns == sorted(times_ns)


def test_a_torn_stream_is_named_in_the_gaps(recorder):
    recorder.close()
    stream = recorder.directory / "stream" / "counters.arrows"
    os.truncate(stream, stream.stat().st_size - 1)

    capture = open_capture(recorder.directory)

    assert capture.table("counters").num_rows == 0
    assert "counters torn" in capture.table("gaps").to_pylist()[-1]["reason"]


def test_a_capture_opens_after_any_file_of_its_streams_was_lost(recorder):
    recorder.close()
    for name in TABLES:
        copy = recorder.directory.with_name(f"without-{name}")
        shutil.copytree(recorder.directory, copy)
        (copy / "stream" / f"{name}.arrows").unlink()

        assert open_capture(copy).is_recovered, name


def test_a_finish_that_is_refused_leaves_the_recording(recorder, monkeypatch):
    # Given
    recorder.close()

    def refuse(*_arguments, **_options):
        raise PermissionError(13, "")

    monkeypatch.setattr("collectors.capture.os.replace", refuse)

    # When
    with pytest.raises(OutputNotWritable, match="EACCES"):
        finalise(recorder.directory, recorder.manifest)

    # Then
    monkeypatch.undo()
    assert not (recorder.directory / "tables.tmp").exists()
    assert open_capture(recorder.directory).table("counters").num_rows == 100


def test_a_damaged_table_is_named(recorder):
    finish(recorder)
    (recorder.directory / "tables" / "gil.arrow").write_bytes(b"not arrow at all")

    with pytest.raises(CaptureInvalid, match=r"gil\.arrow is damaged"):
        open_capture(recorder.directory)


def test_a_table_of_a_kind_that_was_not_recorded_is_empty(recorder):
    finish(recorder)
    (recorder.directory / "tables" / "gil.arrow").unlink()

    assert open_capture(recorder.directory).table("gil").num_rows == 0


@pytest.mark.parametrize("name", [".", "manifest.json"])
def test_what_is_no_capture_is_refused(tmp_path, name):
    (tmp_path / "manifest.json").write_text("{}")

    with pytest.raises(CaptureInvalid) as refused:
        open_capture(tmp_path / name)

    assert refused.value.exit_code == 5
    assert refused.value.remedy


def test_a_newer_capture_is_refused_with_the_way_out(recorder):
    finish(recorder)
    path = recorder.directory / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 999}))

    with pytest.raises(CaptureInvalid, match="999") as refused:
        open_capture(recorder.directory)

    assert "upgrade" in refused.value.remedy


SECONDS_BY_LEAF = """
    select frames.function, sum(samples.duration_ns) / 1e9 as seconds
    from samples join stacks using (stack) join frames using (frame)
    group by all order by seconds desc, function
"""


def test_duckdb_answers_a_real_question_from_opened_tables(recorder):
    tables = finish(recorder).tables

    with duckdb.connect() as database:
        for name, table in tables.items():
            database.register(name, table)
        answer = database.execute(SECONDS_BY_LEAF).fetchall()

    assert answer == [("work", 0.01), ("main", 0.005), ("rest", 0.005)]


def test_duckdb_answers_a_real_question_from_the_files(recorder):
    finish(recorder)
    files = recorder.directory / "tables"

    with duckdb.connect() as database:
        for name in TABLES:
            table = pyarrow.dataset.dataset(files / f"{name}.arrow", format="ipc")
            database.register(name, table)
        answer = database.execute(SECONDS_BY_LEAF).fetchall()

    assert answer == [("work", 0.01), ("main", 0.005), ("rest", 0.005)]


def test_polars_answers_a_real_question_from_the_files(recorder):
    finish(recorder)
    files = recorder.directory / "tables"
    samples, stacks, frames = (
        polars.read_ipc(files / f"{name}.arrow") for name in ("samples", "stacks", "frames")
    )

    answer = (
        samples.join(stacks, on="stack")
        .join(frames, on="frame")
        .group_by("function")
        .agg(polars.col("duration_ns").sum())
        .sort("duration_ns", "function", descending=[True, False])
    )

    assert answer.rows() == [("work", 10_000_000), ("main", 5_000_000), ("rest", 5_000_000)]


@pytest.mark.parametrize("name", list(TABLES))
def test_polars_reads_every_table(recorder, name):
    capture = finish(recorder)

    table = polars.read_ipc(recorder.directory / "tables" / f"{name}.arrow")

    assert table.height == capture.table(name).num_rows
    assert table.columns == TABLES[name].names
