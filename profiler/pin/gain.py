"""What a change is worth: the ratio of paired windows, with an interval that needs no bell curve.

Two windows stand side by side, one with and one without the change, in an order drawn at random.
Each pair gives the logarithm of a ratio. If these scatter symmetrically about the true one, the
means of all subsets of pairs divide the line into intervals of equal probability (J. A. Hartigan,
"Using subsample values as typical values", J. Am. Stat. Assoc. 64 (1969), 1303-1317), so an
interval between two of them covers the truth exactly as often as it says, from six pairs on. A
bootstrap over so few pairs does not: of its 95 % intervals over six, some 86 % do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

CONFIDENCE_RATIO: Final = 0.95
# 2 / 2**6 is the first power that fits into 5 %.
LEAST_PAIR_COUNT: Final = 6
_ALL_SUBSETS_PAIR_COUNT: Final = 14
_SUBSET_COUNT: Final = 9_999
# A change smaller than this is not worth a mask that somebody must look after.
NEGLIGIBLE_RATIO: Final = 0.03


class Verdict(StrEnum):
    """What an interval says."""

    MORE = "more"
    LESS = "less"
    NONE = "none"  # whatever there is, is less than `NEGLIGIBLE_RATIO`
    UNKNOWN = "unknown"  # the windows scatter too much


@dataclass(frozen=True, slots=True)
class Gain:
    """A ratio (with to without) and its 95 % interval; infinite where the pairs are too few."""

    ratio: float
    low: float
    high: float
    pair_count: int

    @property
    def verdict(self) -> Verdict:
        """Say what it means."""
        if self.low > 1:
            return Verdict.MORE
        if self.high < 1:
            return Verdict.LESS
        if self.low >= 1 - NEGLIGIBLE_RATIO and self.high <= 1 + NEGLIGIBLE_RATIO:
            return Verdict.NONE
        return Verdict.UNKNOWN

    @property
    def needed_pair_count(self) -> int | None:
        """About how many pairs would tell a change of `NEGLIGIBLE_RATIO`; None: nobody knows."""
        if self.pair_count < LEAST_PAIR_COUNT:
            return LEAST_PAIR_COUNT
        if not 0 < self.low <= self.high < math.inf:
            return None
        half = math.log(self.high / self.low) / 2
        return math.ceil(self.pair_count * (half / math.log1p(NEGLIGIBLE_RATIO)) ** 2)


def gain_of(pairs: Sequence[tuple[float, float]]) -> Gain | None:
    """Return the gain of (without, with) pairs of positive values; None for no pairs."""
    if not pairs:
        return None
    logs = np.log([after / before for before, after in pairs])
    low, high = _typical_interval(logs)
    return Gain(float(np.exp(logs.mean())), math.exp(low), math.exp(high), len(pairs))


def _typical_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % interval of the centre of values that scatter about it symmetrically."""
    count = len(values)
    if count < LEAST_PAIR_COUNT:
        return -math.inf, math.inf
    if count <= _ALL_SUBSETS_PAIR_COUNT:
        numbers = np.arange(1, 1 << count)
        members = (numbers[:, None] >> np.arange(count)) & 1
    else:  # random subsets do as well; a fixed seed, so that the same windows say the same
        members = np.random.default_rng(0).integers(0, 2, (_SUBSET_COUNT, count))
        members = members[members.any(axis=1)]
    means = np.sort(members @ values / members.sum(axis=1))
    place = int((1 - CONFIDENCE_RATIO) / 2 * (len(means) + 1))
    return float(means[place - 1]), float(means[len(means) - place])
