"""What a thread that launches work was doing at each instant, from whatever the capture holds.

Its calls of the GPU's runtime and, from a profiler inside the process, its Python functions and
operators are exact; looks at the GIL and at its stack are concluded from
(`analyzers.gpu.host_looks`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analyzers.gpu.host_gil_looks import YES, find_gil_waits
from analyzers.gpu.host_slice_labels import OUTER_FIRST, SliceLabels, nesting_of, outermost
from analyzers.gpu.host_stack_looks import NEVER_SEEN, StackLooks, look_at_stacks
from analyzers.gpu.labels import CALLS, Cause, Label, LabelTable
from analyzers.gpu.launches import measure_launches
from analyzers.gpu.step_functions import NOTHING, Steps, distinct, no_steps
from analyzers.gpu.work import measure_work
from analyzers.intervals import Intervals, Times, empty
from analyzers.timeline import Timeline
from collectors.slices import API, OP, PYTHON


@dataclass(frozen=True, slots=True, eq=False)
class HostThread:
    """One thread; all steps have labels of one table.

    ``walls`` are the instants at which its calls began and ended, or, where calls were not
    recorded, those at which what it launched began.
    """

    walls: Times
    calls: Steps  # of the runtime
    python: Steps  # Python functions and what they called, but calls of the runtime
    operators: Steps  # where Python functions were not recorded
    stacks: StackLooks
    gil: Steps
    gil_untold: Intervals  # when somebody waited for the GIL, and who it was is not known


def view_thread(timeline: Timeline, track: int, table: LabelTable) -> HostThread:
    """Return what is known of the thread with this track."""
    work = timeline.once(measure_work)
    thread = timeline.threads.get(track)
    rows = work.host_rows((API, OP, PYTHON))
    rows = rows[work.slices.track[rows] == track].astype(np.int32)
    nesting = nesting_of(work, rows)
    calls = outermost(work, rows[nesting == OUTER_FIRST[API]])
    others = rows[nesting != OUTER_FIRST[API]]
    target = timeline.capture.manifest.target
    labels = SliceLabels(work, table, target.kind, "" if thread is None else thread.process.role)
    if (nesting == OUTER_FIRST[PYTHON]).any():
        inside = labels.steps(np.concatenate((others, calls.rows)))
        of_calls, python = _told_apart(inside, table)
        operators = no_steps()
    else:
        of_calls, python, operators = labels.of_calls(calls), no_steps(), labels.steps(others)
    walls = distinct(np.concatenate((calls.start, calls.end)))
    if not len(walls):
        walls = _launched(timeline, track)
    if thread is None:
        return HostThread(walls, of_calls, python, operators, NEVER_SEEN, no_steps(), empty())
    waits = find_gil_waits(timeline, thread, walls)
    of_gil = np.full(2, NOTHING, np.int32)
    of_gil[YES] = table.id(Label(Cause.GIL))
    return HostThread(
        walls, of_calls, python, operators, look_at_stacks(timeline, thread, walls, table),
        waits.steps.with_labels(of_gil), waits.untold,
    )  # fmt: skip


def _launched(timeline: Timeline, track: int) -> Times:
    """Return when what this thread launched began on the GPUs, in order."""
    work, launches = timeline.once(measure_work), timeline.once(measure_launches)
    starts = [
        work.slices.time_ns[rows[launches[device].thread == track]]
        for device, rows in work.rows.items()
    ]
    return distinct(np.concatenate([np.empty(0, np.int64), *starts]))


def _told_apart(steps: Steps, table: LabelTable) -> tuple[Steps, Steps]:
    """Return the steps that are calls of the runtime, and the others."""
    is_call = table.having(CALLS)
    label = steps.label
    of_call = (label != NOTHING) & is_call[label]
    return (
        Steps(steps.edge, np.where(of_call, label, NOTHING).astype(np.int32)),
        Steps(steps.edge, np.where(of_call, NOTHING, label).astype(np.int32)),
    )
