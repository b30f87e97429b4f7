"""Stacks are interned as a prefix tree and can be walked back to their frames."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from collectors.stacks import ROOT, StackTable


def frames_of(table: StackTable, stack: int) -> list[object]:
    """Walk from a leaf to the root."""
    columns = table.stack_columns()
    parents = dict(zip(columns["stack"], columns["parent"], strict=True))
    frames = dict(zip(columns["stack"], columns["frame"], strict=True))
    found = []
    at: object = stack
    while at != ROOT:
        found.append(frames[at])
        at = parents[at]
    return found[::-1]


def test_no_frames_are_the_root():
    assert StackTable().stack([]) == ROOT


def test_a_function_of_the_same_name_in_another_file_is_another_frame():
    table = StackTable()

    assert table.frame("f", "a.py") == table.frame("f", "a.py") == 0
    assert table.frame("f", "b.py") == 1
    assert table.frame_columns() == {
        "frame": [0, 1],
        "function": ["f", "f"],
        "file": ["a.py", "b.py"],
    }


@given(st.lists(st.lists(st.integers(0, 5), max_size=6), max_size=30))
def test_equal_paths_share_an_id_and_each_path_is_found_again(paths):
    table = StackTable()

    ids = [table.stack(path) for path in paths]

    assert [frames_of(table, stack) for stack in ids] == paths
    assert len(set(ids)) == len({tuple(path) for path in paths})
    prefixes = {tuple(path[:n]) for path in paths for n in range(1, len(path) + 1)}
    assert table.stack_columns()["stack"] == list(range(len(prefixes)))
