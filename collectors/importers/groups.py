"""Number the distinct combinations of a few integer columns, without sorting where ids are dense.

Millions of rows name a few hundred queues, threads and kernels: what is known of each combination
is looked up once, then spread over the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collectors.errors import ImportInvalid

MAX_TRACK_COUNT: Final = 1 << 16  # streams or threads of a process; a real trace had 567 streams
MAX_NAME_COUNT: Final = 1 << 20
_MAX_CELL_COUNT: Final = 1 << 20  # of a lookup table: 8 MB


def group_rows(*columns: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return a row of each distinct combination, and for each row its combination's number.

    Args:
        columns: equally long, of any integers.

    Returns:
        The first row of each combination, and per row an index into that.
    """
    count = len(columns[0])
    if count == 0:
        return np.empty(0, np.intp), np.empty(0, np.intp)
    key, cell_count = np.zeros(count, np.int64), 1
    for column in columns:
        codes, width = _codes(column)
        if cell_count * width > _MAX_CELL_COUNT:
            key, cell_count = _renumber(key)
            codes, width = _renumber(codes)
        key = key * width + codes  # below count squared: it fits
        cell_count *= width
    if cell_count > _MAX_CELL_COUNT:
        key, cell_count = _renumber(key)
    first = np.full(cell_count, -1, np.intp)
    first[key[::-1]] = np.arange(count - 1, -1, -1)  # the last write, of the first row, stays
    present = np.flatnonzero(first >= 0)
    number = np.empty(cell_count, np.intp)
    number[present] = np.arange(len(present))
    return first[present], number[key]


def _codes(column: NDArray[Any]) -> tuple[NDArray[np.int64], int]:
    """Return the column counted from its smallest value, and how many values that spans."""
    low = int(column.min())
    width = int(column.max()) - low + 1
    if width > _MAX_CELL_COUNT:  # handles, addresses
        return _renumber(column)
    return (column - low).astype(np.int64), width


def _renumber(values: NDArray[Any]) -> tuple[NDArray[np.int64], int]:
    distinct, codes = np.unique(values, return_inverse=True)
    return codes.astype(np.int64), len(distinct)


class Lookup:
    """What belongs to combinations of ids, each found once: a stream's track, a kernel's name."""

    def __init__(self, what: str, limit: int, find: Callable[..., int]) -> None:
        """Begin; ``what`` is of which there are ``limit`` at most."""
        self._what = what
        self._limit = limit
        self._find = find
        self._found: dict[tuple[int, ...], int] = {}

    def __call__(self, *columns: NDArray[Any]) -> NDArray[np.int32]:
        """Return what belongs to each row of these columns.

        Raises:
            ImportInvalid: there are more than any trace has.
        """
        first, group = group_rows(*columns)
        distinct = zip(*(column[first].tolist() for column in columns), strict=True)
        return np.array([self._one(ids) for ids in distinct], np.int32)[group]

    def _one(self, ids: tuple[int, ...]) -> int:
        found = self._found.get(ids)
        if found is None:
            if len(self._found) == self._limit:
                raise ImportInvalid(
                    f"more than {self._limit:,} {self._what}", "the file is damaged: record again"
                )
            found = self._found[ids] = self._find(*ids)
        return found
