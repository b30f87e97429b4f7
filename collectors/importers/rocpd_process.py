"""One process's tables of a rocpd database, on their way into a trace.

What shares a track ran one after another, so that overlap is seen between tracks only: a HIP stream
is such a track, whichever queue carried it, and so is a queue for what has no stream of its own
(stream 0: everything, when HIP was not traced). Its id is then the queue's, negative.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collectors.errors import ImportInvalid
from collectors.importers.groups import MAX_NAME_COUNT, MAX_TRACK_COUNT, Lookup
from collectors.importers.progress import part
from collectors.importers.slice_buffer import SliceBuffer
from collectors.importers.source import Progress
from collectors.importers.sqlite_columns import Rows, read_integers
from collectors.importers.sqlite_source import Database, Table, quote
from collectors.importers.trace import Trace
from collectors.slices import ANNOTATION, API, KERNEL, MEMCPY, NONE, Slices, make_slices

_SCHEMA_MAJOR: Final = "3"
_MAX_ID: Final = (1 << 31) - 1  # of a process, a thread, a GPU
# What ROCTx users name themselves; the other MARKER domains are calls about the tool.
_RANGE_DOMAINS: Final = frozenset({"MARKER_CORE_API", "MARKER_CORE_RANGE_API"})
# Columns of the tables: those that each version has, and those that may be missing or null.
_COLUMNS: Final = {
    "kernel_dispatch": (
        ("pid", "start", "end", "agent_id", "kernel_id"),
        ("tid", "queue_id", "stream_id", "graph_exec_id"),
    ),
    "memory_copy": (
        ("pid", "start", "end", "name_id", "size"),
        ("tid", "queue_id", "stream_id", "graph_exec_id", "dst_agent_id", "src_agent_id"),
    ),
    "region": (("pid", "tid", "start", "end", "name_id"), ()),
}
_EVENT_COLUMNS: Final = {
    "kernel_dispatch": ("stack_id",),
    "memory_copy": ("stack_id",),
    "region": ("stack_id", "category_id", "event_id"),
}
_HOST_COLUMNS: Final = frozenset({"tid"})  # who launched; left out with all that is on the host


class ProcessTables:
    """The tables with one suffix."""

    def __init__(self, trace: Trace, database: Database, suffix: str) -> None:
        """Look up who there was: processes, threads, agents.

        Raises:
            ImportInvalid: these tables are not there, or of a schema that is not known.
        """
        self._trace = trace
        self._database = database
        self._suffix = suffix
        self._slices = SliceBuffer(trace)
        self._check_schema()
        self._note_host()
        self._pids = {row: pid for row, pid in self._info("process", "pid") if _is_id(pid)}
        self._tids = {
            row: (tid, str(name or ""))
            for row, tid, name in self._info("thread", "tid", "name")
            if _is_id(tid)
        }
        columns = ("type", "type_index", "product_name", "name")
        self._gpus = {
            row: (index, str(product or name or ""))
            for row, kind, index, product, name in self._info("agent", *columns)
            if kind == "GPU" and _is_id(index)
        }
        self._streams = Lookup("streams", MAX_TRACK_COUNT, self._stream)
        self._threads = Lookup("threads", MAX_TRACK_COUNT, self._thread)
        self._kernels = Lookup("kernels", MAX_NAME_COUNT, self._kernel)
        self._copies = Lookup("kinds of copies", MAX_NAME_COUNT, self._copy)
        self._calls = Lookup("names of calls", MAX_NAME_COUNT, self._call)
        self._is_range = Lookup("domains", MAX_NAME_COUNT, self._is_range_domain)

    def read(self, on_progress: Progress, *, device_only: bool) -> None:
        """Add dispatches and copies and, unless ``device_only``, calls and ranges of threads."""
        adders: dict[str, Callable[[Rows], None]] = {
            "kernel_dispatch": self._add_dispatches,
            "memory_copy": self._add_copies,
        }
        if not device_only:
            adders["region"] = self._add_regions
        kinds = [kind for kind in adders if self._table(kind) in self._database.tables]
        for done, kind in enumerate(kinds):
            for rows in self._batches(kind, part(on_progress, done, len(kinds)), device_only):
                adders[kind](rows)
        self._slices.flush()

    def _add_dispatches(self, rows: Rows) -> None:
        names = self._kernels(rows["kernel_id"])
        self._add_on_gpu(rows, rows["agent_id"], names, None)

    def _add_copies(self, rows: Rows) -> None:
        """Add copies: a GPU's own when it is the source and the target is none."""
        is_to_gpu = np.isin(rows["dst_agent_id"], list(self._gpus))
        agent = np.where(is_to_gpu, rows["dst_agent_id"], rows["src_agent_id"])
        self._add_on_gpu(rows, agent, self._copies(rows["name_id"]), rows["size"])

    def _add_on_gpu(
        self, rows: Rows, agent: NDArray[np.int64], names: NDArray[np.int32],
        size_bytes: NDArray[np.int64] | None,
    ) -> None:  # fmt: skip
        track = self._streams(rows["pid"], agent, rows["queue_id"], rows["stream_id"])
        slices = make_slices(
            rows["start"], rows["end"] - rows["start"], track, names,
            correlation=_known(rows["stack_id"]),
            launch_track=self._threads(rows["pid"], rows["tid"]),
            size_bytes=size_bytes, graph=_known(rows["graph_exec_id"]),
        )  # fmt: skip
        self._add(slices, track, "rows of processes or GPUs that the file does not list")

    def _add_regions(self, rows: Rows) -> None:
        """Add calls of the runtimes, and ranges under the text that their user gave them."""
        track = self._threads(rows["pid"], rows["tid"])
        names = self._calls(rows["category_id"], rows["name_id"])
        for row in np.flatnonzero(self._is_range(rows["category_id"])):
            names[row] = self._message(int(rows["event_id"][row]), int(names[row]))
        slices = make_slices(
            rows["start"], rows["end"] - rows["start"], track, names,
            correlation=_known(rows["stack_id"]),
        )  # fmt: skip
        self._add(slices, track, "rows of threads that the file does not list")

    def _add(self, slices: Slices, track: NDArray[np.int32], reason: str) -> None:
        is_known = track != NONE
        if not is_known.all():
            self._trace.skip(reason, int((~is_known).sum()))
            slices = slices.where(is_known)
        self._slices.add(slices)

    def _batches(self, kind: str, on_progress: Progress, device_only: bool) -> Iterator[Rows]:
        """Yield a table's rows, and of each row's event what it tells; `NONE` for null."""
        needed, known = _COLUMNS[kind]
        table = self._database.need(self._table(kind), *needed)
        select: dict[str, str | None] = {name: f"t.{quote(name)}" for name in needed}
        for name in known:
            is_there = name in table.columns and not (device_only and name in _HOST_COLUMNS)
            select[name] = f"ifnull(t.{quote(name)}, {NONE})" if is_there else None
        events, join = self._database.tables.get(self._table("event")), ""
        for name in _EVENT_COLUMNS[kind]:
            select[name] = None
        if (
            not device_only and "event_id" in table.columns and events is not None
            and events.key == "id" and events.columns >= {"stack_id", "category_id"}
        ):  # fmt: skip
            join = f"LEFT JOIN {quote(events.name)} AS e ON e._rowid_ = t.event_id"
            for name in _EVENT_COLUMNS[kind]:
                select[name] = f"ifnull({'t' if name == 'event_id' else 'e'}.{name}, {NONE})"
        yield from read_integers(
            self._database, table, select, join=join, skip=self._trace.skip,
            on_progress=on_progress,
        )  # fmt: skip

    def _stream(self, process: int, agent: int, queue: int, stream: int) -> int:
        gpu, owner = self._gpus.get(agent), self._process(process)
        if gpu is None or owner == NONE:
            return NONE
        device = self._trace.device(gpu[0], name=gpu[1])
        if stream > 0:
            return self._trace.stream(device, stream, process=owner, name=f"stream {stream}")
        queue = max(0, queue)
        name = f"queue {queue}" if queue else "default stream"
        return self._trace.stream(device, -queue, process=owner, name=name)

    def _process(self, row: int) -> int:
        pid = self._pids.get(row)
        return NONE if pid is None else self._trace.process(pid)

    def _thread(self, process: int, thread: int) -> int:
        owner, known = self._process(process), self._tids.get(thread)
        if owner == NONE or known is None:
            return NONE
        return self._trace.thread(owner, known[0], name=known[1])

    def _kernel(self, row: int) -> int:
        table = self._database.need(
            self._table("info_kernel_symbol"), "id", "display_name", "kernel_name"
        )
        names = next(self._text(table, row, "display_name", "kernel_name"), (None, None))
        text = next((str(name) for name in names if name), f"kernel {row}")
        return self._trace.name(KERNEL, text.removesuffix(".kd"))

    def _copy(self, row: int) -> int:
        return self._trace.name(MEMCPY, self._string(row).removeprefix("MEMORY_COPY_"))

    def _call(self, category: int, name: int) -> int:
        kind = ANNOTATION if self._is_range_domain(category) else API
        return self._trace.name(kind, self._string(name))

    def _is_range_domain(self, category: int) -> int:
        return int(self._string(category) in _RANGE_DOMAINS)

    def _message(self, event: int, otherwise: int) -> int:
        """Return the name of a range: the text in its event, from schema 3.0.0 on."""
        table = self._database.need(self._table("event"), "id", "extdata")
        for (text,) in self._text(table, event, "extdata"):
            try:
                message = json.loads(text or "")["message"]
            except (ValueError, TypeError, KeyError, RecursionError):
                continue
            if isinstance(message, str) and message:
                return self._trace.name(ANNOTATION, message)
        return otherwise

    def _string(self, row: int) -> str:
        table = self._database.need(self._table("string"), "id", "string")
        (text,) = next(self._text(table, row, "string"), ("",))
        return str(text or f"string {row}")

    def _text(self, table: Table, row: int, *columns: str) -> Iterator[tuple[Any, ...]]:
        what = ", ".join(map(quote, columns))
        return self._database.rows(f"SELECT {what} FROM {quote(table.name)} WHERE id = ?", (row,))

    def _info(self, kind: str, *columns: str) -> Iterator[tuple[Any, ...]]:
        """Yield the id and these columns of each row of a table that says who there was."""
        table = self._database.need(self._table(f"info_{kind}"), "id", *columns)
        what = ", ".join(map(quote, ("id", *columns)))
        for count, row in enumerate(
            self._database.rows(f"SELECT {what} FROM {quote(table.name)}"), 1
        ):
            if count > MAX_TRACK_COUNT:
                raise ImportInvalid(f"{table.name} has more rows than any host", "record again")
            yield row

    def _table(self, kind: str) -> str:
        return f"rocpd_{kind}{self._suffix}"

    def _check_schema(self) -> None:
        table = self._database.need(self._table("metadata"), "tag", "value")
        sql = f"SELECT value FROM {quote(table.name)} WHERE tag = 'schema_version'"
        for (version,) in self._database.rows(sql):
            if str(version).partition(".")[0] != _SCHEMA_MAJOR:
                raise ImportInvalid(
                    f"{self._database.path.name} has rocpd schema {str(version)[:20]}; "
                    f"known is {_SCHEMA_MAJOR}",
                    "convert it: rocpd convert -i FILE --output-format csv, and import the CSV",
                )

    def _note_host(self) -> None:
        for _, kernel, machine in self._info("node", "release", "hardware_name"):
            self._trace.host |= {"kernel": str(kernel or ""), "machine": str(machine or "")}


def _is_id(value: object) -> bool:
    return isinstance(value, int) and 0 <= value <= _MAX_ID


def _known(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return ids with `NONE` for 0, by which the SDK says that there is none."""
    return np.where(ids > 0, ids, NONE)
