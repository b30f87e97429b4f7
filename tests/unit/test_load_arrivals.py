"""The open loop's schedule: the rate that was asked for, in the shape that was asked for."""

from __future__ import annotations

from itertools import groupby, islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.load.arrivals import Arrivals, offsets_ns

COUNT = 20_000
rates = st.floats(min_value=0.1, max_value=10_000)


def first_offsets(arrivals: Arrivals, rate_hz: float, count: int = COUNT, seed: int = 0):
    return list(islice(offsets_ns(arrivals, rate_hz, burst_count=10, seed=seed), count))


@pytest.mark.parametrize("arrivals", Arrivals)
def test_the_mean_rate_is_what_was_asked_for(arrivals):
    offsets = first_offsets(arrivals, rate_hz=250.0)

    # 20,000 Poisson arrivals keep their rate to 0.7 %, one standard deviation.
    assert COUNT / (offsets[-1] / 1e9) == pytest.approx(250.0, rel=0.03)


@given(st.sampled_from(Arrivals), rates, st.integers())
def test_requests_are_due_in_order_from_the_start(arrivals, rate_hz, seed):
    offsets = first_offsets(arrivals, rate_hz, 100, seed)

    assert offsets[0] == 0
    assert all(before <= after for before, after in pairwise(offsets))


def test_uniform_arrivals_are_evenly_spaced():
    gaps = {after - before for before, after in pairwise(first_offsets(Arrivals.UNIFORM, 1000.0))}

    assert gaps <= {999_999, 1_000_000, 1_000_001}


def test_bursts_come_all_at_once_and_evenly_spaced():
    sizes = [
        len(list(group)) for _, group in groupby(first_offsets(Arrivals.BURST, 100.0, count=100))
    ]

    assert sizes == [10] * 10


def test_poisson_gaps_vary_as_much_as_they_last():
    gaps = [after - before for before, after in pairwise(first_offsets(Arrivals.POISSON, 100.0))]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5

    assert deviation / mean == pytest.approx(1.0, rel=0.05)


def test_a_seed_is_a_schedule():
    one, again, other = (first_offsets(Arrivals.POISSON, 10.0, 50, seed) for seed in (1, 1, 2))

    assert one == again
    assert one != other
