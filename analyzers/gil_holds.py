"""When a thread may have held the GIL, by looks at it.

A thread that did its work without the GIL must take it to hand over the result. Looks at the GIL
(1,000 a second by default) tell where that can have been: the GIL counts how often it went from one
thread to another, so between two looks with equal counts it did not change hands.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from analyzers.intervals import Times
from analyzers.timeline import Thread, Timeline, column, rows_by

# Of two looks further apart than that nothing is concluded: anything may have been in between.
FURTHEST_NS: Final = 6_000_000
_NOBODY: Final = -1


class Hold(IntEnum):
    """What two looks say of the time between them: whether the thread held the GIL in it."""

    SEEN = 0  # it did at one of them
    SWITCHED = 1  # it may have: the GIL changed hands, or nobody looked
    KEPT = 2  # hardly: whoever had it last kept it or took it again, and that may be this thread
    OTHERS = 3  # no: another thread had it, and it did not change hands


@dataclass(frozen=True, slots=True, eq=False)
class Holds:
    """``kind[i]`` is the `Hold` of the time between look ``i - 1`` and look ``i``.

    ``seen`` are the looks at which the thread held it.
    """

    looks: Times
    kind: NDArray[np.int64]  # one more than looks
    seen: Times

    def at(self, instants: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the `Hold` at each instant."""
        return self.kind[np.searchsorted(self.looks, instants)]


def find_holds(timeline: Timeline, thread: Thread) -> Holds | None:
    """Return the thread's holds of its process's GIL; None when that was not looked at."""
    table = timeline.capture.table("gil")
    rows = rows_by(table, "track").get(thread.process.track)
    if rows is None:
        return None
    looks = table.take(pa.array(rows))
    times = column(looks, "time_ns")
    holder = np.asarray(pc.fill_null(looks["holder"], _NOBODY).to_numpy(), np.int64)
    is_switched = np.diff(column(looks, "switch_count"), append=_NOBODY) != 0  # until the next look
    is_seen = holder == thread.track
    is_other = (holder != _NOBODY) & ~is_seen & (holder != thread.process.track)
    kind = np.full(len(times) + 1, Hold.SWITCHED, np.int64)
    between = np.where(_lasts(is_other, is_other | is_seen, is_switched), Hold.OTHERS, Hold.KEPT)
    between = np.where(is_switched, Hold.SWITCHED, between)
    between[:-1] = np.where(is_seen[:-1] | is_seen[1:], Hold.SEEN, between[:-1])
    is_near = np.diff(times) <= FURTHEST_NS
    kind[1:-1] = np.where(is_near, between[:-1], Hold.SWITCHED)
    return Holds(times, kind, times[is_seen])


def _lasts(
    is_true: NDArray[np.bool_], is_told: NDArray[np.bool_], is_over: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Return where something was told to be true and nothing has ended or changed it since.

    ``is_over`` says of each place that what was told up to it does not hold after it.
    """
    place = np.arange(len(is_true))
    told = np.maximum.accumulate(np.where(is_told, place, -1))
    over = np.maximum.accumulate(np.where(is_over, place, -1))
    before = np.concatenate(([-1], over[:-1]))  # what ends at a place still holds up to it
    lasts: NDArray[np.bool_] = (told >= 0) & is_true[np.maximum(told, 0)] & (told > before)
    return lasts
