"""Ratios of paired windows: intervals that cover what they say, and verdicts that follow."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from profiler.pin.gain import LEAST_PAIR_COUNT, NEGLIGIBLE_RATIO, Gain, Verdict, gain_of
from profiler.pin.trial import order_of


@pytest.mark.parametrize(("pair_count", "spread"), [(6, 0.02), (8, 0.1), (20, 0.05)])
@pytest.mark.parametrize("shape", ["normal", "heavy"])
def test_the_interval_covers_the_truth_as_often_as_it_says(pair_count, spread, shape):
    chooser = np.random.default_rng(pair_count)
    truth, run_count = 1.07, 400
    covered = 0
    for _ in range(run_count):
        noise = (
            chooser.normal(size=pair_count)
            if shape == "normal"
            else chooser.standard_t(2, size=pair_count)
        )
        gain = gain_of([(1.0, truth * math.exp(spread * one)) for one in noise])
        assert gain is not None
        covered += gain.low <= truth <= gain.high
    # 95 % of 400 are 380; three standard deviations below that are 367
    assert covered >= 367


def test_the_ratio_is_the_geometric_mean_of_the_pairs():
    gain = gain_of([(100.0, 50.0), (100.0, 200.0), (10.0, 10.0)])
    assert gain is not None
    assert gain.ratio == pytest.approx(1.0)
    assert gain.pair_count == 3


def test_of_six_pairs_the_interval_is_their_range():
    ratios = [1.01, 1.05, 0.99, 1.10, 1.02, 1.03]
    gain = gain_of([(200.0, 200.0 * ratio) for ratio in ratios])
    assert gain is not None
    assert (gain.low, gain.high) == pytest.approx((0.99, 1.10))


def test_fewer_pairs_than_six_have_no_interval():
    gain = gain_of([(1.0, 2.0)] * (LEAST_PAIR_COUNT - 1))
    assert gain is not None
    assert gain.ratio == pytest.approx(2.0)
    assert (gain.low, gain.high) == (0.0, math.inf)
    assert gain.verdict is Verdict.UNKNOWN
    assert gain.needed_pair_count == LEAST_PAIR_COUNT


def test_no_pair_is_no_gain_and_not_none_at_all():
    assert gain_of([]) is None


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (1.001, 1.2, Verdict.MORE),
        (0.8, 0.999, Verdict.LESS),
        (1 - NEGLIGIBLE_RATIO, 1 + NEGLIGIBLE_RATIO, Verdict.NONE),
        (0.96, 1.02, Verdict.UNKNOWN),
        (0.98, 1.04, Verdict.UNKNOWN),
        (0.0, math.inf, Verdict.UNKNOWN),
    ],
)
def test_the_verdict_follows_from_the_interval(low, high, verdict):
    assert Gain(1.0, low, high, 8).verdict is verdict


def test_an_interval_twice_as_wide_as_it_should_be_needs_four_times_the_pairs():
    width = math.exp(2 * math.log1p(NEGLIGIBLE_RATIO))
    assert Gain(1.0, 1 / width, width, 8).needed_pair_count == 32


def test_the_same_windows_say_the_same_each_time():
    chooser = random.Random(1)
    pairs = [(1.0, chooser.uniform(0.9, 1.1)) for _ in range(30)]
    assert gain_of(pairs) == gain_of(pairs)


@pytest.mark.parametrize("pair_count", [6, 7, 12])
def test_each_pair_has_both_and_half_of_the_pairs_begin_with_each(pair_count):
    order = order_of(pair_count, random.Random(3))
    assert len(order) == 2 * pair_count
    assert all(order[index] != order[index + 1] for index in range(0, len(order), 2))
    assert sum(order[::2]) in (pair_count // 2, (pair_count + 1) // 2)


def test_the_order_is_drawn():
    orders = {tuple(order_of(8, random.Random(seed))) for seed in range(20)}
    assert len(orders) > 10
