"""What a profiler inside a process saw of a thread: calls, operators and Python functions.

Each slice gets the stage of the Python function it is in, by the rules that stacks are read with
(`analyzers.stages`), and the cause that a GPU's idle time has while the thread is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from analyzers.gpu.bare_names import rules_for_bare_names
from analyzers.gpu.busy import Rows
from analyzers.gpu.host_slices import Nest, nest
from analyzers.gpu.labels import Cause, Label, LabelTable, call_cause, python_frame, stage_label
from analyzers.gpu.step_functions import NOTHING, Labels, Steps, no_steps, steps_of
from analyzers.gpu.work import Work
from analyzers.intervals import Times
from analyzers.stages import UNKNOWN, StageMap, load_rules
from collectors.manifest import IMPORTED
from collectors.slices import API, OP, PYTHON

# Which of two slices with equal times is around the other.
OUTER_FIRST: Final = {PYTHON: 0, OP: 1, API: 2}


def nesting_of(work: Work, rows: Rows) -> NDArray[np.int8]:
    """Return the value of `OUTER_FIRST` for each of these slices of threads."""
    values = np.array([OUTER_FIRST.get(kind, -1) for kind, _ in work.names], np.int8)
    return values[work.slices.name[rows]]


@dataclass(frozen=True, slots=True, eq=False)
class Calls:
    """Calls that lie in no other call, in order, disjoint."""

    rows: Rows
    start: Times
    end: Times


def outermost(work: Work, rows: Rows) -> Calls:
    """Return which of these calls lie in no other; one that overhangs counts from there."""
    slices = work.slices
    rows = rows[np.argsort(slices.time_ns[rows], kind="stable")]
    start = slices.time_ns[rows]
    end = start + slices.duration_ns[rows]
    if len(rows):
        reach = np.maximum.accumulate(end)
        start[1:] = np.maximum(start[1:], reach[:-1])
    is_outer = end > start
    return Calls(rows[is_outer], start[is_outer], end[is_outer])


class SliceLabels:
    """Labels slices of a thread by their names and by the Python functions around them."""

    def __init__(self, work: Work, table: LabelTable, kind: str, role: str) -> None:
        """``kind`` is the target's, ``role`` the process's."""
        # An imported trace may be of any server; vLLM's rules match only vLLM's files.
        rules = rules_for_bare_names(load_rules("vllm" if kind == IMPORTED else kind))
        self._map = StageMap(rules, has_qualified_names=False)
        self._work, self._table, self._role = work, table, role

    def of_calls(self, calls: Calls) -> Steps:
        """Return calls of the runtime by their names alone."""
        names, which = np.unique(self._work.slices.name[calls.rows], return_inverse=True)
        ids = [self._label(name, NOTHING, NOTHING) for name in names.tolist()]
        return steps_of(calls.start, calls.end, np.array(ids, np.int32)[which])

    def steps(self, rows: Rows) -> Steps:
        """Return the innermost slice's label at each instant."""
        slices = self._work.slices
        start = slices.time_ns[rows]
        found = nest(start, start + slices.duration_ns[rows], nesting_of(self._work, rows))
        if not len(found.start):
            return no_steps()
        return found.innermost().with_labels(self._labels(found, rows))

    def _labels(self, found: Nest, rows: Rows) -> Labels:
        """Return the label of each slice; its stage is that of the innermost caller which has one.

        What is no Python function with a file stands for the one it is in.
        """
        names, which = np.unique(self._work.slices.name[rows[found.slice]], return_inverse=True)
        decided = np.array([self._decide(one) for one in names.tolist()], np.int32)
        as_leaf, inside, last_resort, site = decided[which].T
        stage = np.where(as_leaf != NOTHING, as_leaf, found.inherited(inside))
        stage = np.where(stage != NOTHING, stage, found.inherited(last_resort))
        parts = np.stack((which.astype(np.int32), stage, found.inherited(site)))
        distinct, which = np.unique(parts, axis=1, return_inverse=True)
        ids = [
            self._label(int(names[name]), code, frame) for name, code, frame in distinct.T.tolist()
        ]
        return np.array(ids, np.int32)[which.ravel()]

    def _decide(self, name: int) -> tuple[int, int, int, int]:
        """Return what a name says of the stage, and the name itself if it is a Python function."""
        kind, text = self._work.names[name]
        function, file = python_frame(text)
        if kind != PYTHON or not file:
            return NOTHING, NOTHING, NOTHING, NOTHING
        return (*self._map.frame(function, file, self._role), name)

    def _label(self, name: int, stage_code: int, frame: int) -> int:
        kind, text = self._work.names[name]
        stage = None if stage_code == NOTHING else self._map.stages[stage_code]
        site = None if frame == NOTHING else python_frame(self._work.names[frame][1])
        function, file = site or (None, None)
        if kind == API:
            return self._table.id(Label(call_cause(text), stage, function, file, text))
        if kind == OP:
            return self._table.id(Label(Cause.OPERATOR, stage, function, file, text))
        if site is None:
            return self._table.id(Label(Cause.PYTHON, stage or UNKNOWN))
        return self._table.id(stage_label(stage or UNKNOWN, *site))
