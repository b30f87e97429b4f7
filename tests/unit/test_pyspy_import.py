"""What one py-spy file says becomes runs of equal stacks."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from collectors.errors import ImportInvalid
from collectors.importers.pyspy_chrometrace import MAX_DEPTH, Segment, ThreadRuns, read_segment
from collectors.stacks import StackTable
from tests.recordings import event, two_frames


@pytest.fixture
def read(tmp_path: Path):
    """Return a function that reads events, and the stacks they were interned into."""
    stacks = StackTable()

    def read_events(events: Any) -> Segment:
        (tmp_path / "s.json").write_text(json.dumps(events))
        return read_segment(tmp_path / "s.json", stacks)

    read_events.stacks = stacks  # type: ignore[attr-defined]
    return read_events


def path_of(stacks: StackTable, stack: int) -> list[str]:
    names = stacks.frame_columns()["function"]
    columns = stacks.stack_columns()
    found: list[str] = []
    while stack != -1:
        found.insert(0, str(names[int(columns["frame"][stack])]))
        stack = int(columns["parent"][stack])
    return found


def runs_of(stacks: StackTable, runs: ThreadRuns) -> list[tuple[int, int, str]]:
    """Return (start us, end us, path)."""
    return [
        (start // 1000, end // 1000, " > ".join(path_of(stacks, stack)))
        for start, end, stack in zip(runs.start_ns, runs.end_ns, runs.stack, strict=True)
    ]


def test_each_run_has_the_stack_that_stood(read):
    segment = read(two_frames(7, begin_us=1_000))

    (thread,) = segment.threads
    assert (thread.tid, thread.name) == (7, "busy")
    assert runs_of(read.stacks, thread) == [
        (1_000, 11_000, "main > work"),
        (11_000, 16_000, "main"),
        (16_000, 21_000, "main > rest"),
    ]
    assert (segment.first_ns, segment.end_ns) == (1_000_000, 21_000_000)
    assert segment.lost_count == 0


def test_threads_are_told_apart_though_their_events_alternate(read):
    events = two_frames(7, key=1) + two_frames(8, key=2, label="a: b (c)")
    events.sort(key=lambda one: one["ts"])

    threads = read(events).threads

    assert [(thread.tid, thread.name) for thread in threads] == [(7, "busy"), (8, "a: b (c)")]
    assert [len(thread.stack) for thread in threads] == [3, 3]
    assert threads[0].stack == threads[1].stack


def test_a_thread_without_python_frames_has_no_run(read):
    segment = read([event("B", 0, "thread (7): x"), event("E", 500, "thread (7): x")])

    assert runs_of(read.stacks, segment.threads[0]) == []


def test_a_thread_that_left_and_came_back_has_a_hole(read):
    events = two_frames(7, begin_us=0) + two_frames(7, begin_us=50_000)

    (thread,) = read(events).threads

    runs = runs_of(read.stacks, thread)
    assert [run[0] for run in runs] == [0, 10_000, 15_000, 50_000, 60_000, 65_000]
    assert runs[2][1] == 20_000


def test_a_thread_id_that_was_used_again_has_no_overlap(read):
    # Given a thread that ended, whose stack py-spy keeps to the end, and its successor
    old, new = two_frames(7, begin_us=0, key=1), two_frames(7, begin_us=2_000, key=2)

    # When
    (thread,) = read(old[:3] + new + old[3:]).threads

    # Then
    runs = runs_of(read.stacks, thread)
    assert all(start < end for start, end, _ in runs)
    assert all(one[1] <= two[0] for one, two in pairwise(runs))


def test_a_thread_may_have_no_name(read):
    assert read([event("B", 0, "thread (7)"), event("E", 5, "x")]).threads[0].name == ""


def without(name):
    broken = event("B", 1, "x")
    broken.pop(name)
    return broken


@pytest.mark.parametrize(
    "nonsense",
    [
        {}, [], 3, None, "B", without("ph"), without("ts"), without("tid"), without("args"),
        event("X", 1, "x"),
        event("B", -1, "x"),
        event("B", 1 << 80, "x"),
        event("B", 1.5, "x"),
        event("B", 1, 7),
        event("B", 1, "x", None),
        event("B", 1, "x", key=[1]),
        event("B", 1, "no thread", key=99),
        event("B", 1, "thread (12345678): not a thread id", key=99),
        event("E", 1, "never begun", key=99),
    ],
)  # fmt: skip
def test_an_event_that_makes_no_sense_is_counted_and_the_rest_is_read(read, nonsense):
    # Given it in the midst of good ones
    events = two_frames(7)
    events.insert(4, nonsense)

    # When
    segment = read(events)

    # Then
    assert segment.lost_count == 1
    assert [len(thread.stack) for thread in segment.threads] == [3]


def test_time_does_not_run_backwards(read):
    events = two_frames(7, begin_us=1_000)
    events.insert(4, event("B", 10, "late"))

    assert read(events).lost_count == 1


def test_a_recursion_without_end_is_bounded(read):
    depth = MAX_DEPTH + 10
    events = [event("B", 0, "thread (7)")]
    events += [event("B", 0, "again") for _ in range(depth)]
    events.append(event("E", 9, "again"))

    segment = read(events)

    assert segment.lost_count == 10
    assert len(path_of(read.stacks, segment.threads[0].stack[0])) == MAX_DEPTH


@pytest.mark.parametrize(
    "content",
    [b"", b"[", b"{}", b"3", b"null", b'"x"', b"\xff\xfe", b"[" * 100_000, b"[1e",
     b"[" + b"9" * 5000],
)  # fmt: skip
def test_what_is_no_trace_is_refused(tmp_path, content):
    (tmp_path / "s.json").write_bytes(content)

    with pytest.raises(ImportInvalid, match=r"s\.json") as refused:
        read_segment(tmp_path / "s.json", StackTable())

    assert refused.value.remedy


def test_a_file_cut_off_anywhere_is_refused(tmp_path):
    text = json.dumps(two_frames(7))
    for cut in range(len(text)):
        (tmp_path / "s.json").write_text(text[:cut])
        with pytest.raises(ImportInvalid):
            read_segment(tmp_path / "s.json", StackTable())


def test_what_cannot_be_read_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(ImportInvalid, match="cannot be read"):
            read_segment(path, StackTable())


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with (tmp_path / "s.json").open("wb") as file:
        file.truncate((1 << 30) + 1)

    with pytest.raises(ImportInvalid, match="larger"):
        read_segment(tmp_path / "s.json", StackTable())
