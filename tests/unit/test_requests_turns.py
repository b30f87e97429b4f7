"""Turns at the tokenizer: the rule on lines with a known answer, and what holds for any line.

Times are in ms, and given to the analyzer in ns.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyzers.gil_holds import Hold, Holds
from analyzers.intervals import Intervals, Times, empty, intervals
from analyzers.tokenizer_turns import PIECES, Line, Service, cut_turns
from analyzers.turn_ends import FASTEST_NS
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
    return Service(spans(*busy), template or empty(), unseen or empty(), tick_ms * MS, NONE)


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


# A header takes this long to the client at the least: turns end so much before they were let go.
WAY = FASTEST_NS / MS


def near(*pieces: float) -> Any:
    return pytest.approx(pieces, abs=WAY + 0.05)


def test_three_that_arrive_together_wait_for_one_another() -> None:
    # Given 30 ms each, at a tokenizer that was seen to work from 4 to 97
    rows = [(0, 30, 33), (0, 60, 64), (0, 90, 99)]

    assert turns(rows, service((4, 97))) == [
        (0, 0, 30 - WAY, 3 + WAY), (0, 30 - WAY, 30, 4 + WAY), (0, 60 - WAY, 30, 9 + WAY),
    ]  # fmt: skip


def test_work_begins_with_the_turn_when_a_late_tick_explains_it() -> None:
    # Begun 9 before it was first seen
    assert turns([(1, 98, 99)], service((10, 100))) == [near(0, 0, 97, 1)]
    # It arrived two ticks before the thread was seen at work
    assert turns([(1, 98, 99)], service((30, 100))) == [near(0, 0, 73, 1)]


def test_the_template_is_told_apart_in_the_own_turn() -> None:
    one = service((0, 50), (50, 100), template=spans((50, 60)))

    assert turns([(0, 50, 50), (2, 100, 104)], one) == [near(0, 0, 50, 0), near(10, 48, 40, 4)]


def test_one_that_failed_took_a_turn_too() -> None:
    assert turns([(0, 90, 95)], service((0, 90)), np.array([60])) == [near(0, 60, 30, 5)]


def test_time_in_which_nobody_tokenized_is_in_no_piece() -> None:
    assert turns([(0, 200, 210)], service((100, 200))) == [near(0, 0, 105, 10)]


def test_a_turn_is_over_when_the_thread_was_seen_to_rest() -> None:
    # Given one that was let go only after the next one's work had begun
    rows = [(0, 80, 90), (58, 100, 101)]

    (_, wait, own, hand_over), second = turns(rows, service((0, 40), (60, 100)))

    assert wait == 0
    assert 40 - TICK_MS <= own <= 40
    assert own + hand_over == 90
    assert second == near(0, 0, 42, 1)


def test_those_that_were_all_let_go_after_the_rest_share_the_work_by_their_tokens() -> None:
    # Given three that had come before the thread rested at 95; the fourth had not
    rows = [(0, 120, 120), (10, 121, 121), (20, 122, 122), (130, 160, 160)]

    *late, last = turns(rows, service((0, 100), (130, 160)), tokens=[30, 20, 45, 30])

    assert [own for _, _, own, _ in late] == pytest.approx([32, 21, 47], abs=5)
    assert last == near(0, 0, 30, 0)


def test_they_share_alike_where_tokens_are_not_known() -> None:
    rows = [(0, 120, 120), (10, 121, 121)]

    first, second = turns(rows, service((0, 105)), tokens=[30, UNKNOWN])

    assert first[2] == pytest.approx(second[2], abs=2)


def test_a_late_header_takes_nothing_from_the_turn_after_it() -> None:
    # Given turns of 6 ms in one line, and a header that came 3 ms late
    let_go = [6 * turn + 3 * (turn == 5) for turn in range(1, 11)]

    found = turns([(0, one, one) for one in let_go], service((0, 60), tick_ms=1))

    assert [own for _, _, own, _ in found] == pytest.approx([6] * 10, abs=0.5)
    assert found[4][3] == pytest.approx(3, abs=0.5)


def test_a_turn_ends_where_its_thread_took_the_gil() -> None:
    # Given one turn of unknown length that was let go late, and looks at the GIL every 2 ms
    looks = np.arange(0, 102, 2)
    kind = np.full(len(looks) + 1, Hold.OTHERS)
    kind[36] = Hold.SEEN  # from 70 to 72
    one = replace(service((0, 100)), holds=Holds(looks * MS, kind, NONE))

    ((_, _, own, _),) = turns([(0, 80, 80)], one)

    assert 70 <= own <= 72


@pytest.mark.parametrize("is_seen_with_the_gil", [False, True])
def test_a_look_between_two_prompts_is_near_an_end(is_seen_with_the_gil: bool) -> None:
    # Given a first prompt that seems to be the longer one, and whose header came late
    rows, one = [(0, 30, 30), (0, 40, 40)], service((0, 40), tick_ms=1)
    look = np.array([20 * MS])
    nothing_said = np.array([Hold.SWITCHED, Hold.SWITCHED])
    (_, _, without, _), _ = turns(rows, one, tokens=[27, 13])
    if is_seen_with_the_gil:
        one = replace(one, holds=Holds(look, nothing_said, seen=look))
    else:
        one = replace(one, between=look)

    (_, _, own, _), _ = turns(rows, one, tokens=[27, 13])

    assert without > 25
    assert 19 <= own <= 22


def test_a_short_hole_in_the_work_is_no_rest() -> None:
    assert turns([(0, 80, 90)], service((0, 40), (52, 80))) == [near(0, 0, 80, 10)]


def test_what_too_few_ticks_saw_is_not_cut() -> None:
    unknown = (UNKNOWN,) * 4
    assert turns([(0, 8, 14)], service((4, 14))) == [unknown]
    assert turns([(0, 12, 14)], service()) == [unknown]
    # But a short prompt in a long line is
    rows = [(0, 12, 14), (0, 17, 18), (0, 30, 31)]
    assert turns(rows, service((1, 31)), tokens=[12, 5, 13])[1] == near(0, 12, 5, 1)


def test_a_sampler_that_was_blind_saw_neither_work_nor_rest() -> None:
    # It saw nothing of the turn
    assert turns([(0, 50, 55)], service((60, 90), unseen=spans((0, 60)))) == [(UNKNOWN,) * 4]
    # It saw some of it, and not how it ended
    assert turns([(0, 50, 55)], service((0, 30), unseen=spans((30, 90)))) == [near(0, 0, 50, 5)]


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
            assert sum(pieces) <= queued - arrived + 1e-6  # they are floats


@given(st.lists(requests, min_size=1, max_size=12), stretches)
def test_no_instant_of_work_is_two_requests_own(rows, busy) -> None:
    found = turns(rows, service(*busy, tick_ms=2))

    own = sum(pieces[0] + pieces[2] for pieces in found if UNKNOWN not in pieces)
    assert own <= max(row[1] for row in rows) - min(row[0] for row in rows)
