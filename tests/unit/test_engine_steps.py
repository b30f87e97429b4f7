"""Lateness from shared steps: on made engines it is the truth but for the fastest output's way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyzers.engine_steps import NEAR_NS, SAME_NS, EngineTimes, measure_lateness
from analyzers.intervals import Times
from analyzers.waterfall import UNKNOWN

MS = 1_000_000
START_NS = 20_000_000 * MS
QUEUED_BEFORE_MS = 5  # the first token


def times(steps: list[float], ways: list[float], requests: list[tuple[int, int]]) -> EngineTimes:
    """Return what spans tell of an engine, given all in ms.

    ``steps`` are when the engine sent each message and ``ways`` how long it took to be received;
    a request is the numbers of its first and its last step.
    """
    made = np.array(steps) * MS
    received = START_NS + made + np.array(ways) * MS
    first, last = np.array(requests).T
    decode = made[last] - made[first]
    earliest = np.minimum(received[first], received[last] - decode)
    columns = (
        earliest - 100 * MS, earliest - QUEUED_BEFORE_MS * MS,
        received[first], received[last], decode,
    )  # fmt: skip
    return EngineTimes(*(np.rint(one).astype(np.int64) for one in columns))


def late_ms(one: EngineTimes) -> list[float]:
    return (measure_lateness(one) / MS).tolist()


def test_a_request_that_shares_no_step_is_as_late_as_its_own_outputs_say() -> None:
    assert late_ms(times([0, 10, 20, 30], [1, 3, 2, 2], [(0, 1), (2, 3)])) == [0, 0]


def test_who_shares_a_step_with_a_faster_output_is_placed_by_that() -> None:
    # Given a step both had their first token in, and only the second one's last came through fast
    one = times([0, 10, 20], [4, 4, 1], [(0, 1), (0, 2)])

    assert late_ms(one) == [3, 0]


def test_a_last_token_shares_a_step_with_a_first_one() -> None:
    one = times([0, 10, 20, 30], [4, 5, 3, 1], [(0, 1), (1, 2), (2, 3)])

    assert late_ms(one) == [3, 2, 0]


def test_outputs_of_two_messages_are_not_tied() -> None:
    # Given two steps whose messages were received one after the other, nearly at once
    apart_ms = 2 * SAME_NS / MS
    one = times([0, 10, 20, 20.5], [12 + apart_ms, 2, 1, 9], [(0, 2), (1, 3)])

    assert late_ms(one) == [0, 0]


def test_only_outputs_near_in_time_tell() -> None:
    far = 4 * NEAR_NS / MS
    one = times([0, 10, far, far + 10], [1, 3, 3, 3], [(0, 1), (1, 2), (2, 3)])

    assert late_ms(one)[2] == 0


def test_a_chain_by_which_somebody_was_queued_before_arriving_says_nothing() -> None:
    one = times([0, 10, 20], [4, 4, 1], [(0, 1), (0, 2)])
    one.arrived[0] = one.queued[0] - MS

    assert late_ms(one) == [0, 0]


@pytest.mark.parametrize("name", ["first", "last", "decode"])
def test_what_was_not_told_changes_nothing(name: str) -> None:
    one = times([0, 10, 20], [4, 4, 1], [(0, 1), (0, 2)])
    getattr(one, name)[1] = UNKNOWN

    assert late_ms(one) == [0, 0]


def test_no_requests() -> None:
    none: Times = np.empty(0, np.int64)
    assert len(measure_lateness(EngineTimes(none, none, none, none, none))) == 0


lengths = st.floats(1, 50)
delays = st.floats(0.1, 8)
made_engines = st.integers(2, 12).flatmap(
    lambda count: st.tuples(
        st.lists(lengths, min_size=count, max_size=count),
        st.lists(delays, min_size=count, max_size=count),
        st.lists(
            st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)).map(sorted).map(tuple),
            min_size=1,
            max_size=12,
        ),
    )
)


@given(made_engines)
def test_nothing_is_placed_before_it_was_nor_later_than_told(made) -> None:
    steps, ways, requests = np.cumsum(made[0]).tolist(), made[1], made[2]
    ways = np.maximum.accumulate(np.array(steps) + ways) - steps  # messages keep their order
    ways += 0.02 * np.arange(len(steps))  # and are taken up one after the other
    one = times(steps, ways.tolist(), requests)

    late = measure_lateness(one)

    queued = START_NS + (np.array([steps[first] for first, _ in requests]) - QUEUED_BEFORE_MS) * MS
    assert (late >= 0).all()
    assert (one.queued - late >= queued - 1000).all()
