"""How requests came: users in a loop, batches, or neither."""

from __future__ import annotations

import numpy as np

from analyzers.convoy import NOBODY
from analyzers.convoy_loops import AT_ONCE_NS, Coming, find_loop
from analyzers.intervals import Times

MS = 1_000_000
NEVER = np.iinfo(np.int64).max


def times(*ms: float) -> Times:
    return np.array([round(one * MS) for one in ms], np.int64)


def test_who_is_due_when_another_ends_follows_that_one() -> None:
    # Given two users; the second one's answers take longer
    due = times(0, 0, 10.1, 20.1, 25.1)
    end = times(10, 25, 20, 30, 40)

    loop = find_loop(due, end)

    assert (loop.coming, loop.user_count) == (Coming.USERS, 2)
    assert loop.previous.tolist() == [NOBODY, NOBODY, 0, 2, 1]


def test_the_order_of_the_rows_does_not_matter() -> None:
    loop = find_loop(times(10.1, 0), times(20, 10))

    assert loop.coming is Coming.USERS
    assert loop.previous.tolist() == [1, NOBODY]


def test_one_that_never_ended_makes_nobody_due() -> None:
    due = times(0, 0, 10.1, 20.1)
    end = np.append(times(10), (NEVER, *times(20, 30)))

    loop = find_loop(due, end)

    assert loop.coming is Coming.USERS
    assert loop.previous.tolist() == [NOBODY, NOBODY, 0, 2]


def test_batches_begin_after_the_last_end_and_follow_nobody() -> None:
    due = times(0, 1, 2, 51, 52, 53)
    end = times(20, 30, 50, 70, 80, 90)

    loop = find_loop(due, end)

    assert (loop.coming, loop.user_count) == (Coming.BATCHES, 3)
    assert set(loop.previous.tolist()) == {NOBODY}


def test_random_arrivals_are_taken_as_they_came() -> None:
    chance = np.random.default_rng(0)
    due = np.cumsum(chance.exponential(20 * MS, 400)).astype(np.int64)
    end = due + chance.integers(10 * MS, 60 * MS, 400)

    loop = find_loop(due, end)

    assert (loop.coming, loop.user_count) == (Coming.OPEN, None)
    assert set(loop.previous.tolist()) == {NOBODY}


def test_a_slow_clock_is_no_user_who_waits() -> None:
    due = times(*range(0, 1000, 100))

    assert find_loop(due, due + 30 * MS).coming is Coming.OPEN


def test_a_client_that_was_late_once_is_still_in_a_loop_but_that_request_follows_nobody() -> None:
    begins = np.arange(100) * 20 * MS
    end = begins + 20 * MS - MS
    begins[50] += AT_ONCE_NS

    loop = find_loop(begins, end)

    assert (loop.coming, loop.user_count) == (Coming.USERS, 1)
    assert loop.previous.tolist() == [NOBODY, *range(49), NOBODY, *range(50, 99)]


def test_who_asks_once_says_nothing_of_a_loop() -> None:
    assert find_loop(times(0, 0), times(5, 9)).coming is Coming.OPEN
    assert find_loop(times(), times()).coming is Coming.OPEN
