"""Cutting requests at their boundaries, whichever of them were seen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyzers.intervals import Times
from analyzers.waterfall import (
    BOTH,
    CLIENT,
    SERVER,
    UNKNOWN,
    Chain,
    Waterfalls,
    cut,
    waterfalls,
)

CHAIN = Chain(("a", "b", "c", "d"), ("ab", "bc", "cd"))

instants = st.integers(0, 50) | st.just(UNKNOWN)


@st.composite
def boundaries(draw: st.DrawFn) -> Times:
    """Requests with any boundaries missing, and in any order."""
    width = draw(st.integers(2, 6))
    rows = draw(st.lists(st.lists(instants, min_size=width, max_size=width), min_size=1))
    return np.array(rows, np.int64)


@given(boundaries())
def test_parts_and_unattributed_are_the_wall_time(given: Times) -> None:
    made = cut(given)

    named = np.where(made.parts == UNKNOWN, 0, made.parts).sum(axis=1)
    assert (named + made.unattributed == made.wall).all()
    assert (made.unattributed >= 0).all()
    assert (made.parts >= UNKNOWN).all()


@given(boundaries())
def test_a_part_is_known_exactly_when_both_of_its_boundaries_are(given: Times) -> None:
    is_seen = given != UNKNOWN

    assert ((cut(given).parts != UNKNOWN) == (is_seen[:, 1:] & is_seen[:, :-1])).all()


@given(boundaries())
def test_parts_do_not_overlap_and_stay_inside_the_wall_time(given: Times) -> None:
    made = cut(given)

    for row, clamped in zip(given, made.instants, strict=True):
        seen = clamped[clamped != UNKNOWN]
        assert (np.diff(seen) >= 0).all()
        assert set(seen.tolist()) <= set(row.tolist())


@given(boundaries())
def test_boundaries_in_order_are_taken_as_they_are(given: Times) -> None:
    ordered = np.where(given == UNKNOWN, UNKNOWN, np.maximum.accumulate(given, axis=1))

    made = cut(ordered)

    assert (made.instants == ordered).all()
    assert (made.disorder == 0).all()


def test_a_missing_boundary_takes_both_of_its_parts_away() -> None:
    made = cut(np.array([[10, 20, UNKNOWN, 50]]))

    assert made.parts.tolist() == [[10, UNKNOWN, UNKNOWN]]
    assert (made.wall.tolist(), made.unattributed.tolist()) == ([40], [30])


def test_a_boundary_out_of_order_is_moved_and_told() -> None:
    made = cut(np.array([[10, 30, 27, 50]]))

    assert made.parts.tolist() == [[20, 0, 20]]
    assert made.disorder.tolist() == [3]


def test_a_request_of_which_nothing_was_seen_has_no_time() -> None:
    made = cut(np.array([[UNKNOWN] * 4]))

    assert (made.wall.tolist(), made.unattributed.tolist()) == ([0], [0])


@pytest.mark.parametrize("chain", [BOTH, CLIENT, SERVER])
def test_no_chain_names_a_part_twice(chain: Chain) -> None:
    assert len(set(chain.parts)) == len(chain.parts)
    assert len(set(chain.boundaries)) == len(chain.boundaries)


def test_a_chain_has_a_name_for_each_part() -> None:
    with pytest.raises(ValueError, match="4 boundaries bound 2 parts"):
        Chain(CHAIN.boundaries, ("ab", "bc"))


def falls() -> Waterfalls:
    return waterfalls(CHAIN, cut(np.array([[0, 5, 25, 30], [0, 5, UNKNOWN, 30]])))


def test_a_part_is_split_where_its_pieces_are_known() -> None:
    # Given a request with the part and its pieces, and one without the part
    pieces = {"first": np.array([8, 8]), "second": np.array([10, 10])}

    split = falls().split("bc", pieces)

    # Then the first has pieces instead of the part, and what they leave is unattributed
    assert list(split.parts) == ["ab", "first", "second", "bc", "cd"]
    assert split.parts["first"].tolist() == [8, UNKNOWN]
    assert split.parts["bc"].tolist() == [UNKNOWN, UNKNOWN]
    assert split.unattributed.tolist() == [2, 25]


def test_a_request_without_pieces_keeps_the_part() -> None:
    split = falls().split("bc", {"first": np.array([UNKNOWN, UNKNOWN])})

    assert split.parts["bc"].tolist() == [20, UNKNOWN]
    assert split.unattributed.tolist() == [0, 25]


def test_pieces_longer_than_the_part_are_refused() -> None:
    with pytest.raises(ValueError, match="bc"):
        falls().split("bc", {"first": np.array([21, UNKNOWN])})
