"""Turns at the tokenizer: the rule on lines with a known answer, and what holds for any line.

Times are in ms, and given to the analyzer in ns.
"""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from analyzers.intervals import Intervals, Times, empty, intervals
from analyzers.tokenizer_turns import PIECES, Line, Service, cut_turns
from analyzers.waterfall import UNKNOWN

NONE = np.empty(0, np.int64)
MS = 1_000_000
TICK_MS = 10


def spans(*pairs: tuple[int, int]) -> Intervals:
    start, end = np.array(pairs, np.int64).reshape(-1, 2).T * MS
    return intervals(start, end)


def service(
    *busy: tuple[int, int], template: Intervals | None = None, unseen: Intervals | None = None,
    tick_ms: int = TICK_MS,
) -> Service:  # fmt: skip
    return Service(spans(*busy), template or empty(), unseen or empty(), tick_ms * MS)


def turns(
    rows: list[tuple[int, int, int]],
    one: Service,
    others: Times = NONE,
    tokens: list[int] | None = None,
) -> list[tuple[float, ...]]:
    """Return the pieces of each (arrived, let go, queued)."""
    arrived, let_go, queued = np.array(rows, np.int64).reshape(-1, 3).T * MS
    tokens = np.full(len(rows), 100) if tokens is None else np.array(tokens)
    pieces = cut_turns(Line(arrived, queued, let_go, tokens, others * MS), one)
    in_ms = [np.where(pieces[name] == UNKNOWN, UNKNOWN, pieces[name] / MS) for name in PIECES]
    return list(zip(*(one.tolist() for one in in_ms), strict=True))


def test_three_that_arrive_together_wait_for_one_another() -> None:
    # Given 30 ms each, at a tokenizer that was seen to work from 4 to 97
    rows = [(0, 30, 33), (0, 60, 64), (0, 90, 99)]

    assert turns(rows, service((4, 97))) == [(0, 0, 30, 3), (0, 30, 30, 4), (0, 60, 30, 9)]


def test_work_begins_with_the_turn_when_a_late_tick_explains_it_and_ends_when_it_was_seen_to() -> (
    None
):
    # Begun 9 before it was first seen; over within the tick before 100, but let go only at 140
    assert turns([(1, 140, 150)], service((10, 100))) == [(0, 0, 94, 55)]
    # It arrived two ticks before the thread was seen at work, and was let go in its last tick
    assert turns([(1, 98, 99)], service((30, 100))) == [(0, 0, 73, 1)]


def test_the_template_is_told_apart_in_the_own_turn() -> None:
    one = service((0, 50), (50, 100), template=spans((50, 60)))

    assert turns([(0, 50, 50), (2, 100, 104)], one) == [(0, 0, 50, 0), (10, 48, 40, 4)]


def test_one_that_failed_took_a_turn_too() -> None:
    assert turns([(0, 90, 95)], service((0, 90)), np.array([60])) == [(0, 60, 30, 5)]


def test_time_in_which_nobody_tokenized_is_in_no_piece() -> None:
    pieces = turns([(0, 200, 210)], service((100, 200)))

    assert pieces == [(0, 0, 105, 10)]


def test_a_turn_is_over_when_the_thread_was_seen_to_rest() -> None:
    # Given one that was let go only after the next one's work had begun
    rows = [(0, 80, 90), (58, 100, 101)]

    assert turns(rows, service((0, 40), (60, 100))) == [(0, 0, 35, 55), (0, 0, 42, 1)]


def test_those_that_were_all_let_go_after_the_rest_share_the_work_by_their_tokens() -> None:
    # Given three that had come before the thread rested at 95; the fourth had not
    rows = [(0, 120, 120), (10, 121, 121), (20, 122, 122), (130, 160, 160)]

    found = turns(rows, service((0, 100), (130, 160)), tokens=[30, 20, 45, 10])

    assert found == [(0, 0, 30, 90), (0, 20, 20, 71), (0, 30, 45, 27), (0, 0, 30, 0)]


def test_they_share_alike_where_tokens_are_not_known() -> None:
    rows = [(0, 120, 120), (10, 121, 121)]

    found = turns(rows, service((0, 105)), tokens=[30, UNKNOWN])

    assert found == [(0, 0, 50, 70), (0, 40, 50, 21)]


def test_a_short_hole_in_the_work_is_no_rest() -> None:
    assert turns([(0, 80, 90)], service((0, 40), (52, 80))) == [(0, 0, 80, 10)]


def test_what_too_few_ticks_saw_is_not_cut() -> None:
    unknown = (UNKNOWN,) * 4
    assert turns([(0, 12, 14)], service((4, 14))) == [unknown]
    assert turns([(0, 12, 14)], service()) == [unknown]
    # But a short prompt in a long line is
    rows = [(0, 12, 14), (0, 17, 18), (0, 30, 31)]
    assert turns(rows, service((1, 31)))[1] == (0, 12, 5, 1)


def test_a_blind_sampler_cuts_nothing() -> None:
    assert turns([(0, 50, 55)], service((0, 50), unseen=spans((54, 90)))) == [(UNKNOWN,) * 4]
    assert turns([(0, 50, 55)], service((0, 50), unseen=spans((55, 90)))) == [(0, 0, 50, 5)]


edges = st.integers(0, 300)
requests = st.tuples(edges, edges, edges).map(lambda one: tuple(sorted(one)))
stretches = st.lists(st.tuples(edges, edges).map(lambda one: tuple(sorted(one))), max_size=8)


@given(
    st.lists(requests, min_size=1, max_size=12), stretches, stretches, stretches,
    st.lists(edges, max_size=4), st.integers(1, 60),
)  # fmt: skip
def test_pieces_are_never_negative_and_never_more_than_the_frontend_s_time(
    rows, busy, template, unseen, others, tick_ms
) -> None:
    one = service(*busy, template=spans(*template), unseen=spans(*unseen), tick_ms=tick_ms)

    found = turns(rows, one, np.array(others, np.int64))

    for (arrived, _, queued), pieces in zip(rows, found, strict=True):
        if UNKNOWN in pieces:
            assert pieces == (UNKNOWN,) * 4
        else:
            assert min(pieces) >= 0
            assert sum(pieces) <= queued - arrived


@given(st.lists(requests, min_size=1, max_size=12), stretches)
def test_no_instant_of_work_is_two_requests_own(rows, busy) -> None:
    found = turns(rows, service(*busy, tick_ms=2))

    own = sum(pieces[0] + pieces[2] for pieces in found if UNKNOWN not in pieces)
    assert own <= max(row[1] for row in rows) - min(row[0] for row in rows)
