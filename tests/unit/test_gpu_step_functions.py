"""Step functions, nested calls, and what looks say of the time between them, instant by instant."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from analyzers.gpu.host_looks import Reach, nearest, ticks
from analyzers.gpu.host_slices import nest
from analyzers.gpu.step_functions import NOTHING, Steps, cut, label_open, steps_of, unlabelled
from analyzers.intervals import empty, intervals

END = 80
CUTS = st.lists(st.integers(0, END), min_size=2, max_size=16, unique=True).map(sorted)


def array(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def pairs(edges: list[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return disjoint intervals: every other one between the edges."""
    kept = edges[: len(edges) // 2 * 2]
    return array(*kept[::2]), array(*kept[1::2])


def drawn(steps: Steps) -> list[int]:
    """Return the label of each instant."""
    canvas = [NOTHING] * END
    edges = zip(steps.edge[:-1].tolist(), steps.edge[1:].tolist(), strict=True)
    for (start, end), label in zip(edges, steps.label.tolist(), strict=True):
        assert start < end
        canvas[max(0, start) : max(0, end)] = [label] * (min(END, end) - max(0, start))
    return canvas[:END]


@given(CUTS, CUTS, st.lists(st.integers(0, 3), min_size=8, max_size=8))
def test_pieces_are_cut_at_every_step_and_nothing_is_lost(
    edges: list[int], of_pieces: list[int], labels: list[int]
) -> None:
    start, end = pairs(edges)
    steps = steps_of(start, end, np.array(labels[: len(start)], np.int32))
    own_start, own_end = pairs(of_pieces)

    pieces = cut(unlabelled(own_start, own_end, np.arange(len(own_start))), steps)

    truth = drawn(steps)
    seen: dict[int, int] = {}
    columns = (pieces.start, pieces.end, pieces.owner, pieces.label)
    for one, until, owner, label in zip(*(column.tolist() for column in columns), strict=True):
        assert own_start[owner] <= one < until <= own_end[owner]
        assert all(truth[at] == label for at in range(one, until))
        for at in range(one, until):
            assert at not in seen
            seen[at] = owner
    inside = zip(own_start.tolist(), own_end.tolist(), strict=True)
    assert set(seen) == {at for one, until in inside for at in range(one, until)}


def test_what_is_labelled_already_keeps_its_label() -> None:
    first = steps_of(array(0), array(10), np.array([1], np.int32))
    second = steps_of(array(0), array(20), np.array([2], np.int32))

    pieces = label_open(label_open(unlabelled(array(5), array(25), array(0)), first), second)

    rows = zip(pieces.start.tolist(), pieces.end.tolist(), pieces.label.tolist(), strict=True)
    assert sorted(rows) == [(5, 10, 1), (10, 20, 2), (20, 25, NOTHING)]


@st.composite
def nested(draw: st.DrawFn, low: int = 0, high: int = END, depth: int = 0) -> list[tuple[int, int]]:
    found = []
    while low < high and depth < 4 and draw(st.booleans()):
        start = draw(st.integers(low, high - 1))
        end = draw(st.integers(start + 1, high))
        found += [(start, end), *draw(nested(start, end, depth + 1))]
        low = end
    return found


@given(nested())
def test_the_innermost_call_is_the_last_that_began_and_is_open(
    calls: list[tuple[int, int]],
) -> None:
    start, end = array(*(one for one, _ in calls)), array(*(one for _, one in calls))

    found = nest(start, end, np.arange(len(calls)))  # callers come before what they call

    truth = [NOTHING] * END
    for number, (one, until) in enumerate(calls):
        truth[one:until] = [number] * (until - one)
    steps = found.innermost()
    assert drawn(steps.with_labels(found.slice.astype(np.int32))) == truth


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=12))
def test_calls_that_no_stack_could_make_still_give_one_answer(calls: list[tuple[int, int]]) -> None:
    start = array(*(one for one, _ in calls))
    end = array(*(one + length for one, length in calls))

    found = nest(start, end, np.zeros(len(calls), np.int64))

    assert all(parent < place for place, parent in enumerate(found.parent.tolist()))
    for at, label in enumerate(drawn(found.innermost())):
        if label != NOTHING:  # what is said to be open was open
            one = found.slice[label]
            assert start[one] <= at < end[one]


def test_a_stage_is_inherited_from_the_nearest_caller_that_has_one() -> None:
    found = nest(array(0, 10, 20, 40), array(50, 45, 30, 44), np.zeros(4, np.int64))

    own = np.array([7, NOTHING, 9, NOTHING], np.int32)
    assert found.inherited(own).tolist() == [7, 7, 9, 7]


FAR = Reach(look_ns=1000, close_ns=0)


def test_a_look_speaks_for_what_is_nearer_to_it_than_to_the_next() -> None:
    steps = nearest(array(10, 20), np.array([1, 2], np.int32), array(0, 30), FAR)

    assert drawn(steps)[:31] == [1] * 15 + [2] * 15 + [NOTHING]


def test_a_look_says_nothing_of_what_was_before_or_after_a_call() -> None:
    # Looks at 10 and 50, a call from 30 to 34: what was seen at 10 ended with it.
    walls = array(0, 30, 34, 60)

    steps = nearest(array(10, 50), np.array([1, 2], np.int32), walls, FAR)

    assert drawn(steps)[:61] == [1] * 30 + [NOTHING] * 4 + [2] * 26 + [NOTHING]


def test_a_look_reaches_only_so_far() -> None:
    steps = nearest(array(40), np.array([1], np.int32), array(0, END), Reach(5, 0))

    assert drawn(steps) == [NOTHING] * 35 + [1] * 10 + [NOTHING] * 35


def test_close_walls_are_bridged_where_the_looks_around_agree() -> None:
    walls = array(0, 20, 22, 24, 26, 40, 60)  # from 26 to 40 anything may have been

    agreed = nearest(array(10, 50), np.array([1, 1], np.int32), walls, Reach(1000, 2))
    differing = nearest(array(10, 50), np.array([1, 2], np.int32), walls, Reach(1000, 2))

    assert drawn(agreed)[20:41] == [1] * 6 + [NOTHING] * 14 + [1]
    assert drawn(differing)[20:40] == [NOTHING] * 20


def test_looks_of_one_group_agree_and_keep_their_own_labels() -> None:
    walls = array(0, 20, 22, 24, 26, 60)
    group = np.array([5, 5], np.int32)

    steps = nearest(array(19, 27), np.array([1, 2], np.int32), walls, Reach(1000, 2), group=group)

    assert drawn(steps)[20:26] == [1, 1, 1, 2, 2, 2]


def test_looks_that_must_have_been_made_are_made_up_and_others_are_not() -> None:
    # One run of equal looks, ten apart, from 0 to 100; a call at 30 to 31.
    times, run = ticks(array(0), array(100), array(-50, 30, 31, 150), 10.0, empty())

    # Up to the call there was a look for sure, and after it one within two periods.
    assert set(run.tolist()) == {0}
    assert {0, 10, 20} <= set(times.tolist())
    assert times.max() > 31


def test_no_look_is_made_up_in_a_pause_that_may_have_had_none() -> None:
    # The run's looks at 0 and 100; in between a pause of 9 between two calls.
    walls = array(-50, 40, 45, 54, 59, 150)

    times, _ = ticks(array(0), array(100), walls, 10.0, empty())

    assert not [at for at in times.tolist() if 45 <= at < 54]


def test_no_look_is_made_up_where_nobody_looked() -> None:
    times, _ = ticks(array(0), array(100), array(-50, 150), 10.0, intervals(array(25), array(75)))

    assert times.tolist() == [0, 10, 20, 80, 90]
