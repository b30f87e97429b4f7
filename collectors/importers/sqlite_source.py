"""Foreign SQLite files, read without trusting them.

The file is opened as an immutable one, so nothing is written beside it. Only real tables are read,
by our own statements: an authorizer refuses what views, triggers and generated columns would run.
Strings, rows and steps are bounded. `collectors.importers.sqlite_columns` reads what is long.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from collectors.errors import ImportInvalid
from collectors.importers.source import head, read_error
from collectors.importers.sqlite_magic import SQLITE_MAGIC

MAX_TEXT_BYTES: Final = 1 << 20  # of one value, or one row that is read as text
MAX_TABLE_COUNT: Final = 20_000

_HEADER_BYTES: Final = 100
_STEPS_PER_CALL: Final = 100_000  # virtual machine instructions between two looks at the budget
_BASE_STEPS: Final = 20_000_000
_STEPS_PER_BYTE: Final = 16  # a row of 10 bytes takes some 20 instructions
_ACTIONS: Final = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_PRAGMA}
_FUNCTIONS: Final = {"ifnull", "min", "max"}
_RECORD_AGAIN: Final = "copy or record the file again; it must be whole"


def quote(name: str) -> str:
    """Return a table's or column's name as SQL takes it."""
    return '"' + name.replace('"', '""') + '"'


def has_table(path: Path, first: bytes, prefix: str) -> bool:
    """Tell whether a SQLite file has a table whose name begins so.

    Args:
        path: the file, which may be packed or damaged: then its first bytes decide.
        first: its first bytes, unpacked.
        prefix: of the table's name.
    """
    try:
        with Database(path) as database:
            return any(name.startswith(prefix) for name in database.tables)
    except ImportInvalid:
        return prefix.encode() in first


@dataclass(frozen=True, slots=True)
class Table:
    """A table that can be read: its columns, and the one that is another name of the row id."""

    name: str
    columns: frozenset[str]
    key: str | None


class Database:
    """An open file. Use it as a context manager, in one thread."""

    def __init__(self, path: Path) -> None:
        """Open the file and list its tables.

        Raises:
            ImportInvalid: it is no SQLite database, cut off, damaged, or was left by a writer that
                had not finished.
        """
        self.path = path
        self.size_bytes = _check_file(path)
        self.uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        self._steps_left = _BASE_STEPS + _STEPS_PER_BYTE * self.size_bytes
        try:
            self._connection = sqlite3.connect(self.uri, uri=True)
        except sqlite3.Error as error:
            raise self.damaged(error) from error
        try:
            self._guard()
            self.tables = self._list_tables()
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Database:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        self._connection.close()

    def need(self, name: str, *columns: str) -> Table:
        """Return a table that must be there with these columns.

        Raises:
            ImportInvalid: it is not, or lacks one.
        """
        table = self.tables.get(name)
        if table is None:
            raise ImportInvalid(f"{self.path.name} has no table {name}", _RECORD_AGAIN)
        missing = sorted(set(columns) - table.columns)
        if missing:
            raise ImportInvalid(
                f"table {name} of {self.path.name} has no column {', '.join(missing)}",
                "its tool wrote another version of the format: please report which",
            )
        return table

    def rows(self, sql: str, parameters: Sequence[int | str] = ()) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a statement over real tables; text is decoded, whatever it is.

        Raises:
            ImportInvalid: the file is damaged, or reading it does not end.
        """
        with self._reading():
            yield from self._connection.execute(sql, parameters)

    def check(self, sql: str) -> None:
        """Compile a statement, and refuse what the authorizer refuses.

        Raises:
            ImportInvalid: it needs what this file does not have, or would run what is in it.
        """
        with self._reading():
            self._connection.execute(f"EXPLAIN {sql}").close()

    def damaged(self, error: Exception | None = None) -> ImportInvalid:
        """Return the error to raise for a file that contradicts itself."""
        if self._steps_left < 0:
            return ImportInvalid(f"reading {self.path.name} does not end", _RECORD_AGAIN)
        reason = getattr(error, "sqlite_errorname", None)
        said = f" ({reason})" if reason else ""
        return ImportInvalid(f"{self.path.name} is a damaged SQLite file{said}", _RECORD_AGAIN)

    def _guard(self) -> None:
        connection = self._connection
        connection.text_factory = lambda text: text.decode("utf-8", "replace")
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_TEXT_BYTES)
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        connection.set_progress_handler(self._step, _STEPS_PER_CALL)
        with self._reading():
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA cell_size_check = ON")
        connection.set_authorizer(_authorize)

    def _step(self) -> bool:
        """Tell SQLite to stop: the budget is used up."""
        self._steps_left -= _STEPS_PER_CALL
        return self._steps_left < 0

    def _list_tables(self) -> dict[str, Table]:
        # In sqlite_schema, a virtual table's root page is 0 and a view's null.
        listed = self.rows("SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage > 0")
        names = list(islice(listed, MAX_TABLE_COUNT))
        found = (self._describe(str(name)) for (name,) in names)
        return {table.name: table for table in found if table is not None}

    def _describe(self, name: str) -> Table | None:
        """Return a table that has row ids and no more columns than are stored."""
        columns, keys = [], []
        for _, column, kind, _, _, key, hidden in self.rows(f"PRAGMA table_xinfo({quote(name)})"):
            if hidden:  # generated: reading it would run the file's own expression
                continue
            columns.append(str(column))
            if key:
                keys.append((str(column), str(kind).upper()))
        is_alias = len(keys) == 1 and keys[0][1] == "INTEGER"
        if any(column.lower() == "_rowid_" for column in columns):
            return None
        return Table(name, frozenset(columns), keys[0][0] if is_alias else None)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, MemoryError, UnicodeDecodeError) as error:
            # The last: a message that quotes what is not UTF-8.
            raise self.damaged(error) from error


def _authorize(
    action: int, one: str | None, two: str | None, database: str | None, inner: str | None
) -> int:
    """Allow reading, and the few functions used here; ``inner`` is a view or trigger that asks."""
    if inner is None and (
        action in _ACTIONS or (action == sqlite3.SQLITE_FUNCTION and two in _FUNCTIONS)
    ):
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY


def _check_file(path: Path) -> int:
    """Return a whole database file's size in bytes, from what its header says (1.3 there)."""
    header = head(path, _HEADER_BYTES)
    if not header.startswith(SQLITE_MAGIC) or len(header) < _HEADER_BYTES:
        raise ImportInvalid(
            f"{path.name} is no SQLite database", f"see what it is: file {path.name}"
        )
    try:
        with path.open("rb") as file:
            is_packed = file.read(len(SQLITE_MAGIC)) != SQLITE_MAGIC
            size_bytes = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise read_error(path, error) from error
    if is_packed:
        raise ImportInvalid(f"{path.name} is packed", f"unpack it first: gunzip {path.name}")
    for end in ("-wal", "-journal"):
        beside = path.with_name(path.name + end)
        if beside.exists() and beside.stat().st_size:
            raise ImportInvalid(
                f"{path.name} was left by a writer that had not finished: {beside.name} is there",
                f"let SQLite repair it first: sqlite3 {path.name} 'PRAGMA wal_checkpoint(FULL)'",
            )
    page_bytes = int.from_bytes(header[16:18], "big")
    page_bytes = 65_536 if page_bytes == 1 else page_bytes
    # The count of pages is only right where the two change counters agree.
    if header[24:28] == header[92:96]:
        needed_bytes = page_bytes * int.from_bytes(header[28:32], "big")
        if size_bytes < needed_bytes:
            raise ImportInvalid(
                f"{path.name} is cut off: {size_bytes:,} of {needed_bytes:,} bytes", _RECORD_AGAIN
            )
    return size_bytes
