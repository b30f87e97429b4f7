"""What would lift a line, against what is known of bursts and of users in a loop."""

from __future__ import annotations

import numpy as np
import pytest
from demands import as_they_came, together
from hypothesis import given
from hypothesis import strategies as st

from analyzers.convoy import NOBODY, Demand, Serving
from analyzers.convoy_gains import Gain, what_if


def of_burst(count: int, service_ns: int) -> float:
    """The mean wait of requests that arrive together: (N - 1) / 2 s."""
    return (count - 1) / 2 * service_ns


def by_lever(gains: list[Gain]) -> dict[tuple[str, float], Gain]:
    return {(one.lever, one.amount): one for one in gains}


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("lever", ["api_servers", "tokenizer_workers"])
def test_a_burst_over_k_servers_waits_a_kth(lever: str, factor: int) -> None:
    one = by_lever(what_if(together(32, 1000)))[lever, factor]
    assert one.mean_wait_before_ns == of_burst(32, 1000)
    assert one.mean_wait_after_ns == of_burst(32 // factor, 1000)
    assert one.saved_ns == one.mean_wait_before_ns - one.mean_wait_after_ns


def test_batched_api_servers_each_let_their_own_share_go() -> None:
    (gain,) = what_if(together(32, 1000), Serving(1, 32), copies=(4,), workers=())
    assert (gain.mean_sojourn_before_ns, gain.mean_sojourn_after_ns) == (32_000, 8_000)


def test_a_burst_that_one_batch_takes_gains_nothing_by_more_workers() -> None:
    (gain,) = what_if(together(32, 1000), Serving(1, 32), copies=(), workers=(4,))
    assert gain.saved_ns == 0


def test_reused_prefixes_shorten_the_own_service_too() -> None:
    (gain,) = what_if(together(10, 1000), copies=(), workers=(), reuse_ratio=0.75)
    assert (gain.lever, gain.amount) == ("prefix_reuse", 0.75)
    assert gain.mean_wait_after_ns == of_burst(10, 250)
    assert gain.saved_ns == of_burst(10, 1000) - of_burst(10, 250) + 750


def test_no_gain_is_claimed_for_reuse_that_is_unknown_nor_for_no_requests() -> None:
    assert {one.lever for one in what_if(together(2, 10))} == {"api_servers", "tokenizer_workers"}
    assert what_if(together(0, 10)) == []


def test_copies_bear_the_name_of_what_is_copied() -> None:
    (gain,) = what_if(together(4, 10), copied_as="engines", copies=(2,), workers=())
    assert gain.lever == "engines"


def test_users_in_a_loop_come_back_sooner_so_that_the_gain_is_less() -> None:
    # Given 8 users, 10 ns each, no time away, so often that the first round does not count
    count, size = 8, 8 * 1000
    previous = np.arange(size) - count
    loop = Demand(
        np.zeros(size, np.int64),
        np.full(size, 10, np.int64),
        np.where(previous < 0, NOBODY, previous),
        np.full(size, 30, np.int64),
    )

    gains = by_lever(what_if(loop, copies=(2,), workers=(2,)))

    # Then each waits for 7 others less its time away, or for 3 of its own server's
    for lever in ("api_servers", "tokenizer_workers"):
        one = gains[lever, 2]
        assert one.mean_wait_before_ns == pytest.approx(70 - 30, rel=0.01)
        assert one.mean_wait_after_ns == pytest.approx(30 - 30, abs=0.1)


loads = st.lists(st.integers(0, 200), min_size=1, max_size=25)


@given(loads, st.integers(2, 4))
def test_one_line_before_all_servers_saves_no_less_than_separate_lines_when_equal(
    arrivals: list[int], factor: int
) -> None:
    arrival = np.array(arrivals, np.int64)
    equal = as_they_came(arrival, np.full(len(arrival), 7, np.int64))
    separate, shared = what_if(equal, copies=(factor,), workers=(factor,))
    assert shared.saved_ns >= separate.saved_ns - 1e-6
