"""Whether the context switches agree with the kernel's own accounts of the same threads.

Both count the same thing by different ways: slices must add up to a thread's run time, and the
waits that the switches show to its run_delay. Where they do not, switches were lost, and what is
concluded from them is off by as much. Compared are the look intervals of the counters in which
no switch was lost; a wait counts where it ends, as it does in run_delay. Time that a hypervisor
stole from a CPU is in the slices and not in the run time: it is taken off, by the CPU's share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from analyzers.findings import Finding, Quantity, Rank
from analyzers.intervals import Times, covered_before, intervals
from analyzers.looks import Counters, counters_by_thread
from analyzers.sched.cpu_times import steal_shares
from analyzers.sched.histories import Histories, read_histories
from analyzers.sched.totals import ThreadTotals, Wake, measure_totals
from analyzers.timeline import Timeline

PROBE: Final = "switches"
CPU_TOLERANCE: Final = 0.01
WAIT_TOLERANCE: Final = 0.05
# Run time is booked up to a tick late (10 ms was seen), at both ends of what is compared.
LAG_NS: Final = 20_000_000
# A switch itself is booked on either side: on a full virtual machine 13 us a wait were seen.
SWITCH_NS: Final = 20_000
LEAST_CPU_NS: Final = 500_000_000
LEAST_WAIT_NS: Final = 200_000_000


@dataclass(frozen=True, slots=True)
class Agreement:
    """One thread by its switches and by the kernel's counters, over the same time; ns."""

    totals: ThreadTotals
    compared_ns: int
    slice_ns: int
    stolen_ns: int  # of the slices; 0 where the host's counters do not tell
    run_ns: int
    switch_wait_ns: int | None  # None: inferred from the counters, so there is nothing to compare
    run_delay_ns: int

    @property
    def cpu_ratio(self) -> float | None:
        """Slices but stolen time, over run time; None when it ran too briefly for its lag."""
        if self.run_ns < LEAST_CPU_NS:
            return None
        return (self.slice_ns - self.stolen_ns) / self.run_ns

    @property
    def wait_ratio(self) -> float | None:
        """Waits by switches over run_delay; None when it cannot be compared or is too short."""
        if self.switch_wait_ns is None or self.run_delay_ns < LEAST_WAIT_NS:
            return None
        return self.switch_wait_ns / self.run_delay_ns

    @property
    def is_off(self) -> bool:
        """Whether the two differ by more than their lag and an uneven share of steal explain."""
        limit_ns = max(CPU_TOLERANCE * self.run_ns, LAG_NS) + self.stolen_ns
        difference_ns = abs(self.slice_ns - self.stolen_ns - self.run_ns)
        is_cpu_off = self.cpu_ratio is not None and difference_ns > limit_ns
        if is_cpu_off or self.wait_ratio is None:
            return is_cpu_off
        limit_ns = max(WAIT_TOLERANCE * self.run_delay_ns, SWITCH_NS * self.totals.stay_count)
        return abs((self.switch_wait_ns or 0) - self.run_delay_ns) > limit_ns


def measure_agreement(timeline: Timeline) -> dict[int, Agreement]:
    """Return by track the comparison of every thread that both saw."""
    histories = timeline.once(read_histories)
    counters = timeline.once(counters_by_thread)
    lost = _lost(timeline)
    shares = timeline.once(steal_shares)
    found = {}
    for totals in timeline.once(measure_totals):
        one = counters.get(totals.thread.track)
        if one is None:
            continue
        is_good = _comparable(one.edges, histories.window, lost)
        if is_good.any():
            stolen = _steal_ratio(histories, totals.place, shares)
            found[totals.thread.track] = _compare(histories, totals, one, is_good, stolen)
    return found


def _steal_ratio(histories: Histories, place: int, shares: dict[int, float]) -> float:
    """Return which share of a thread's stays was stolen, if its CPUs' shares hold for it."""
    rows = histories.rows_of(place)
    ns = np.bincount(histories.cpu[rows], histories.end[rows] - histories.start[rows])
    stolen = sum(shares.get(cpu, 0.0) * one for cpu, one in enumerate(ns.tolist()))
    total = float(ns.sum())
    return stolen / total if total else 0.0


def _compare(
    histories: Histories,
    totals: ThreadTotals,
    counters: Counters,
    is_good: NDArray[np.bool_],
    steal_ratio: float,
) -> Agreement:
    edges = counters.edges
    rows = histories.rows_of(totals.place)
    ran = np.diff(covered_before(histories.stays(totals.place), edges))
    slice_ns = int(ran[is_good].sum())
    start = histories.start[rows]
    wait = start - histories.ready[rows]
    interval = np.searchsorted(edges, start, side="left") - 1
    is_in = (interval >= 0) & (interval < len(is_good))
    waited = np.bincount(interval[is_in], wait[is_in], len(is_good)).astype(np.int64)
    return Agreement(
        totals,
        int(np.diff(edges)[is_good].sum()),
        slice_ns,
        round(slice_ns * steal_ratio),
        int(counters.run_ns[is_good].sum()),
        int(waited[is_good].sum()) if totals.wake is Wake.MEASURED else None,
        int(counters.wait_ns[is_good].sum()),
    )


def _comparable(
    edges: Times, window: tuple[int, int], lost: tuple[Times, Times]
) -> NDArray[np.bool_]:
    """Return which look intervals lie in the window and touch nothing that was lost."""
    gaps = intervals(*lost)
    overlap = np.diff(covered_before(gaps, edges))
    is_good: NDArray[np.bool_] = (
        (edges[:-1] >= window[0]) & (edges[1:] <= window[1]) & (overlap == 0)
    )
    return is_good


def _lost(timeline: Timeline) -> tuple[Times, Times]:
    gaps = timeline.capture.table("gaps").to_pylist()
    own = [(row["start_ns"], row["end_ns"]) for row in gaps if row["probe"] == PROBE]
    start, end = np.array(own, np.int64).reshape(-1, 2).T
    return start, end


def disagreement(timeline: Timeline) -> Finding | None:
    """Return the warning that switches are missing; None when the two agree."""
    off = [one for one in timeline.once(measure_agreement).values() if one.is_off]
    if not off:
        return None
    off.sort(key=lambda one: -max(one.run_ns, one.run_delay_ns))
    first = off[0]
    parts = []
    if first.cpu_ratio is not None:
        parts.append(f"its slices sum to {first.cpu_ratio:.3f} of its CPU time")
    if first.wait_ratio is not None:
        parts.append(f"its waits to {first.wait_ratio:.3f} of its run_delay")
    thread = first.totals.thread
    ratios = [ratio for one in off for ratio in (one.cpu_ratio, one.wait_ratio)]
    worst = max(abs(ratio - 1) for ratio in ratios if ratio is not None)
    return Finding(
        "switches-disagree",
        f"Context switches and the kernel's own accounts disagree in {len(off)} threads, first of "
        f"all {thread.name or thread.tid} of the {thread.process.role} (PID {thread.process.pid}): "
        f"{' and '.join(parts)}. What is concluded from switches is off by as much.",
        Rank.QUALITY,
        Quantity(worst, "ratio"),
        [to_json(one) | {"tid": one.totals.thread.tid} for one in off[:8]],
        (
            "run time is booked up to a tick late, which over short captures is a share of its own",
            "without the host's counters, time that a hypervisor stole counts as slices too",
        ),
        cost_seconds=sum(abs(one.slice_ns - one.stolen_ns - one.run_ns) for one in off) / 1e9,
    )


def to_json(one: Agreement) -> dict[str, float | int | None]:
    """Return the comparison as it stands in the document."""
    wait_ns = one.switch_wait_ns
    return {
        "seconds": one.compared_ns / 1e9,
        "slice_seconds": one.slice_ns / 1e9,
        "stolen_seconds": one.stolen_ns / 1e9,
        "run_seconds": one.run_ns / 1e9,
        "cpu_ratio": one.cpu_ratio,
        "switch_wait_seconds": None if wait_ns is None else wait_ns / 1e9,
        "run_delay_seconds": one.run_delay_ns / 1e9,
        "wait_ratio": one.wait_ratio,
    }
