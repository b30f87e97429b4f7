"""Foreign CSV files, chunk after chunk, columns of integers and of repeated texts.

Whole lines go to Arrow's reader, several chunks at a time (it works without the GIL). A chunk that
it does not take as it is goes line by line instead, and the lines that make no sense are counted.
"""

from __future__ import annotations

import csv
import os
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv as arrow_csv

from collectors.errors import ImportInvalid
from collectors.importers.source import Progress, blocks

MAX_LINE_BYTES: Final = 1 << 20
ODD_LINES: Final = "lines that do not fit their header"

_CHUNK_BYTES: Final = 1 << 23
_MAX_WORKERS: Final = 4
_INTEGER = re.compile(r"-?\d{1,18}", re.ASCII)  # any of these is an int64
_TEXT: Final = pa.dictionary(pa.int32(), pa.binary())

Skip = Callable[[str, int], None]


@dataclass(frozen=True, slots=True)
class Texts:
    """A column of texts: the distinct ones, and each row's."""

    distinct: list[str]
    code: NDArray[np.int32]


@dataclass(slots=True)
class Batch:
    """Some rows of a file: columns by name."""

    integers: dict[str, NDArray[np.int64]]
    texts: dict[str, Texts]
    row_count: int
    odd_count: int = 0  # lines left out


def header_of(head: bytes) -> list[str]:
    """Return the names in a file's first line, none where that is no line of text."""
    line = head.partition(b"\n")[0]
    if len(line) > MAX_LINE_BYTES or b"\0" in line:
        return []
    try:
        return _cells(line.decode("utf-8-sig").rstrip("\r"))
    except (UnicodeDecodeError, csv.Error):
        return []


def read_csv(
    path: Path, integers: Sequence[str], texts: Sequence[str], *, skip: Skip,
    on_progress: Progress | None = None,
) -> Iterator[Batch]:  # fmt: skip
    """Yield these columns of a file, plain or gzip, in its order.

    Args:
        path: the file; its first line names the columns.
        integers: columns of whole numbers.
        texts: columns of text that repeats.
        skip: told how many lines were left out, and why.
        on_progress: called with the part of the file read so far.

    Raises:
        ImportInvalid: the file cannot be read, a column is missing or there twice, or a line never
            ends.
    """
    chunks = _chunks(path, on_progress)
    names = header_of(next(chunks, b""))
    for name in (*integers, *texts):
        if names.count(name) != 1:
            said = "has no column" if name not in names else "has twice the column"
            raise ImportInvalid(f"{path.name} {said} {name}", "record again with rocprofv3")
    layout = _Layout(names, tuple(integers), tuple(texts))
    workers = min(_MAX_WORKERS, len(os.sched_getaffinity(0)))
    with ThreadPoolExecutor(workers, thread_name_prefix="csv") as pool:
        ahead: deque[Future[Batch]] = deque()
        for chunk in chunks:
            ahead.append(pool.submit(layout.parse, chunk))
            if len(ahead) > workers:
                yield _taken(ahead.popleft(), skip)
        while ahead:
            yield _taken(ahead.popleft(), skip)


def _taken(future: Future[Batch], skip: Skip) -> Batch:
    batch = future.result()
    skip(ODD_LINES, batch.odd_count)
    return batch


@dataclass(frozen=True, slots=True)
class _Layout:
    names: list[str]
    integers: tuple[str, ...]
    texts: tuple[str, ...]

    def parse(self, chunk: bytes) -> Batch:
        """Return the rows of a chunk of whole lines."""
        try:
            found = self._parse_fast(chunk)
        except pa.ArrowException:
            found = None
        return self._parse_lines(chunk) if found is None else found

    def _parse_fast(self, chunk: bytes) -> Batch | None:
        """Return what Arrow reads, None where a cell is empty."""
        types = dict.fromkeys(self.integers, pa.int64()) | dict.fromkeys(self.texts, _TEXT)
        table = arrow_csv.read_csv(
            pa.BufferReader(chunk),
            arrow_csv.ReadOptions(
                use_threads=False, block_size=len(chunk) + 1, column_names=self.names
            ),
            arrow_csv.ParseOptions(),
            arrow_csv.ConvertOptions(column_types=types, include_columns=list(types)),
        )
        if any(table[name].null_count for name in self.integers):
            return None
        table = table.combine_chunks()
        texts = {}
        for name in self.texts:
            column = table[name].unify_dictionaries().chunk(0)
            distinct = [text.decode("utf-8", "replace") for text in column.dictionary.to_pylist()]
            texts[name] = Texts(distinct, column.indices.to_numpy())
        return Batch(
            {name: table[name].to_numpy() for name in self.integers}, texts, table.num_rows
        )

    def _parse_lines(self, chunk: bytes) -> Batch:
        """Return the lines that make sense, and how many do not."""
        at = {name: self.names.index(name) for name in (*self.integers, *self.texts)}
        rows, odd_count = [], 0
        for line in chunk.decode("utf-8", "replace").splitlines():
            cells = self._sane_cells(line, at)
            if cells is not None:
                rows.append(cells)
            elif line:
                odd_count += 1
        integers = {
            name: np.array([int(cells[at[name]]) for cells in rows], np.int64)
            for name in self.integers
        }
        texts = {}
        for name in self.texts:
            codes: dict[str, int] = {}
            code = [codes.setdefault(cells[at[name]], len(codes)) for cells in rows]
            texts[name] = Texts(list(codes), np.array(code, np.int32))
        return Batch(integers, texts, len(rows), odd_count)

    def _sane_cells(self, line: str, at: dict[str, int]) -> list[str] | None:
        try:
            cells = _cells(line)
        except csv.Error:
            return None
        if len(cells) != len(self.names):
            return None
        if not all(_INTEGER.fullmatch(cells[at[name]]) for name in self.integers):
            return None
        return cells


def _cells(line: str) -> list[str]:
    return next(csv.reader((line,), strict=True), [])


def _chunks(path: Path, on_progress: Progress | None) -> Iterator[bytes]:
    """Yield the first line, then chunks of whole lines; the last may lack its newline."""
    carry, is_first = b"", True
    for block in blocks(path, on_progress=on_progress, block_bytes=_CHUNK_BYTES):
        end = block.rfind(b"\n") + 1
        if end == 0 or len(carry) > MAX_LINE_BYTES:
            carry += block
            if len(carry) > MAX_LINE_BYTES:
                raise ImportInvalid(f"{path.name} has a line without end", "record it again")
            continue
        chunk = b"".join((carry, memoryview(block)[:end]))
        carry = block[end:]
        if is_first:
            is_first = False
            after = chunk.index(b"\n") + 1
            yield chunk[:after]
            chunk = chunk[after:]
        if chunk:
            yield chunk
    if carry:
        yield carry
