"""Ratios of looks, with intervals that know that neighbouring looks resemble each other."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Z95: Final = 1.959964  # two-sided 95 % of the normal distribution
BLOCK_NS: Final = 250_000_000
# Intervals between looks longer than this many typical ones saw nothing.
GAP_FACTOR: Final = 20
SHORTEST_GAP_NS: Final = 20_000_000


def look_weights(times: NDArray[np.int64]) -> tuple[NDArray[np.float64], list[tuple[int, int]]]:
    """Return how many ns each look stands for, and the gaps that none stands for.

    A look stands for half of the way to each neighbour, so a sampler that came late on a busy host
    does not count a quiet second more than a busy one. A gap is a way of over `GAP_FACTOR` times
    the typical one (and over `SHORTEST_GAP_NS`); it belongs to no look.
    """
    steps = np.diff(times).astype(np.float64)
    if not len(steps):
        return np.ones(len(times)), []
    limit = max(GAP_FACTOR * float(np.median(steps)), SHORTEST_GAP_NS)
    is_gap = steps > limit
    seen = np.where(is_gap, 0.0, steps)
    weights = np.zeros(len(times))
    weights[:-1] += seen / 2
    weights[1:] += seen / 2
    gaps = [(int(times[index]), int(times[index + 1])) for index in np.flatnonzero(is_gap)]
    return weights, gaps


def wilson(ratio: float, count: float) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a ratio seen in ``count`` independent trials.

    E. B. Wilson, "Probable inference", J. Am. Stat. Assoc. 22 (1927), 209-212.
    """
    if count < 1:
        return 0.0, 1.0
    scale = 1 + Z95**2 / count
    centre = (ratio + Z95**2 / (2 * count)) / scale
    half = Z95 / scale * float(np.sqrt(ratio * (1 - ratio) / count + Z95**2 / (4 * count**2)))
    return max(0.0, min(centre - half, ratio)), min(1.0, max(centre + half, ratio))


def ratio_interval(
    times: NDArray[np.int64], weights: NDArray[np.float64], values: NDArray[np.float64]
) -> tuple[float, float, float]:
    """Return the weighted mean of values in 0..1 and its 95 % interval.

    Looks a millisecond apart are not independent: their effective number is taken from how much the
    means of `BLOCK_NS` blocks scatter, and is never larger than the number of looks.
    """
    total = float(weights.sum())
    if total <= 0:
        return float("nan"), 0.0, 1.0
    ratio = min(1.0, float((weights * values).sum()) / total)
    block = (times - times[0]) // BLOCK_NS
    block_weight = np.bincount(block, weights)
    block_value = np.bincount(block, weights * values)
    is_seen = block_weight > 0
    block_weight, block_value = block_weight[is_seen], block_value[is_seen]
    # The variance of a ratio of sums over blocks, and how many independent looks would scatter as
    # much. Where nothing ever changed, looks count as one per block.
    residual = block_value - ratio * block_weight
    block_count, spread = len(block_weight), ratio * (1 - ratio)
    if block_count < 2 or spread <= 0:
        return ratio, *wilson(ratio, block_count)
    variance = float((residual**2).sum()) / total**2 * block_count / (block_count - 1)
    effective = spread / variance if variance > 0 else float(len(times))
    return ratio, *wilson(ratio, min(effective, float(len(times))))
