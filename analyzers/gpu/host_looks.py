"""What a thread was doing between two of its calls to the GPU's runtime, from looks at it.

Looks are instants; what held between them must be concluded. Calls of the runtime are exact and end
whatever the thread was doing before, so they are walls: a look speaks only for the time between the
walls around it, there for all that is nearer to it than to the next look, and no further than
`Reach`. Between walls so close that looks rarely fall there (a thread that launches one small
kernel after the other), time belongs to what the looks before and after agree on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from analyzers.gpu.step_functions import (
    NOTHING,
    Labels,
    Pieces,
    Steps,
    cut,
    no_steps,
    steps_of,
    unlabelled,
)
from analyzers.intervals import Intervals, Times, covered_before

# What lasts less than this share of a look's period can only be known from its surroundings. Longer
# stretches that no look fell into may have been anything.
CLOSE_RATIO: Final = 0.1
# Looks at random instants of a regular beat: of stretches this long one in fifty has none.
SURE_PERIODS: Final = 1.5
SURE_AT_END_PERIODS: Final = 2.0
_FAR: Final = np.int64(1 << 62)


@dataclass(frozen=True, slots=True)
class Reach:
    """How far a look speaks (``look_ns``), and how wide a stretch without one may be to be told."""

    look_ns: int
    close_ns: int


def reach_of(period_ns: float, look_ns: float) -> Reach:
    """Return the reach of looks made every ``period_ns``."""
    return Reach(int(look_ns), int(CLOSE_RATIO * period_ns))


def nearest(
    times: Times, label: Labels, walls: Times, reach: Reach, *, group: Labels | None = None
) -> Steps:
    """Return what held, by looks in order of time.

    Args:
        times: when somebody looked.
        label: what was seen; `NOTHING` is a look too, at something without a label.
        walls: instants in order, beyond which a look tells nothing.
        reach: see `Reach`.
        group: of each look; looks of one group agree. By default those with equal labels do.
    """
    if not len(times):
        return no_steps()
    group = label if group is None else group
    cell = np.searchsorted(walls, times, side="right")
    bounded = np.concatenate(([-_FAR], walls, [_FAR]))
    low, high = bounded[cell], bounded[cell + 1]
    middle = times[:-1] + (times[1:] - times[:-1]) // 2
    is_same = cell[1:] == cell[:-1]
    start = np.concatenate((low[:1], np.where(is_same, middle, low[1:])))
    end = np.concatenate((np.where(is_same, middle, high[:-1]), high[-1:]))
    start = np.maximum(start, times - reach.look_ns)
    end = np.minimum(end, times + reach.look_ns)
    # Cells in between, in which nobody looked.
    agree = np.flatnonzero(
        ~is_same & (group[1:] == group[:-1]) & (np.diff(times) <= 2 * reach.look_ns)
    )
    half = np.clip(middle[agree], high[agree], low[agree + 1])
    bridge = _without_wide(
        np.concatenate((high[agree], half)),
        np.concatenate((half, low[agree + 1])),
        np.concatenate((label[agree], label[agree + 1])),
        walls,
        reach.close_ns,
    )
    return steps_of(
        np.concatenate((start, bridge.start)),
        np.concatenate((end, bridge.end)),
        np.concatenate((label, bridge.owner.astype(np.int32))),
    )


def _without_wide(start: Times, end: Times, label: Labels, walls: Times, close_ns: int) -> Pieces:
    """Return what of these intervals lies between walls closer than ``close_ns``; owner: label."""
    wide = np.flatnonzero(np.diff(walls) > close_ns)
    steps = steps_of(walls[wide], walls[wide + 1], np.zeros(len(wide), np.int32))
    keep = end > start
    pieces = cut(unlabelled(start[keep], end[keep], label[keep].astype(np.int64)), steps)
    return pieces.where(pieces.label == NOTHING)


def ticks(
    start: Times, end: Times, walls: Times, period_ns: float, unseen: Intervals
) -> tuple[Times, NDArray[np.intp]]:
    """Return when runs of equal looks were looked at, and of which run each look is.

    A run lasts from the look that first saw it to the one that saw another. When the looks between
    were is not known, but that they were ``period_ns`` apart: they are made up evenly, and kept
    where one was almost surely made between the same walls during the run, or where walls are close
    all around. None are made up where nobody looked.
    """
    count = np.maximum(1, np.rint((end - start) / period_ns)).astype(np.int64)
    run = np.repeat(np.arange(len(start)), count)
    number = np.arange(len(run)) - np.repeat(np.cumsum(count) - count, count)
    times = start[run] + ((end - start)[run] * (number / count[run])).astype(np.int64)
    cell = np.searchsorted(walls, times, side="right")
    bounded = np.concatenate(([-_FAR], walls, [_FAR]))
    low, high = bounded[cell], bounded[cell + 1]
    common = np.minimum(high, end[run]) - np.maximum(low, start[run])
    # The look that ended the run is none of it, and may be the only one near.
    needed = np.where(end[run] > high, SURE_PERIODS, SURE_AT_END_PERIODS) * period_ns
    is_sure = (number == 0) | (common >= needed)
    is_close = high - low <= CLOSE_RATIO * period_ns
    is_unseen = covered_before(unseen, times + 1) > covered_before(unseen, times)
    keep = (is_sure | is_close) & ~is_unseen
    order = np.argsort(times[keep], kind="stable")
    return times[keep][order], run[keep][order]
