"""Which code a thread was in, by looks at its stack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from analyzers.gpu.host_looks import nearest, reach_of, ticks
from analyzers.gpu.labels import LabelTable, stage_label
from analyzers.gpu.step_functions import NOTHING, Labels, Steps, no_steps
from analyzers.intervals import Times
from analyzers.stages import classify
from analyzers.timeline import Runs, Thread, Timeline, runs_by_thread

# A stack speaks for two periods around it; samplers skip a beat now and then.
REACH_PERIODS: Final = 2


@dataclass(frozen=True, slots=True, eq=False)
class StackLooks:
    """``steps`` is what is concluded from looks; ``times`` are instants of looks that saw anew."""

    steps: Steps
    times: Times
    label: Labels


NEVER_SEEN: Final = StackLooks(no_steps(), np.empty(0, np.int64), np.empty(0, np.int32))


def look_at_stacks(
    timeline: Timeline, thread: Thread, walls: Times, table: LabelTable
) -> StackLooks:
    """Return what was seen of a thread's stacks; ``walls`` as in `analyzers.gpu.host_looks`."""
    runs = timeline.once(runs_by_thread).get(thread.track)
    if runs is None:
        return NEVER_SEEN
    rate_hz = timeline.sampling_rate_hz(thread.process)
    period_ns = 1e9 / rate_hz if rate_hz else float(np.median(runs.end - runs.start))
    if period_ns <= 0:
        return NEVER_SEEN
    unseen = timeline.unseen(thread.process)
    times, run = ticks(runs.start, runs.end, walls, period_ns, unseen)
    label, stage = _labels(timeline, thread, runs, table)
    reach = reach_of(period_ns, REACH_PERIODS * period_ns)
    steps = nearest(times, label[run], walls, reach, group=stage[run])
    return StackLooks(steps, runs.start, label)


def _labels(
    timeline: Timeline, thread: Thread, runs: Runs, table: LabelTable
) -> tuple[Labels, Labels]:
    """Return each run's label and the number of its stage."""
    known = timeline.once(classify)
    stacks, which = np.unique(runs.stack, return_inverse=True)
    codes = known.stage(thread.process.role, stacks)
    ids = [
        table.id(stage_label(known.map.stages[code], *known.leaves[stack]))
        if stack in known.leaves
        else NOTHING
        for stack, code in zip(stacks.tolist(), codes.tolist(), strict=True)
    ]
    return np.array(ids, np.int32)[which], codes.astype(np.int32)[which]
