"""Percentiles and means with intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyzers.percentiles import (
    _between_ranks,
    estimate_mean,
    estimate_percentiles,
    spread_seconds,
)

finite = st.floats(0, 1e6, allow_nan=False)


def test_the_ranks_of_a_median_are_those_of_the_tables() -> None:
    # Given 20 values: the tables give ranks 6 and 15 (95.9 %)
    (median,) = estimate_percentiles(np.arange(1.0, 21.0), [50])

    assert (median.value, median.low, median.high) == (10.5, 6.0, 15.0)


@given(st.lists(finite, min_size=1, max_size=60))
def test_an_interval_holds_its_percentile(values: list[float]) -> None:
    for one in estimate_percentiles(np.array(values)):
        assert one.low is None or one.low <= one.value
        assert one.high is None or one.high >= one.value


@pytest.mark.parametrize("count", [5, 40, 300])
@pytest.mark.parametrize("percent", [50, 90, 95, 99])
def test_the_ranks_have_their_chance_and_none_is_too_far_out(count: int, percent: int) -> None:
    q = percent / 100
    low, high = _between_ranks(np.arange(float(count)), q)

    def at_most(rank: int) -> float:
        return sum(math.comb(count, k) * q**k * (1 - q) ** (count - k) for k in range(rank + 1))

    if low is None:
        assert at_most(0) > 0.025
    else:
        assert at_most(int(low)) <= 0.025 < at_most(int(low) + 1)
    if high is None:
        assert at_most(count - 1) < 0.975
    else:
        assert at_most(int(high)) >= 0.975


def test_few_values_have_no_upper_bound_for_a_high_percentile() -> None:
    (one,) = estimate_percentiles(np.arange(10.0), [99])

    assert one.high is None


def test_a_mean_of_one_has_no_interval() -> None:
    assert estimate_mean(np.array([3.0])).low is None
    mean = estimate_mean(np.array([1.0, 3.0]))
    assert (mean.value, mean.low) == (2.0, pytest.approx(2.0 - 1.959964))


def test_a_large_count_does_not_overflow() -> None:
    (one,) = estimate_percentiles(np.arange(50_000.0), [99])

    assert one.low is not None
    assert one.high is not None
    assert one.low < one.value < one.high


def test_a_spread_is_in_seconds_and_nothing_has_none() -> None:
    spread = spread_seconds(np.array([1_000_000_000, 3_000_000_000]))

    assert spread is not None
    assert (spread["count"], spread["mean_seconds"], spread["max_seconds"]) == (2, 2.0, 3.0)
    assert spread_seconds(np.empty(0, np.int64)) is None
