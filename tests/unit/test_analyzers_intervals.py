"""Interval algebra against sets of integers."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from analyzers import intervals as iv

Pairs = list[tuple[int, int]]
pairs_of = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=12)


def made(pairs: Pairs) -> iv.Intervals:
    start = np.array([pair[0] for pair in pairs], np.int64)
    end = np.array([pair[1] for pair in pairs], np.int64)
    return iv.intervals(start, end)


def points(pairs: Pairs) -> set[int]:
    return {point for start, end in pairs for point in range(start, end)}


def assert_is(result: iv.Intervals, expected: set[int]) -> None:
    assert points(result.pairs()) == expected
    assert result.total() == len(expected)
    starts, ends = result.start, result.end
    assert (starts < ends).all()
    assert (ends[:-1] < starts[1:]).all()


@given(pairs_of)
def test_any_pairs_become_disjoint_sorted_intervals(pairs: Pairs) -> None:
    assert_is(made(pairs), points(pairs))


@given(pairs_of, pairs_of)
def test_algebra_is_that_of_sets(a: Pairs, b: Pairs) -> None:
    assert_is(iv.union(made(a), made(b)), points(a) | points(b))
    assert_is(iv.intersection(made(a), made(b)), points(a) & points(b))
    assert_is(iv.difference(made(a), made(b)), points(a) - points(b))


@given(pairs_of, st.integers(0, 60), st.integers(0, 60))
def test_clip_keeps_what_is_inside(pairs: Pairs, start: int, end: int) -> None:
    assert_is(iv.clip(made(pairs), start, end), points(pairs) & set(range(start, end)))


@given(pairs_of, st.lists(st.integers(-5, 65), min_size=1))
def test_covered_before_counts_the_points_below(pairs: Pairs, times: list[int]) -> None:
    covered = iv.covered_before(made(pairs), np.array(times, np.int64))
    assert covered.tolist() == [len({p for p in points(pairs) if p < time}) for time in times]


@given(pairs_of, st.integers(0, 10))
def test_joining_closes_only_short_holes(pairs: Pairs, within: int) -> None:
    whole = made(pairs)
    closed = iv.joined(whole.start, whole.end, within_ns=within)
    assert points(whole.pairs()) <= points(closed.pairs())
    for (_, end), (start, _) in zip(whole.pairs(), whole.pairs()[1:], strict=False):
        is_closed = set(range(end, start)) <= points(closed.pairs())
        assert is_closed == (start - end <= within)
