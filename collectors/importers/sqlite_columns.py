"""Long columns of integers of a foreign SQLite file, as arrays.

Arrow's SQLite driver fills arrays without an object per value and without the GIL, so ranges of
rows are read in parallel where there are cores. It knows no authorizer and no budget: each
statement is first compiled by `Database`, row ids must rise, and there are no more rows than fit
into the file. What is no integer there, or a missing driver, sends a range the slow way, row by
row.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice, pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collectors.importers.source import Progress
from collectors.importers.sqlite_source import Database, Table, quote
from collectors.slices import NONE

ODD_ROWS: Final = "rows with values that are no integers"
MIN_PARALLEL_ROWS: Final = 500_000

_MIN_ROW_BYTES: Final = 8  # of rows as wide as ours; a file that gives more rows has a loop
_MAX_WORKERS: Final = 4
_BATCH_ROWS: Final = 1 << 15  # arrays of 256 KiB, which the allocator takes from its heap
_SLOW_ROWS: Final = 1 << 13

Columns = list[NDArray[np.int64]]
Rows = dict[str, NDArray[np.int64]]
Skip = Callable[[str, int], None]


def read_integers(
    database: Database, table: Table, select: Mapping[str, str | None], *, skip: Skip,
    join: str = "", on_progress: Progress | None = None,
) -> Iterator[Rows]:  # fmt: skip
    """Yield columns of integers by name, batch after batch, in an order that is fixed.

    Args:
        database: the open file.
        table: to read; ``t`` in the expressions.
        select: an SQL expression for each name, or None: `NONE` in all rows. A row where one is no
            integer, or null, is skipped.
        skip: told how many rows were skipped, and why.
        join: further tables, joined by their row id.
        on_progress: called with the part of the rows read so far.

    Raises:
        ImportInvalid: the file is damaged.
    """
    bounds = f"SELECT min(_rowid_), max(_rowid_) FROM {quote(table.name)}"
    ((low, high),) = database.rows(bounds)
    if low is None:
        return
    asked = {name: expression for name, expression in select.items() if expression is not None}
    what = ", ".join(("t._rowid_", *asked.values()))
    sql = f"SELECT {what} FROM {quote(table.name)} AS t {join}"
    database.check(sql)
    ranges = [_Range(database, sql, first, last, skip) for first, last in _cut(low, high)]
    row_count = 0
    for batch in _in_turns(ranges):
        row_count += len(batch[0])
        if row_count * _MIN_ROW_BYTES > database.size_bytes:
            raise database.damaged()
        if on_progress is not None:
            on_progress(sum(one.done_ratio for one in ranges) / len(ranges))
        none = np.full(len(batch[0]), NONE, np.int64)
        yield dict.fromkeys(select, none) | dict(zip(asked, batch, strict=True))


class _Range:
    """The rows with ids ``first`` to ``last``, batch after batch."""

    def __init__(self, database: Database, sql: str, first: int, last: int, skip: Skip) -> None:
        self._database = database
        self._sql = sql
        self._first = first
        self._next = first
        self._last = last
        self._skip = skip
        self._fast = _fast_batches(database.uri, self._rest())
        self._slow: Iterator[list[tuple[Any, ...]]] | None = None

    @property
    def done_ratio(self) -> float:
        return min(1.0, (self._next - self._first) / (self._last - self._first + 1))

    def look_ahead(self) -> Columns | None:
        """Return the next batch the fast way, None where that ends or fails. In any thread."""
        try:
            return next(self._fast, None)
        except Exception:  # the driver's errors have no class of their own; the slow way says why
            return None

    def take(self, ahead: Columns | None) -> Columns | None:
        """Return the next batch, None at the end, given what `look_ahead` found."""
        if ahead is None or self._slow is not None:
            return self._take_slowly()
        ids = ahead[0]
        if ids[0] < self._next or (np.diff(ids) <= 0).any():
            raise self._database.damaged()
        self._next = int(ids[-1]) + 1
        return ahead[1:]

    def close(self) -> None:
        """Let go of the driver's connection; nobody looks ahead any more."""
        self._fast.close()

    def _take_slowly(self) -> Columns | None:
        """Return the next batch row by row. Also sees that the fast way had come to the end."""
        if self._next > self._last:
            return None
        if self._slow is None:
            self._slow = self._slow_batches()
        rows = next(self._slow, None)
        if rows is None:
            return None
        good = [row for row in rows if all(type(value) is int for value in row)]
        self._skip(ODD_ROWS, len(rows) - len(good))
        values = np.array(good, np.int64).reshape(len(good), len(rows[0]))
        return list(np.ascontiguousarray(values.T[1:]))

    def _slow_batches(self) -> Iterator[list[tuple[Any, ...]]]:
        rows = self._database.rows(self._rest())
        while batch := list(islice(rows, _SLOW_ROWS)):
            if batch[0][0] < self._next:
                raise self._database.damaged()
            self._next = batch[-1][0] + 1
            yield batch

    def _rest(self) -> str:
        where = f"t._rowid_ BETWEEN {self._next} AND {self._last}"
        return f"{self._sql} WHERE {where} ORDER BY t._rowid_"


def _fast_batches(uri: str, sql: str) -> Generator[Columns, None, None]:
    """Yield batches, row ids first; ends before one that is not all integers."""
    from adbc_driver_sqlite import StatementOptions, dbapi

    with closing(dbapi.connect(uri)) as connection, closing(connection.cursor()) as cursor:
        batch_rows = {StatementOptions.BATCH_ROWS.value: str(_BATCH_ROWS)}
        cursor.adbc_statement.set_options(**batch_rows)
        cursor.execute(sql)
        for batch in cursor.fetch_record_batch():
            if any(str(one.type) != "int64" or one.null_count for one in batch.columns):
                return
            if len(batch):
                yield [column.to_numpy() for column in batch.columns]


def _in_turns(ranges: list[_Range]) -> Iterator[Columns]:
    """Yield the ranges' batches in turns, each range read one batch ahead in a thread."""
    try:
        with ThreadPoolExecutor(len(ranges), thread_name_prefix="sqlite") as pool:
            waiting = deque((one, pool.submit(one.look_ahead)) for one in ranges)
            while waiting:
                one, ahead = waiting.popleft()
                batch = one.take(ahead.result())
                if batch is not None:
                    waiting.append((one, pool.submit(one.look_ahead)))
                    yield batch
    finally:
        for one in ranges:
            one.close()


def _cut(low: int, high: int) -> list[tuple[int, int]]:
    """Cut a range of row ids, both included, into one for each worker."""
    count = high - low + 1
    workers = min(_MAX_WORKERS, len(os.sched_getaffinity(0))) if count > MIN_PARALLEL_ROWS else 1
    edges = [low + count * part // workers for part in range(workers + 1)]
    return [(first, last - 1) for first, last in pairwise(edges)]
