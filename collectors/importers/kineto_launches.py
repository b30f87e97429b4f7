"""Which thread put what on a GPU: calls of the runtime, found again by their correlation id."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from collectors.slices import NONE, Slices


class Launches:
    """Calls of one file, by correlation id; an id that several processes used tells nothing."""

    def __init__(self) -> None:
        self._batches: list[Slices] = []
        self._correlation = np.empty(0, np.int64)
        self._thread = np.empty(0, np.int32)
        self._process = np.empty(0, np.int32)

    def add(self, calls: Slices) -> None:
        """Take calls; their tracks are threads."""
        self._batches.append(calls)

    def sort(self, parents: NDArray[np.int32]) -> None:
        """Make the calls findable; ``parents`` has the process of each track."""
        correlation = np.concatenate(
            [self._correlation, *(one.correlation for one in self._batches)]
        )
        thread = np.concatenate([self._thread, *(one.track for one in self._batches)])
        self._batches = []
        is_known = correlation > 0
        correlation, thread = correlation[is_known], thread[is_known]
        order = np.argsort(correlation, kind="stable")
        correlation, thread = correlation[order], thread[order]
        process = parents[thread]
        is_first = np.diff(correlation, prepend=0) != 0
        group = np.cumsum(is_first) - 1
        is_foreign = process != process[is_first][group]
        is_single = np.ones(int(is_first.sum()), np.bool_)
        is_single[group[is_foreign]] = False
        self._correlation = correlation[is_first][is_single]
        self._thread = thread[is_first][is_single]
        self._process = process[is_first][is_single]

    def find(self, correlation: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return the launching threads' tracks and their processes', `NONE` where unknown."""
        thread = np.full(len(correlation), NONE, np.int32)
        process = np.full(len(correlation), NONE, np.int32)
        if len(self._correlation):
            at = np.searchsorted(self._correlation, correlation)
            at[at == len(self._correlation)] = 0
            is_found = self._correlation[at] == correlation
            thread[is_found] = self._thread[at[is_found]]
            process[is_found] = self._process[at[is_found]]
        return thread, process
