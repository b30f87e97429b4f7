"""When the requests of an open loop are due: instants that depend on nothing but rate and seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from enum import StrEnum
from itertools import repeat


class Arrivals(StrEnum):
    """How requests follow one another at a given mean rate."""

    POISSON = "poisson"  # independent users
    UNIFORM = "uniform"  # evenly spaced
    BURST = "burst"  # evenly spaced groups, all of a group at once


def offsets_ns(arrivals: Arrivals, rate_hz: float, *, burst_count: int, seed: int) -> Iterator[int]:
    """Yield when each request is due, in ns after the run's start; never ends, never goes back.

    The mean rate is ``rate_hz`` in all three; ``burst_count`` requests make a burst.
    """
    if arrivals is Arrivals.BURST:
        for first_s in _gaps_summed(repeat(burst_count / rate_hz)):
            yield from repeat(round(first_s * 1e9), burst_count)
    elif arrivals is Arrivals.UNIFORM:
        yield from (round(due_s * 1e9) for due_s in _gaps_summed(repeat(1 / rate_hz)))
    else:
        chooser = random.Random(f"arrivals {seed}")
        gaps_s = (chooser.expovariate(rate_hz) for _ in repeat(None))
        yield from (round(due_s * 1e9) for due_s in _gaps_summed(gaps_s))


def _gaps_summed(gaps_s: Iterator[float]) -> Iterator[float]:
    """Yield 0, then the sum of the first gap, of the first two, and so on."""
    due_s = 0.0
    for gap_s in gaps_s:
        yield due_s
        due_s += gap_s
