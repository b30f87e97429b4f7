"""The child's table of stacks, its lines, and the parent's numbers for them."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from collectors.stacks import StackTable
from probes.sampler_link import StreamBroken
from probes.stacks.batches import LineDecoder, Look, Renumbering, StackBatch
from probes.stacks.table import ROOT, Interned

MAIN, WORK = ("main", "/a.py"), ("Pool.work", "/b.py")


def line(**fields: object) -> bytes:
    lists = ("seen", "runs", "frames", "stacks", "gaps", "events", "unread")
    empty = {name: list[object]() for name in lists}
    return json.dumps({**empty, "missed": 0, "cpu_ns": 0, **fields}).encode() + b"\n"


def batch(**fields: object) -> StackBatch:
    (made,) = LineDecoder().feed(line(**fields))
    return made


def test_a_stack_is_sent_once():
    interned = Interned()
    frames = [interned.frame(*MAIN), interned.frame(*WORK)]

    assert interned.stack(frames) == interned.stack(frames) == 1
    assert interned.stack([]) == ROOT
    assert interned.new_frames == [MAIN, WORK]
    assert interned.new_stacks == [(ROOT, 0), (0, 1)]


def test_numbers_go_on_after_they_were_sent():
    interned = Interned()
    interned.stack([interned.frame(*MAIN)])
    interned.new_frames.clear()
    interned.new_stacks.clear()

    interned.stack([interned.frame(*MAIN), interned.frame(*WORK)])

    assert interned.new_frames == [WORK]
    assert interned.new_stacks == [(0, 1)]


def test_a_line_may_come_in_pieces():
    whole = line(seen=[[7, 3, 10, 30, 12]], runs=[[7, 8, 10, 20, 0]])
    decoder = LineDecoder()

    assert decoder.feed(whole[:9]) == []
    (made,) = decoder.feed(whole[9:] + whole[:3])

    assert made.looks == {7: Look(3, 10, 30, 12)}
    assert made.looks[7].rate_hz == 2e9 / 20
    assert made.runs == [[7, 8, 10, 20, 0]]


@pytest.mark.parametrize("text", [b"{\n", b"[]\n", b"{}\n", line(seen=[[1]]), line(frames=[["x"]])])
def test_what_is_no_batch_breaks_the_stream(text):
    with pytest.raises(StreamBroken):
        LineDecoder().feed(text)


def test_samplers_that_number_differently_mean_the_same_stacks():
    # Given two samplers that met the same stack in another order
    table = StackTable()
    first, second = Renumbering(table), Renumbering(table)
    first.learn(batch(frames=[MAIN, WORK], stacks=[(-1, 0), (0, 1)]))
    second.learn(batch(frames=[WORK, MAIN], stacks=[(-1, 1), (-1, 0), (0, 0)]))

    # Then the capture has one number for it
    assert first.translate([1]).tolist() == second.translate([2]).tolist()
    assert table.path(int(first.translate([1])[0])) == [WORK, MAIN]
    assert table.path(int(second.translate([1])[0])) == [WORK]


@pytest.mark.parametrize(
    "fields",
    [
        {"frames": [MAIN], "stacks": [(-1, 1)]},
        {"frames": [MAIN], "stacks": [(0, 0)]},
        {"frames": [MAIN], "stacks": [(-2, 0)]},
        {"frames": [MAIN], "stacks": [(-1, -1)]},
    ],
)
def test_a_stack_of_frames_that_were_never_sent_breaks_the_stream(fields):
    with pytest.raises(StreamBroken):
        Renumbering(StackTable()).learn(batch(**fields))


@pytest.mark.parametrize("stack", [-1, 1])
def test_a_run_of_a_stack_that_was_never_sent_breaks_the_stream(stack):
    numbers = Renumbering(StackTable())
    numbers.learn(batch(frames=[MAIN], stacks=[(-1, 0)]))

    with pytest.raises(StreamBroken):
        numbers.translate([0, stack])


def test_a_table_goes_on_from_a_capture_s_rows():
    table = StackTable()
    table.stack([table.frame(*MAIN), table.frame(*WORK)])
    again = StackTable()

    again.load(pa.table(table.frame_columns()), pa.table(table.stack_columns()))

    assert again.path(1) == [WORK, MAIN]
    assert again.frame_columns(1) == {"frame": [1], "function": [WORK[0]], "file": [WORK[1]]}
    assert again.stack_columns(1) == {"stack": [1], "parent": [0], "frame": [1]}
