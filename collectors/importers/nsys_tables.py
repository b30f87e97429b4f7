"""One session's tables of a Nsight Systems export, on their way into a trace."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
from collectors.importers.trace import MAX_TIME_NS, Trace
from collectors.slices import ANNOTATION, API, KERNEL, MEMCPY, MEMSET, NONE, Slices, make_slices

# globalTid and globalPid: hardware and virtual machine, 24 bits of process, 24 of thread.
_ID_BITS: Final = 24
_ID_MASK: Final = (1 << _ID_BITS) - 1
_NODE_BITS: Final = 32  # of a graphNodeId; above them stands the graph
_MAX_DEVICE: Final = (1 << 31) - 2  # CUPTI says INT_MAX for a graph that begins on the host
# CUPTI's copyKind: CUpti_ActivityMemcpyKind.
_COPY_KINDS: Final = {
    1: "HOST_TO_DEVICE", 2: "DEVICE_TO_HOST", 3: "HOST_TO_ARRAY", 4: "ARRAY_TO_HOST",
    5: "ARRAY_TO_ARRAY", 6: "ARRAY_TO_DEVICE", 7: "DEVICE_TO_ARRAY", 8: "DEVICE_TO_DEVICE",
    9: "HOST_TO_HOST", 10: "PEER_TO_PEER",
}  # fmt: skip
_API_VERSION = re.compile(r"_v\d+$")
_ON_GPU: Final = ("start", "end", "deviceId", "streamId", "globalPid")
_ON_HOST: Final = ("start", "globalTid")
_NO_TEXT: Final = "(no text)"
_WHOLE_GRAPHS: Final = (
    "CUDA graphs were traced as wholes: what ran in a replay, and its idle time, is not known"
)


@dataclass(frozen=True, slots=True)
class _Kind:
    """A table: the columns that each version has, those that some lack, and who adds its rows."""

    add: Callable[[SessionTables, Rows], None]
    needed: tuple[str, ...]
    known: tuple[str, ...]
    is_on_gpu: bool


def session_start_ns(database: Database) -> int | None:
    """Return the wall time at which a session's clock was 0, where its export has it."""
    table = database.tables.get("TARGET_INFO_SESSION_START_TIME")
    if table is not None and "utcEpochNs" in table.columns:
        for (start_ns,) in database.rows(f"SELECT utcEpochNs FROM {quote(table.name)}"):
            if isinstance(start_ns, int) and 0 < start_ns < MAX_TIME_NS:
                return start_ns
    return None


class SessionTables:
    """The tables of one export."""

    def __init__(self, trace: Trace, database: Database, offset_ns: int) -> None:
        """Look up who there was; ``offset_ns`` is added to all times."""
        self._trace = trace
        self._database = database
        self._offset_ns = offset_ns
        self._slices = SliceBuffer(trace)
        self._gpu_names = {
            row: str(name) for row, name in self._all("TARGET_INFO_GPU", "id", "name")
        }
        self._gpus = {
            (pid, cuda): gpu
            for pid, cuda, gpu in self._all("TARGET_INFO_CUDA_DEVICE", "pid", "cudaId", "gpuId")
        }
        self._process_names = {
            pid: str(name or "") for pid, name in self._all("PROCESSES", "globalPid", "name")
        }
        self._thread_names = dict(self._all("ThreadNames", "globalTid", "nameId"))
        self._streams = Lookup("streams", MAX_TRACK_COUNT, self._stream)
        self._threads = Lookup("threads", MAX_TRACK_COUNT, self._thread)
        self._kernels = Lookup("kernels", MAX_NAME_COUNT, self._kernel)
        self._graphs = Lookup("graphs", MAX_NAME_COUNT, self._graph)
        self._copies = Lookup("kinds of copies", MAX_NAME_COUNT, self._copy)
        self._calls = Lookup("names of calls", MAX_NAME_COUNT, self._call)
        self._texts = Lookup("names of ranges", MAX_NAME_COUNT, self._text)

    def read(self, on_progress: Progress, *, device_only: bool) -> None:
        """Add what lasted on GPUs and, unless ``device_only``, on threads."""
        kinds = {
            name: kind
            for name, kind in KINDS.items()
            if name in self._database.tables and (kind.is_on_gpu or not device_only)
        }
        for done, (name, kind) in enumerate(kinds.items()):
            table = self._database.need(name, *kind.needed)
            for rows in self._batches(table, kind, part(on_progress, done, len(kinds))):
                kind.add(self, rows)
        self._slices.flush()

    def _add_kernels(self, rows: Rows) -> None:
        demangled, short = rows["demangledName"], rows["shortName"]
        names = self._kernels(np.where(demangled == NONE, short, demangled))
        self._add_on_gpu(rows, names, _graph_ids(rows))

    def _add_graphs(self, rows: Rows) -> None:
        self._trace.host["caveat"] = _WHOLE_GRAPHS
        self._add_on_gpu(rows, self._graphs(rows["graphId"]), rows["graphId"])

    def _add_copies(self, rows: Rows) -> None:
        self._add_on_gpu(rows, self._copies(rows["copyKind"]), _graph_ids(rows), rows["bytes"])

    def _add_memsets(self, rows: Rows) -> None:
        names = np.full(len(rows["start"]), self._trace.name(MEMSET, "Memset"), np.int32)
        self._add_on_gpu(rows, names, _graph_ids(rows), rows["bytes"])

    def _add_on_gpu(
        self, rows: Rows, names: NDArray[np.int32], graph: NDArray[np.int64],
        size_bytes: NDArray[np.int64] | None = None,
    ) -> None:  # fmt: skip
        track = self._streams(rows["globalPid"], rows["deviceId"], rows["streamId"])
        slices = make_slices(
            rows["start"] + self._offset_ns, rows["end"] - rows["start"], track, names,
            correlation=rows["correlationId"], size_bytes=size_bytes, graph=graph,
        )  # fmt: skip
        is_known = track != NONE
        if not is_known.all():
            self._trace.skip("rows of no GPU", int((~is_known).sum()))
            slices = slices.where(is_known)
        self._slices.add(slices)

    def _add_calls(self, rows: Rows) -> None:
        self._add_on_host(rows, self._calls(rows["nameId"]), rows["correlationId"])

    def _add_ranges(self, rows: Rows) -> None:
        """Add NVTX ranges; its marks and registrations have no end."""
        has_end = rows["end"] != NONE
        rows = {name: column[has_end] for name, column in rows.items()}
        is_registered = rows["textId"] != NONE
        names = np.empty(len(is_registered), np.int32)
        names[is_registered] = self._texts(rows["textId"][is_registered])
        own = rows["_rowid_"][~is_registered].tolist()
        names[~is_registered] = self._trace.names(ANNOTATION, map(self._own_text, own))
        self._add_on_host(rows, names, np.full(len(names), NONE, np.int64))

    def _add_on_host(
        self, rows: Rows, names: NDArray[np.int32], correlation: NDArray[np.int64]
    ) -> None:
        slices: Slices = make_slices(
            rows["start"] + self._offset_ns, rows["end"] - rows["start"],
            self._threads(rows["globalTid"]), names, correlation=correlation,
        )  # fmt: skip
        self._slices.add(slices)

    def _batches(self, table: Table, kind: _Kind, on_progress: Progress) -> Iterator[Rows]:
        """Yield a table's rows whose times an offset cannot carry out of range."""
        select: dict[str, str | None] = {name: f"t.{quote(name)}" for name in kind.needed}
        for name in kind.known:
            is_there = name in table.columns or name == "_rowid_"
            select[name] = f"ifnull(t.{quote(name)}, {NONE})" if is_there else None
        for rows in read_integers(
            self._database, table, select, skip=self._trace.skip, on_progress=on_progress
        ):
            times = np.stack([rows["start"], rows["end"]])
            is_sane = ((times > -MAX_TIME_NS) & (times < MAX_TIME_NS)).all(axis=0)
            is_sane &= (rows["start"] != 0) | (rows["end"] != 0)  # CUPTI could not tell when
            if not is_sane.all():
                self._trace.skip("rows without a time", int((~is_sane).sum()))
                rows = {name: column[is_sane] for name, column in rows.items()}
            yield rows

    def _stream(self, global_pid: int, cuda_device: int, stream: int) -> int:
        if not 0 <= cuda_device <= _MAX_DEVICE:
            return NONE
        process = self._process(global_pid)
        pid = self._trace.track_rows[process]["pid"]
        # CUDA counts the devices that a process may see, the machine all of them.
        gpu = self._gpus.get((pid, cuda_device), cuda_device)
        is_gpu = isinstance(gpu, int) and 0 <= gpu <= _MAX_DEVICE
        index = gpu if is_gpu else cuda_device
        device = self._trace.device(index, name=self._gpu_names.get(index, ""))
        return self._trace.stream(device, stream, process=process, name=f"stream {stream}")

    def _process(self, global_pid: int) -> int:
        name = self._process_names.get(global_pid & ~_ID_MASK, "").rpartition("/")[2]
        return self._trace.process((global_pid >> _ID_BITS) & _ID_MASK, name=name)

    def _thread(self, global_tid: int) -> int:
        named = self._thread_names.get(global_tid)
        name = self._string(named) if isinstance(named, int) else ""
        return self._trace.thread(self._process(global_tid), global_tid & _ID_MASK, name=name)

    def _kernel(self, row: int) -> int:
        return self._trace.name(KERNEL, self._string(row))

    def _graph(self, graph: int) -> int:
        return self._trace.name(KERNEL, f"CUDA graph {graph} (whole)")

    def _copy(self, kind: int) -> int:
        return self._trace.name(MEMCPY, _COPY_KINDS.get(kind, f"copy of kind {kind}"))

    def _call(self, row: int) -> int:
        return self._trace.name(API, _API_VERSION.sub("", self._string(row)))

    def _text(self, row: int) -> int:
        return self._trace.name(ANNOTATION, self._string(row))

    def _own_text(self, row: int) -> str:
        """Return the text of a range that is not registered."""
        table = self._database.need("NVTX_EVENTS")
        if "text" not in table.columns:
            return _NO_TEXT
        sql = f"SELECT text FROM {quote(table.name)} WHERE _rowid_ = ?"
        (text,) = next(self._database.rows(sql, (row,)), (None,))
        return str(text or _NO_TEXT)

    def _string(self, row: int) -> str:
        self._database.need("StringIds", "id", "value")
        found = self._database.rows("SELECT value FROM StringIds WHERE id = ?", (row,))
        (text,) = next(found, ("",))
        return str(text or f"string {row}")

    def _all(self, name: str, *columns: str) -> Iterator[tuple[Any, ...]]:
        """Yield these columns of a small table, nothing where this version has no such table."""
        table = self._database.tables.get(name)
        if table is None or not table.columns.issuperset(columns):
            return
        sql = f"SELECT {', '.join(map(quote, columns))} FROM {quote(name)}"
        for count, row in enumerate(self._database.rows(sql), 1):
            if count > MAX_TRACK_COUNT:
                raise ImportInvalid(f"{name} has more rows than any host", "export it again")
            yield row


def _graph_ids(rows: Rows) -> NDArray[np.int64]:
    """Return the graph of each row; older versions have it only in the node's id."""
    node = rows["graphNodeId"]
    of_node = np.where(node > 0, node >> _NODE_BITS, NONE)
    return np.where(rows["graphId"] > 0, rows["graphId"], of_node)


_LAUNCH: Final = ("correlationId", "graphNodeId", "graphId")
KINDS: Final = {
    "CUPTI_ACTIVITY_KIND_KERNEL": _Kind(
        SessionTables._add_kernels, _ON_GPU, ("demangledName", "shortName", *_LAUNCH), True
    ),
    "CUPTI_ACTIVITY_KIND_MEMCPY": _Kind(
        SessionTables._add_copies, (*_ON_GPU, "bytes", "copyKind"), _LAUNCH, True
    ),
    "CUPTI_ACTIVITY_KIND_MEMSET": _Kind(
        SessionTables._add_memsets, (*_ON_GPU, "bytes"), _LAUNCH, True
    ),
    "CUPTI_ACTIVITY_KIND_GRAPH_TRACE": _Kind(
        SessionTables._add_graphs, (*_ON_GPU, "graphId"), ("correlationId",), True
    ),
    "CUPTI_ACTIVITY_KIND_RUNTIME": _Kind(
        SessionTables._add_calls, (*_ON_HOST, "end", "nameId"), ("correlationId",), False
    ),
    "NVTX_EVENTS": _Kind(SessionTables._add_ranges, _ON_HOST, ("end", "textId", "_rowid_"), False),
}
