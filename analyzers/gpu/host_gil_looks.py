"""When one thread waited for the GIL, by looks at it: yes, no, or that cannot be told.

Who waits is told by some looks only; the others say how many do. A thread that was seen waiting
waits until the GIL changes hands, and waited before as long as the GIL was with the same holder and
as many waited.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from analyzers.gil_holds import FURTHEST_NS
from analyzers.gpu.host_looks import nearest, reach_of
from analyzers.gpu.step_functions import Labels, Steps, no_steps
from analyzers.intervals import Intervals, Times, difference, empty, intervals
from analyzers.timeline import Thread, Timeline, column, rows_by

NO: Final = 0
YES: Final = 1
_UNTOLD: Final = -1  # somebody waits, and who was not looked at


@dataclass(frozen=True, slots=True, eq=False)
class GilWaits:
    """``steps`` has `YES` and `NO`; in ``untold`` somebody waited, and this thread may have."""

    steps: Steps
    untold: Intervals


NEVER_LOOKED: Final = GilWaits(no_steps(), empty())


def find_gil_waits(timeline: Timeline, thread: Thread, walls: Times) -> GilWaits:
    """Return when a thread waited; ``walls`` as in `analyzers.gpu.host_looks`."""
    looks = timeline.once(looks_by_process).get(thread.process.track)
    if looks is None or looks.num_rows < 2:
        return NEVER_LOOKED
    times = column(looks, "time_ns")
    waits = _waits(looks, thread.track)
    is_looked = waits != _NOT_KNOWN
    times, waits = times[is_looked], waits[is_looked]
    if not len(times):
        return NEVER_LOOKED
    reach = reach_of(float(np.median(np.diff(times))) if len(times) > 1 else 0.0, FURTHEST_NS)
    is_told = waits != _UNTOLD
    steps = nearest(times[is_told], waits[is_told], walls, reach)
    untold = nearest(times, np.where(is_told, NO, YES).astype(np.int32), walls, reach)
    return GilWaits(
        steps,
        difference(
            intervals(*untold.where(np.array([False, True]))),
            intervals(*steps.where(np.array([True, True]))),
        ),
    )


def looks_by_process(timeline: Timeline) -> dict[int, pa.Table]:
    """Return the looks at each process's GIL in order of time, by the process's track."""
    table = timeline.capture.table("gil")
    return {track: table.take(pa.array(rows)) for track, rows in rows_by(table, "track").items()}


_NOT_KNOWN: Final = -2  # whether anybody waits: this build's layout does not tell


def _waits(looks: pa.Table, track: int) -> Labels:
    counts = column(looks, "waiter_count", np.float64)
    waits = np.where(np.isnan(counts), _NOT_KNOWN, np.where(counts > 0, _UNTOLD, NO))
    names = looks["waiters"]
    is_named = ~np.asarray(pc.is_null(names).to_numpy(), np.bool_)
    waits[is_named] = NO
    # Who has it does not wait for it.
    waits[np.asarray(pc.fill_null(looks["holder"], -1).to_numpy()) == track] = NO
    waits[_looks_naming(names, track)] = YES
    switches = column(looks, "switch_count")
    return _spread(waits.astype(np.int32), switches, counts)


def _looks_naming(names: pa.ChunkedArray, track: int) -> NDArray[Any]:
    flat = pc.list_flatten(names).to_numpy()
    found: NDArray[Any] = np.asarray(pc.list_parent_indices(names).to_numpy())[flat == track]
    return found


def _spread(waits: Labels, switches: Times, counts: NDArray[np.float64]) -> Labels:
    """Tell looks that named nobody from those around them that did."""
    place = np.arange(len(waits))
    told = np.where(waits != _UNTOLD, place, -1)
    before = np.maximum.accumulate(told)
    after = np.where(waits != _UNTOLD, place, len(waits))
    after = np.minimum.accumulate(after[::-1])[::-1]
    is_untold = waits == _UNTOLD
    ahead = np.minimum(after, len(waits) - 1)
    lasts = (before >= 0) & (waits[before] == YES) & (switches == switches[before])
    began = (
        (after < len(waits))
        & (waits[ahead] == YES)
        & (switches == switches[ahead])
        & (counts == counts[ahead])
    )
    return np.where(is_untold & (lasts | began), YES, waits).astype(np.int32)
