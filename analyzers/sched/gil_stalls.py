"""The GIL lined up with the scheduler: who waited for it, and whether its holder had a CPU at all.

A holder that is pushed off its CPU stalls every thread of its process, on idle CPUs too. Looks at
the GIL say who has it; switches say whether that thread ran. A look on a full machine takes a CPU
itself, often the holder's, so looks are not counted: a look inside a gap of a thread tells of the
whole gap whether that thread had the GIL, since off the CPU it can neither take it nor let it go.
Of gaps in which nobody looked, those are the holder's whose neighbouring looks both say so while
the GIL did not change hands; the rest is estimated by the thread's other gaps, and bounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from analyzers.gil import measure_gil
from analyzers.gil_holds import FURTHEST_NS
from analyzers.gpu.host_gil_looks import looks_by_process
from analyzers.intervals import Times, intervals
from analyzers.sched.histories import Histories, read_histories
from analyzers.sched.stage_waits import split_by_stage
from analyzers.timeline import Process, Timeline, column
from collectors.cpu_slices import BLOCKED, NONE, PREEMPTED, YIELDED


@dataclass(frozen=True, slots=True, eq=False)
class _Looks:
    times: Times
    holder: NDArray[np.int64]
    waiters: NDArray[np.float64]  # NaN: not known
    switches: Times


@dataclass(frozen=True, slots=True, eq=False)
class _Gaps:
    """Gaps of one thread, and what looks tell of them."""

    start: Times
    end: Times
    why: NDArray[np.int8]  # it left its CPU
    held: NDArray[np.float64]  # 1: it had the GIL, 0: it had not, NaN: not told
    waiters: NDArray[np.float64]  # how many wanted the GIL then, on average over the looks


@dataclass(frozen=True, slots=True)
class Stalls:
    """One process: how long a thread had the GIL and no CPU. Times are ns."""

    process: Process
    window_ns: int  # in which both looked
    held_ns: float
    waited_ns: float | None  # summed over the threads that wanted it; None: not known
    without_cpu_ns: float
    without_cpu_low_ns: int
    without_cpu_high_ns: int
    yielded_ns: int  # it had the GIL and had given way by itself; as far as looks fell there
    blocked_ns: int  # it had the GIL and waited for something else; the same
    stalled_ns: float | None  # of ``waited_ns``: for a holder that had no CPU
    gap_count: int
    by_thread: dict[int, float]
    by_stage: dict[str, float]


def measure_stalls(timeline: Timeline) -> list[Stalls]:
    """Return the stalls of every process whose GIL and switches were both recorded."""
    histories = timeline.once(read_histories)
    looks = timeline.once(looks_by_process)
    found = []
    for gil in timeline.once(measure_gil):
        table = looks[gil.process.track]
        seen = _Looks(
            column(table, "time_ns"),
            np.asarray(pc.fill_null(table["holder"], NONE).to_numpy(), np.int64),
            column(table, "waiter_count", np.float64),
            column(table, "switch_count"),
        )
        # Time in which nobody looked counts like the rest: a look that is late for want of a CPU
        # comes just when others want one too.
        begun, ended = histories.window
        window_ns = int(min(ended, seen.times[-1]) - max(begun, seen.times[0]))
        if window_ns <= 0:
            continue
        count = gil.mean_waiter_count
        waited_ns = None if count is None else count * window_ns
        found.append(
            _stalls(
                timeline, histories, gil.process, seen, window_ns, gil.held.value * window_ns,
                waited_ns,
            )
        )  # fmt: skip
    return found


def _stalls(
    timeline: Timeline, histories: Histories, process: Process, looks: _Looks, window_ns: int,
    held_ns: float, waited_ns: float | None,
) -> Stalls:  # fmt: skip
    without = stalled = 0.0
    sure_ns = untold_ns = yielded_ns = blocked_ns = gap_count = 0
    by_thread: dict[int, float] = {}
    by_stage: dict[str, float] = {}
    for place, track in enumerate(histories.threads):
        thread = timeline.threads[track]
        if thread.process is not process:
            continue
        gaps = _gaps(histories, place, looks, track)
        length = gaps.end - gaps.start
        is_held, is_pushed = gaps.held == 1, gaps.why == PREEMPTED
        yielded_ns += int(length[is_held & (gaps.why == YIELDED)].sum())
        blocked_ns += int(length[is_held & (gaps.why == BLOCKED)].sum())
        is_sure, is_untold = is_held & is_pushed, np.isnan(gaps.held) & is_pushed
        sure, untold = int(length[is_sure].sum()), int(length[is_untold].sum())
        told = int(length[is_pushed].sum()) - untold
        share = sure / told if told else 0.0
        sure_ns, untold_ns = sure_ns + sure, untold_ns + untold
        mine = sure + untold * share
        if not mine:
            continue
        without += mine
        gap_count += int(is_sure.sum())
        weight = np.where(is_sure, 1.0, np.where(is_untold, share, 0.0))
        stalled += float((weight * length * gaps.waiters).sum())
        by_thread[thread.tid] = mine
        own = intervals(gaps.start[is_sure], gaps.end[is_sure])
        for stage, ns in split_by_stage(timeline, thread, own).items():
            by_stage[stage] = by_stage.get(stage, 0.0) + ns
    return Stalls(
        process, window_ns, held_ns, waited_ns, without, sure_ns, sure_ns + untold_ns, yielded_ns,
        blocked_ns, None if waited_ns is None else min(stalled, waited_ns), gap_count,
        by_thread, by_stage,
    )  # fmt: skip


def _gaps(histories: Histories, place: int, looks: _Looks, track: int) -> _Gaps:
    """Return a thread's gaps while its process's GIL was looked at."""
    rows = histories.rows_of(place)
    why, left, start = histories.why[rows], histories.left[rows], histories.start[rows]
    chosen = np.isin(why, (PREEMPTED, YIELDED, BLOCKED)) & (start > left)
    chosen &= (start > looks.times[0]) & (left < looks.times[-1])
    begin, end, why = left[chosen], start[chosen], why[chosen]
    first, last = np.searchsorted(looks.times, begin), np.searchsorted(looks.times, end)
    count = last - first  # of looks in the gap
    has = looks.holder == track
    inside = _sums(has, first, last) / np.maximum(count, 1) >= 0.5
    before, after = np.maximum(first - 1, 0), np.minimum(last, len(has) - 1)
    is_near = looks.times[after] - looks.times[before] <= FURTHEST_NS + (end - begin)
    is_kept = (looks.switches[before] == looks.switches[after]) & is_near
    # Taking it again does not count as a change of hands: where nobody had it at a look, the thread
    # may have had it in between.
    others = ~has & (looks.holder != NONE)
    # A thread that blocks lets the GIL go, as a rule: there only a look inside says otherwise.
    is_blocked = why == BLOCKED
    around = np.where(
        is_kept & has[before] & has[after] & ~is_blocked,
        1.0,
        np.where(is_blocked | (is_kept & (others[before] | others[after])), 0.0, np.nan),
    )
    held = np.where(count > 0, inside.astype(np.float64), around)
    known = np.nan_to_num(looks.waiters)
    mean = _sums(known, first, last) / np.maximum(count, 1)
    return _Gaps(begin, end, why, held, np.where(count > 0, mean, known[before]))


def _sums(
    values: NDArray[Any], first: NDArray[np.intp], last: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return the sum of ``values[first:last]`` for each pair."""
    before = np.concatenate(([0.0], np.cumsum(values)))
    sums: NDArray[np.float64] = before[last] - before[first]
    return sums
