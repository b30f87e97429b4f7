"""Means and percentiles of one figure over requests, each with its 95 % interval.

Intervals take the values as independent. Requests of one convoy are not: there the true interval is
wider, so repeat the run before believing a small difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from analyzers.statistics import Z95

PERCENTS: Final = (50, 90, 95, 99)
# How the intervals were made, for the reader of the JSON.
METHODS: Final = {
    "mean": "normal: mean +- 1.96 standard errors",
    "percentiles": "order statistics: binomial ranks, no assumption about the distribution",
}
_TAIL: Final = 0.025  # on each side of a 95 % interval

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its interval, in the unit of the values; None: too few values for that bound."""

    value: float
    low: float | None
    high: float | None


def estimate_mean(values: Floats) -> Estimate:
    """Return the mean of at least one value; its interval is that of a normal mean."""
    mean = float(values.mean())
    if len(values) < 2:
        return Estimate(mean, None, None)
    half = Z95 * float(values.std(ddof=1)) / len(values) ** 0.5
    return Estimate(mean, mean - half, mean + half)


def estimate_percentiles(values: Floats, percents: Sequence[float] = PERCENTS) -> list[Estimate]:
    """Return percentiles (each inside 0..100) of at least one value.

    A value lies between ranks (numpy's default). Its interval runs between the two values whose
    ranks hold the percentile with 95 %: how many of n values lie below the q-quantile is binomial
    (n, q). (H. A. David, H. N. Nagaraja, "Order Statistics", 3rd ed., section 7.1.) Of few values
    a high percentile is told too low, and the ranks may both lie above it: then it is the bound.
    """
    ranked = np.sort(values)
    found = []
    for percent, one in zip(percents, np.percentile(ranked, percents), strict=True):
        value = float(one)
        low, high = _between_ranks(ranked, percent / 100)
        found.append(
            Estimate(
                value,
                None if low is None else min(low, value),
                None if high is None else max(high, value),
            )
        )
    return found


def _between_ranks(ranked: Floats, q: float) -> tuple[float | None, float | None]:
    at_most = np.cumsum(_binomial(len(ranked), q))
    # 0-based: value r is above the quantile if at most r values are below it.
    low = int(np.searchsorted(at_most, _TAIL, side="right")) - 1
    high = int(np.searchsorted(at_most, 1 - _TAIL, side="left"))
    return (
        float(ranked[low]) if low >= 0 else None,
        float(ranked[high]) if high < len(ranked) else None,
    )


def _binomial(count: int, q: float) -> Floats:
    """Return the chances of 0..count successes; in logarithms, so that no count is too large."""
    successes = np.arange(count + 1)
    log_factorial = np.concatenate(([0.0], np.cumsum(np.log(successes[1:]))))
    log_ways = log_factorial[-1] - log_factorial - log_factorial[::-1]
    chances: Floats = np.exp(log_ways + successes * np.log(q) + (count - successes) * np.log1p(-q))
    return chances


def spread_seconds(values_ns: NDArray[np.int64]) -> dict[str, Any] | None:
    """Return count, mean, percentiles and maximum of ns as a JSON object in seconds.

    None when there are no values. Keys: ``count``, ``mean_seconds``, ``mean_low_seconds``,
    ``mean_high_seconds``, the same for p50 to p99, ``max_seconds``.
    """
    if not len(values_ns):
        return None
    values = values_ns / 1e9
    figures = dict(
        zip(
            ("mean", *(f"p{percent}" for percent in PERCENTS)),
            (estimate_mean(values), *estimate_percentiles(values)),
            strict=True,
        )
    )
    spread: dict[str, Any] = {"count": len(values)}
    for name, one in figures.items():
        spread |= {
            f"{name}_seconds": one.value,
            f"{name}_low_seconds": one.low,
            f"{name}_high_seconds": one.high,
        }
    return {**spread, "max_seconds": float(values.max())}
