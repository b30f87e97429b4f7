"""rocpd databases: what is in them becomes tracks and slices, and nothing else of the file does."""

from __future__ import annotations

import gzip
import sqlite3
import sys
from pathlib import Path

import pytest

from collectors.errors import ImportInvalid
from collectors.importers import rocpd, sqlite_columns, sqlite_source
from collectors.importers.formats import find_format
from collectors.importers.sqlite_source import Database
from collectors.importers.tables import to_capture
from collectors.importers.trace import Clock, Trace
from collectors.slices import ANNOTATION, API, KERNEL, MEMCPY, NONE
from tests import foreign_traces as made

S = made.ROCPD_SUFFIX
GUID = S[1:].replace("_", "-")
NODE = 3947715811
FIRST_NS = 63_870_000_000_000
# A call, a range with its text and one without, two copies, as sdk 1.1 writes them.
HOST_ROWS = f"""
INSERT INTO rocpd_string{S} (id, string) VALUES (9001, 'HIP_RUNTIME_API_EXT'),
    (9002, 'hipLaunchKernel'), (9003, 'MARKER_CORE_RANGE_API'), (9004, 'roctxThreadRangeA'),
    (9005, 'MEMORY_COPY_HOST_TO_DEVICE'), (9006, 'MEMORY_COPY_DEVICE_TO_HOST'),
    (9007, 'MEMORY_COPY_HOST_TO_HOST');
INSERT INTO rocpd_event{S} (id, category_id, stack_id, parent_stack_id, correlation_id, extdata)
    VALUES (90001, 9001, 6001, 6001, 0, '{{}}'),
    (90002, 9003, 70001, 0, 0, '{{"message": "decode step"}}'),
    (90003, 9003, 70002, 0, 0, '{{}}'), (90004, 9001, 70003, 0, 0, '{{}}');
INSERT INTO rocpd_region{S} (id, nid, pid, tid, start, "end", name_id, event_id) VALUES
    (1, {NODE}, 908, 908, {FIRST_NS}, {FIRST_NS + 10}, 9002, 90001),
    (2, {NODE}, 908, 973, {FIRST_NS}, {FIRST_NS + 90}, 9004, 90002),
    (3, {NODE}, 908, 973, {FIRST_NS + 1}, {FIRST_NS + 95}, 9004, 90003);
INSERT INTO rocpd_memory_copy{S} (id, nid, pid, tid, start, "end", name_id, dst_agent_id,
    src_agent_id, size, stream_id, event_id) VALUES
    (1, {NODE}, 908, 908, {FIRST_NS + 20}, {FIRST_NS + 25}, 9005, 3, 0, 4096, 0, 90004),
    (2, {NODE}, 908, 908, {FIRST_NS + 30}, {FIRST_NS + 37}, 9006, 0, 4, 512, 5, NULL),
    (3, {NODE}, 908, 908, {FIRST_NS + 40}, {FIRST_NS + 41}, 9007, 0, 1, 512, 5, NULL);
"""


def read(directory: Path, more: str = "", *, device_only: bool = False) -> Trace:
    return rocpd.read([made.rocpd(directory, more)], device_only=device_only)


def test_real_dispatches_have_the_times_of_their_source(tmp_path):
    trace = read(tmp_path)

    slices = made.on_gpus(trace)
    assert trace.clock is Clock.BOOTTIME
    assert len(slices) == made.REAL_COUNT
    assert int(slices.time_ns.min()) == made.REAL_FIRST_NS
    assert int(slices.end_ns.max()) - made.REAL_FIRST_NS == made.REAL_SPAN_NS
    assert made.union_ns(slices) == made.REAL_BUSY_NS
    assert int(slices.duration_ns.sum()) == made.REAL_SUM_NS
    assert not trace.skipped


def test_dispatches_stand_on_their_streams_of_the_gpu_and_know_their_launcher(tmp_path):
    trace = read(tmp_path)

    tracks = trace.track_rows
    (device,) = (row for row in tracks if row["kind"] == "device")
    streams = {row["tid"] for row in tracks if row["kind"] == "stream"}
    slices = trace.slices()
    assert (device["device"], device["name"]) == (0, "AMD Instinct MI350X")
    assert streams == {-16, 565, 566, 567, 568, 570}
    assert {row["pid"] for row in tracks if row["kind"] == "stream"} == {908}
    assert {tracks[track]["tid"] for track in slices.launch_track.tolist()} == {908, 1229}
    assert sorted(slices.correlation.tolist()) == list(range(6001, 6301))


def test_kernels_have_readable_names(tmp_path):
    trace = read(tmp_path)

    names = [text for kind, text in trace.name_rows if kind == KERNEL]
    assert len(names) == 67
    assert "ncclDevKernel_Generic_1(ncclDevKernelArgsStorage<4096ul>)" in names
    assert not any(name.endswith(".kd") for name in names)


def test_a_file_becomes_a_capture_without_command_line_and_environment(tmp_path):
    path = made.rocpd(tmp_path)

    capture = to_capture(rocpd.read([path]), [path], "0")

    assert capture.table("slices").num_rows == made.REAL_COUNT
    assert b"not-to-be-copied" in path.read_bytes()
    said = [str(table.to_pydict()) for table in capture.tables.values()]
    assert "not-to-be-copied" not in "".join([*said, str(capture.manifest)])


def test_nothing_is_written_beside_the_file(tmp_path):
    path = made.rocpd(tmp_path)
    before = path.read_bytes()

    rocpd.read([path])

    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before


def test_calls_ranges_and_copies(tmp_path):
    trace = read(tmp_path, HOST_ROWS)

    rows = [row for row in made.rows_of(trace) if row[0] != KERNEL]
    assert [(kind, name, end - start) for kind, name, _, start, end in rows] == [
        (API, "hipLaunchKernel", 10),
        (ANNOTATION, "decode step", 90),
        (ANNOTATION, "roctxThreadRangeA", 94),
        (MEMCPY, "HOST_TO_DEVICE", 5),
        (MEMCPY, "DEVICE_TO_HOST", 7),
    ]
    assert [track for *_, track, _, _ in rows[3:]] == ["default stream", "stream 5"]
    assert trace.skipped == {"rows of processes or GPUs that the file does not list": 1}


def test_a_copy_has_its_size_and_the_gpu_that_made_it(tmp_path):
    trace = read(tmp_path, HOST_ROWS)

    slices = trace.slices()
    is_copy = [trace.name_rows[name][0] == MEMCPY for name in slices.name.tolist()]
    copies = slices.where(is_copy)
    assert copies.size_bytes.tolist() == [4096, 512]
    assert [trace.track_rows[track]["device"] for track in copies.track.tolist()] == [1, 2]
    assert copies.correlation.tolist() == [70003, NONE]


def test_a_call_and_its_kernel_have_the_same_correlation(tmp_path):
    trace = read(tmp_path, HOST_ROWS)

    slices = trace.slices()
    kinds = [
        trace.name_rows[name][0]
        for name, correlation in zip(slices.name.tolist(), slices.correlation.tolist(), strict=True)
        if correlation == 6001
    ]
    assert sorted(kinds) == [API, KERNEL]


def test_device_only_leaves_out_the_host(tmp_path):
    trace = read(tmp_path, HOST_ROWS, device_only=True)

    assert {kind for kind, _ in trace.name_rows} == {KERNEL, MEMCPY}
    assert {row["kind"] for row in trace.track_rows} == {"process", "device", "stream"}
    assert made.union_ns(made.on_gpus(trace)) == made.REAL_BUSY_NS + 5 + 7


def test_what_has_no_stream_stands_on_its_queue(tmp_path):
    trace = read(tmp_path, f"UPDATE rocpd_kernel_dispatch{S} SET stream_id = 0;")

    streams = [row for row in trace.track_rows if row["kind"] == "stream"]
    assert {row["name"] for row in streams} == {f"queue {queue}" for queue in range(16, 21)}
    assert {row["tid"] for row in streams} == set(range(-20, -15))


def test_graphs_of_newer_schemas(tmp_path):
    newer = f"""
    UPDATE rocpd_metadata{S} SET value = '3.0.2' WHERE tag = 'schema_version';
    ALTER TABLE rocpd_kernel_dispatch{S} ADD COLUMN graph_exec_id INTEGER;
    UPDATE rocpd_kernel_dispatch{S} SET graph_exec_id = id % 3;
    """

    graphs = read(tmp_path, newer).slices().graph.tolist()

    assert sorted(graphs) == [NONE] * 100 + [1] * 100 + [2] * 100


def test_a_merged_file_holds_several_processes(tmp_path):
    # Given the same tables again, with another suffix and process
    other = "_019b0000_0000_7908_8908_0000000000ff"
    path = made.rocpd(tmp_path)
    database = sqlite3.connect(path)
    statements = list(database.iterdump())
    for statement in statements:
        if S in statement and not statement.startswith(("CREATE VIEW", 'INSERT INTO "sqlite')):
            database.execute(statement.replace(S, other))
    database.execute(f"UPDATE rocpd_info_process{other} SET pid = 909")
    database.commit()
    database.close()

    # When
    trace = rocpd.read([path])

    # Then
    assert len(trace.slices()) == 2 * made.REAL_COUNT
    assert {row["pid"] for row in trace.track_rows if row["kind"] == "stream"} == {908, 909}
    assert len([row for row in trace.track_rows if row["kind"] == "device"]) == 1


def test_the_same_process_twice_counts_once(tmp_path):
    path = made.rocpd(tmp_path)

    trace = rocpd.read([path, path])

    assert len(trace.slices()) == made.REAL_COUNT
    assert trace.skipped == {"processes that another file holds, too": 1}


@pytest.mark.parametrize("is_driver_there", [True, False])
def test_ranges_of_rows_are_read_in_parallel_and_slowly_alike(
    tmp_path, monkeypatch, is_driver_there
):
    path = made.rocpd(tmp_path)
    expected = rocpd.read([path]).slices()
    monkeypatch.setattr(sqlite_columns, "MIN_PARALLEL_ROWS", 10)
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0, 1, 2})
    if not is_driver_there:
        monkeypatch.setitem(sys.modules, "adbc_driver_sqlite", None)

    found = rocpd.read([path]).slices()

    assert sorted(found.time_ns.tolist()) == sorted(expected.time_ns.tolist())
    assert sorted(found.correlation.tolist()) == sorted(expected.correlation.tolist())


@pytest.mark.parametrize("value", ["'soon'", "x'00ff'", "NULL", "1.5e300"])
def test_times_that_are_no_integers_are_left_out_and_counted(tmp_path, value):
    # Given a table without the real one's NOT NULL
    odd = f"""
    PRAGMA legacy_alter_table = ON;
    CREATE TABLE loose AS SELECT * FROM rocpd_kernel_dispatch{S};
    DROP TABLE rocpd_kernel_dispatch{S};
    ALTER TABLE loose RENAME TO rocpd_kernel_dispatch{S};
    UPDATE rocpd_kernel_dispatch{S} SET start = {value} WHERE id IN (6003, 6250);
    """

    trace = read(tmp_path, odd)

    assert len(trace.slices()) == made.REAL_COUNT - 2
    assert trace.skipped == {sqlite_columns.ODD_ROWS: 2}


def test_negative_durations_and_impossible_times_are_left_out_and_counted(tmp_path):
    odd = f"""
    UPDATE rocpd_kernel_dispatch{S} SET "end" = start - 1 WHERE id = 6001;
    UPDATE rocpd_kernel_dispatch{S} SET start = 1 << 62, "end" = (1 << 62) + 5 WHERE id = 6002;
    """

    trace = read(tmp_path, odd)

    assert len(trace.slices()) == made.REAL_COUNT - 2
    assert trace.skipped == {"negative durations": 1, "times out of range": 1}


def test_dispatches_of_cpus_and_of_nobody_are_left_out_and_counted(tmp_path):
    odd = f"""
    UPDATE rocpd_kernel_dispatch{S} SET agent_id = 0 WHERE id = 6001;
    UPDATE rocpd_kernel_dispatch{S} SET pid = 5 WHERE id = 6002;
    """

    trace = read(tmp_path, odd)

    assert trace.skipped == {"rows of processes or GPUs that the file does not list": 2}


def test_names_that_are_not_utf8_are_readable_all_the_same(tmp_path):
    odd = f"UPDATE rocpd_info_kernel_symbol{S} SET display_name = CAST(x'6bff' AS TEXT);"

    trace = read(tmp_path, odd)

    assert {text for _, text in trace.name_rows} == {"k\ufffd"}


def test_progress_ends_at_one(tmp_path):
    seen: list[float] = []

    rocpd.read([made.rocpd(tmp_path, HOST_ROWS)], seen.append)

    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (f"UPDATE rocpd_metadata{S} SET value = '4' WHERE tag = 'schema_version'", "schema 4"),
        (f"DROP TABLE rocpd_info_agent{S}", "no table rocpd_info_agent"),
        (f"ALTER TABLE rocpd_memory_copy{S} RENAME COLUMN size TO bytes", "no column size"),
        (
            f"DROP TABLE rocpd_kernel_dispatch{S}; DROP TABLE rocpd_memory_copy{S};"
            f"DROP TABLE rocpd_region{S}",
            "none of rocpd's tables",
        ),
    ],
)
def test_another_layout_is_refused_and_says_which(tmp_path, more, said):
    with pytest.raises(ImportInvalid, match=said):
        read(tmp_path, f"PRAGMA legacy_alter_table = ON; {more};")


def test_a_view_in_place_of_a_table_is_never_run(tmp_path):
    endless = f"""
    DROP TABLE rocpd_kernel_dispatch{S};
    CREATE VIEW rocpd_kernel_dispatch{S} AS WITH RECURSIVE n(i) AS
        (SELECT 1 UNION ALL SELECT i + 1 FROM n)
        SELECT i AS id, 908 AS pid, i AS start, i AS "end", 2 AS agent_id, 8 AS kernel_id FROM n;
    """

    trace = read(tmp_path, endless)

    assert len(trace.slices()) == 0


def test_a_generated_column_is_never_run(tmp_path):
    bomb = f"""
    ALTER TABLE rocpd_kernel_dispatch{S} RENAME COLUMN start TO was;
    ALTER TABLE rocpd_kernel_dispatch{S} ADD COLUMN
        start BIGINT GENERATED ALWAYS AS (length(zeroblob(900000000))) VIRTUAL;
    """

    with pytest.raises(ImportInvalid, match="no column start"):
        read(tmp_path, f"PRAGMA legacy_alter_table = ON; {bomb}")


def test_statements_over_views_are_refused(tmp_path):
    with Database(made.rocpd(tmp_path)) as database, pytest.raises(ImportInvalid):
        list(database.rows("SELECT count(*) FROM rocpd_kernel_dispatch"))


def test_a_statement_without_end_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite_source, "_BASE_STEPS", 1_000_000)
    with Database(made.rocpd(tmp_path)) as database:
        many = ", ".join(f"rocpd_kernel_dispatch{S} AS t{index}" for index in range(8))
        with pytest.raises(ImportInvalid, match="does not end"):
            list(database.rows(f"SELECT 1 FROM {many} WHERE t0.id + t7.id < 0"))


def test_cut_off_and_damaged_files_are_refused(tmp_path):
    path = made.rocpd(tmp_path)
    content = path.read_bytes()

    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ImportInvalid, match="cut off"):
        rocpd.read([path])
    path.write_bytes(content[:100] + bytes(len(content) - 100))
    with pytest.raises(ImportInvalid, match="damaged"):
        rocpd.read([path])
    path.write_bytes(content[:50])
    with pytest.raises(ImportInvalid, match="no SQLite database"):
        rocpd.read([path])


@pytest.mark.parametrize("end", ["-wal", "-journal"])
def test_a_file_that_a_writer_left_unfinished_is_refused(tmp_path, end):
    path = made.rocpd(tmp_path)
    path.with_name(path.name + end).write_bytes(b"rows")

    with pytest.raises(ImportInvalid, match="had not finished"):
        rocpd.read([path])


def test_a_packed_database_says_how_to_unpack_it(tmp_path):
    packed = tmp_path / "908_results.db.gz"
    packed.write_bytes(gzip.compress(made.rocpd(tmp_path).read_bytes()))

    assert find_format(packed) == "rocpd"
    with pytest.raises(ImportInvalid, match="is packed"):
        rocpd.read([packed])


def test_a_path_with_odd_characters_is_no_query(tmp_path):
    odd = tmp_path / "a?mode=rwc&b#%20 ü"
    odd.mkdir()

    assert len(read(odd).slices()) == made.REAL_COUNT
