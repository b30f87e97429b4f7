"""Collapsed stacks, and py-spy's chrome traces as anybody may have recorded them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from collectors.errors import ImportInvalid
from collectors.importers import collapsed, pyspy_trace
from collectors.importers.collapsed import SAMPLE_NS
from collectors.importers.formats import find_format
from collectors.importers.tables import to_capture
from collectors.importers.trace import Clock, Trace
from tests import foreign_traces as made
from tests.recordings import event, two_frames

Run = tuple[int, str, int, int, list[tuple[str, str]]]


def runs_of(trace: Trace) -> list[Run]:
    """Return each run's thread id and name, start, end and frames, innermost first."""
    columns = trace.sample_columns()
    found = []
    for start, duration, track, stack in zip(
        *(columns[name].tolist() for name in ("time_ns", "duration_ns", "track", "stack")),
        strict=True,
    ):
        row = trace.track_rows[track]
        path = trace.stacks.path(stack)
        found.append((row["tid"], row["name"], start, start + duration, path))
    return found


def read(directory: Path, text: str) -> Trace:
    return collapsed.read([made.collapsed(directory, text)])


def test_lines_become_runs_one_after_another_on_their_threads(tmp_path):
    path = made.collapsed(tmp_path)

    trace = collapsed.read([path])

    main, work = ("main", "app.py"), ("work", "lib/work.py")
    assert find_format(path) == "collapsed"
    assert runs_of(trace) == [
        (77, "MainThread", 0, 4 * SAMPLE_NS, [work, main]),
        (77, "MainThread", 4 * SAMPLE_NS, 5 * SAMPLE_NS, [main]),
        (78, "worker", 0, 2 * SAMPLE_NS, [work, ("run", "threading.py")]),
    ]
    assert trace.clock is Clock.OWN
    assert "not when" in trace.host["caveat"]


def test_frames_of_other_tools_have_no_file(tmp_path):
    trace = read(tmp_path, "python;_PyEval_EvalFrame;[libc.so] 3\nswapper;cpu_idle_[k] 1\n")

    assert [run[4] for run in runs_of(trace)] == [
        [("[libc.so]", ""), ("_PyEval_EvalFrame", ""), ("python", "")],
        [("cpu_idle_[k]", ""), ("swapper", "")],
    ]


def test_a_process_is_known_by_its_id_and_its_command_line_stays_behind(tmp_path):
    text = 'process 41:"sh -c a;b --token hush";process 42:"python";thread (43): T;run (a.py:1) 2\n'

    trace = read(tmp_path, text)

    assert {row["pid"] for row in trace.track_rows} == {42}
    assert [(run[0], run[4]) for run in runs_of(trace)] == [(43, [("run", "a.py")])]
    assert "hush" not in str([trace.track_rows, trace.stacks.frame_columns()])


def test_a_file_becomes_a_capture(tmp_path):
    path = made.collapsed(tmp_path)

    capture = to_capture(collapsed.read([path]), [path], "0")

    assert capture.table("samples").num_rows == 3


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("main;work", "lines that are no stack and count"),
        ("main;work -4", "lines that are no stack and count"),
        ("main;work 1.5", "lines that are no stack and count"),
        ("7", "lines that are no stack and count"),
        ("main;work 99999999999", "stacks deeper, or met more often, than any"),
        ("f;" * 3000 + "f 1", "stacks deeper, or met more often, than any"),
    ],
)
def test_lines_that_make_no_sense_are_left_out_and_counted(tmp_path, line, reason):
    trace = read(tmp_path, f"a;b 1\n{line}\n\na;c 1\n")

    assert len(runs_of(trace)) == 2
    assert trace.skipped == {reason: 1}


def test_bytes_that_are_not_utf8_are_readable_all_the_same(tmp_path):
    trace = read(tmp_path, "a;b\udcff 1\n")

    assert runs_of(trace)[0][4][0] == ("b\ufffd", "")


def test_a_line_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(collapsed, "MAX_LINE_BYTES", 100)

    with pytest.raises(ImportInvalid, match="line without end"):
        read(tmp_path, "a;" * 200)


def test_more_stacks_than_any_profile_has_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(collapsed, "MAX_STACK_COUNT", 3)

    with pytest.raises(ImportInvalid, match="more than 3 different stacks"):
        read(tmp_path, "a;b;c;d 1\n")


@pytest.mark.parametrize("text", ["", "a line of text\nand another 1\n", "{}", "a,b 1\nc,d 2\n"])
def test_other_texts_are_not_taken_for_stacks(tmp_path, text):
    assert not collapsed.is_mine(tmp_path / "a.txt", text.encode())


def pyspy_runs(directory: Path, events: list[Any]) -> list[Run]:
    return runs_of(pyspy_trace.read([made.pyspy(directory, events)]))


def test_py_spy_runs_stand_on_their_threads(tmp_path):
    path = made.pyspy(tmp_path)

    trace = pyspy_trace.read([path])

    assert find_format(path) == "pyspy_trace"
    assert trace.clock is Clock.OWN
    assert [(run[0], run[1], run[3] - run[2]) for run in runs_of(trace)] == [
        (77, "busy", 10_000_000), (77, "busy", 5_000_000), (77, "busy", 5_000_000),
    ]  # fmt: skip
    assert {row["pid"] for row in trace.track_rows} == {4242}


def test_without_thread_names_threads_are_counted(tmp_path):
    events = [one for key in (140_001, 140_002) for one in two_frames(1, key=key)]
    bare = [one for one in events if not one["name"].startswith("thread")]

    runs = pyspy_runs(tmp_path, bare)

    assert {run[0] for run in runs} == {1, 2}
    assert sum(run[3] - run[2] for run in runs) == 2 * 20_000_000


def test_processes_stay_apart_and_their_command_lines_behind(tmp_path):
    events = two_frames(7) + [{**one, "pid": 9} for one in two_frames(8)]
    events.insert(0, event("B", 0, 'process 4242:"python --token hush"', ""))

    trace = pyspy_trace.read([made.pyspy(tmp_path, events)])

    tracks = trace.track_rows
    assert {(row["pid"], row["tid"]) for row in tracks if row["kind"] == "thread"} == {
        (4242, 7), (9, 8),
    }  # fmt: skip
    assert "hush" not in str([tracks, trace.stacks.frame_columns()])


@pytest.mark.parametrize("odd", [None, 5, [], {"ph": "B"}, {**event("B", 5, "f"), "pid": "x"}])
def test_odd_events_are_left_out_and_counted(tmp_path, odd):
    trace = pyspy_trace.read([made.pyspy(tmp_path, [*two_frames(7), odd])])

    assert trace.skipped == {"events of no process or thread": 1}
    assert len(runs_of(trace)) == 3


@pytest.mark.parametrize("content", [b"[", b"{}", b'[{"cat": "py-spy"}', b"[" * 100_000])
def test_what_is_no_list_of_events_is_refused(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)

    with pytest.raises(ImportInvalid):
        pyspy_trace.read([path])


def test_a_recording_of_absurd_size_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(pyspy_trace, "MAX_UNPACKED_BYTES", 100)

    with pytest.raises(ImportInvalid, match="larger than"):
        pyspy_trace.read([made.pyspy(tmp_path)])


def test_a_trace_of_the_torch_profiler_is_not_taken_for_py_spys(tmp_path):
    events = json.dumps([{"ph": "X", "cat": "kernel", "name": "gemm"}]).encode()

    assert not pyspy_trace.is_mine(tmp_path / "a.json", events)
