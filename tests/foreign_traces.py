"""Small traces of other tools: cut from real ones, or made as those tools write them."""

from __future__ import annotations

import gzip
import json
import shutil
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as perfetto

from collectors.importers.trace import Trace
from collectors.slices import DEVICE_KINDS, Slices
from tests.recordings import two_frames

GOLDEN = Path(__file__).parent / "golden" / "traces"
ROCPD_SUFFIX = "_019b0000_0000_7908_8908_000000000908"
# Of the 300 real dispatches there: from the source's own times, by a sweep over sorted ends.
REAL_COUNT = 300
REAL_FIRST_NS = 63_870_739_265_975
REAL_SPAN_NS = 16_022_549
REAL_BUSY_NS = 10_890_604
REAL_SUM_NS = 11_858_168


def rocpd(directory: Path, more: str = "") -> Path:
    """Return a database of 300 real dispatches, after more statements of SQL."""
    path = directory / "908_results.db"
    dump = gzip.decompress((GOLDEN / "mi350x_908_300_rocpd.sql.gz").read_bytes()).decode()
    database = sqlite3.connect(path)
    database.executescript(dump + more)
    database.close()
    return path


def rocprofv3_csv(directory: Path) -> list[Path]:
    """Return the same dispatches as CSV, and the table of agents."""
    kernels, agents = directory / "908_kernel_trace.csv.gz", directory / "908_agent_info.csv"
    shutil.copyfile(GOLDEN / "mi350x_908_300_kernel_trace.csv.gz", kernels)
    shutil.copyfile(GOLDEN / "mi350x_908_300_agent_info.csv", agents)
    return [kernels, agents]


# The export of Nsight Systems 2024; columns that no reader of ours asks for are there, too.
NSYS_SCHEMA = """
CREATE TABLE StringIds (id INTEGER NOT NULL PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE TARGET_INFO_SESSION_START_TIME (utcEpochNs INTEGER, utcTime TEXT, localTime TEXT);
CREATE TABLE TARGET_INFO_GPU (vmId INTEGER NOT NULL, id INTEGER NOT NULL, name TEXT,
    busLocation TEXT, isDiscrete INTEGER, totalMemory INTEGER, smCount INTEGER);
CREATE TABLE TARGET_INFO_CUDA_DEVICE (gpuId INTEGER, cudaId INTEGER NOT NULL, pid INTEGER NOT NULL,
    uuid TEXT, numMultiprocessors INTEGER);
CREATE TABLE PROCESSES (globalPid INTEGER, pid INTEGER, name TEXT);
CREATE TABLE ThreadNames (nameId INTEGER NOT NULL, priority INTEGER, globalTid INTEGER);
CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start INTEGER NOT NULL, end INTEGER NOT NULL,
    deviceId INTEGER NOT NULL, contextId INTEGER NOT NULL, greenContextId INTEGER,
    streamId INTEGER NOT NULL, correlationId INTEGER, globalPid INTEGER,
    demangledName INTEGER NOT NULL, shortName INTEGER NOT NULL, mangledName INTEGER,
    launchType INTEGER, registersPerThread INTEGER NOT NULL, gridX INTEGER NOT NULL,
    blockX INTEGER NOT NULL, graphNodeId INTEGER);
CREATE TABLE CUPTI_ACTIVITY_KIND_MEMCPY (start INTEGER NOT NULL, end INTEGER NOT NULL,
    deviceId INTEGER NOT NULL, contextId INTEGER NOT NULL, greenContextId INTEGER,
    streamId INTEGER NOT NULL, correlationId INTEGER, globalPid INTEGER, bytes INTEGER NOT NULL,
    copyKind INTEGER NOT NULL, srcKind INTEGER, dstKind INTEGER, graphNodeId INTEGER);
CREATE TABLE CUPTI_ACTIVITY_KIND_MEMSET (start INTEGER NOT NULL, end INTEGER NOT NULL,
    deviceId INTEGER NOT NULL, contextId INTEGER NOT NULL, greenContextId INTEGER,
    streamId INTEGER NOT NULL, correlationId INTEGER, globalPid INTEGER, value INTEGER NOT NULL,
    bytes INTEGER NOT NULL, graphNodeId INTEGER, memKind INTEGER);
CREATE TABLE CUPTI_ACTIVITY_KIND_GRAPH_TRACE (start INTEGER NOT NULL, end INTEGER NOT NULL,
    deviceId INTEGER NOT NULL, contextId INTEGER NOT NULL, greenContextId INTEGER,
    streamId INTEGER NOT NULL, correlationId INTEGER, globalPid INTEGER, graphId INTEGER NOT NULL,
    graphExecId INTEGER NOT NULL);
CREATE TABLE CUPTI_ACTIVITY_KIND_RUNTIME (start INTEGER NOT NULL, end INTEGER NOT NULL,
    eventClass INTEGER NOT NULL, globalTid INTEGER, correlationId INTEGER, nameId INTEGER NOT NULL,
    returnValue INTEGER NOT NULL, callchainId INTEGER);
CREATE TABLE NVTX_EVENTS (start INTEGER NOT NULL, end INTEGER, eventType INTEGER NOT NULL,
    rangeId INTEGER, category INTEGER, color INTEGER, text TEXT, globalTid INTEGER,
    endGlobalTid INTEGER, textId INTEGER, domainId INTEGER);
"""
NSYS_START_NS = 1_767_189_312_000_000_000
NSYS_PID, NSYS_TID = 4242, 4250
NSYS_GLOBAL_PID = (1 << 56) | (NSYS_PID << 24)
NSYS_ROWS: dict[str, list[tuple[Any, ...]]] = {
    "StringIds": [
        (1, "void gemm<float, 128>(float const*, float*)"), (2, "gemm"),
        (3, "ncclDevKernel_AllReduce"), (4, "cudaLaunchKernel_v7000"), (5, "decode step"),
        (6, "EngineCore"),
    ],
    "TARGET_INFO_SESSION_START_TIME": [(NSYS_START_NS, "", "")],
    "TARGET_INFO_GPU": [(0, 0, "NVIDIA H100", "", 1, 0, 132), (0, 3, "NVIDIA H200", "", 1, 0, 132)],
    "TARGET_INFO_CUDA_DEVICE": [(3, 0, NSYS_PID, "GPU-3", 132)],
    "PROCESSES": [(NSYS_GLOBAL_PID, NSYS_PID, "/usr/bin/python3.12")],
    "ThreadNames": [(6, 0, NSYS_GLOBAL_PID | NSYS_TID)],
    "CUPTI_ACTIVITY_KIND_KERNEL": [
        (1000, 5000, 0, 1, None, 7, 11, NSYS_GLOBAL_PID, 1, 2, None, 1, 32, 1, 128, None),
        (4000, 6000, 0, 1, None, 8, 12, NSYS_GLOBAL_PID, 3, 3, None, 1, 32, 1, 128, (9 << 32) | 4),
    ],
    "CUPTI_ACTIVITY_KIND_MEMCPY": [
        (7000, 7500, 0, 1, None, 7, 13, NSYS_GLOBAL_PID, 4096, 1, 0, 2, None),
    ],
    "CUPTI_ACTIVITY_KIND_MEMSET": [
        (8000, 8100, 0, 1, None, 7, 14, NSYS_GLOBAL_PID, 0, 512, None, 2),
    ],
    "CUPTI_ACTIVITY_KIND_RUNTIME": [
        (900, 950, 0, NSYS_GLOBAL_PID | NSYS_TID, 11, 4, 0, None),
    ],
    "NVTX_EVENTS": [
        (800, 9000, 59, None, None, None, None, NSYS_GLOBAL_PID | NSYS_TID, None, 5, 0),
        (850, 960, 60, 1, None, None, "forward", NSYS_GLOBAL_PID | NSYS_TID, None, None, 0),
        (860, None, 34, None, None, None, "a mark", NSYS_GLOBAL_PID | NSYS_TID, None, None, 0),
    ],
}  # fmt: skip


def nsys(directory: Path, rows: dict[str, list[tuple[Any, ...]]] | None = None) -> Path:
    """Return an export with these rows, in tables as Nsight Systems makes them: lazily."""
    path = directory / "report1.sqlite"
    path.unlink(missing_ok=True)
    rows = NSYS_ROWS if rows is None else rows
    database = sqlite3.connect(path)
    for statement in NSYS_SCHEMA.split(";"):
        if any(f"TABLE {name} " in statement for name in rows):
            database.execute(statement)
    for name, values in rows.items():
        if values:
            marks = ", ".join("?" * len(values[0]))
            database.executemany(f"INSERT INTO {name} VALUES ({marks})", values)
    database.commit()
    database.close()
    return path


class PftraceWriter:
    """Writes packets as Perfetto's SDK does for rocprofv3, by Perfetto's own messages."""

    PROCESS_UUID, WRITER = 99, 3

    def __init__(self, pid: int = 908) -> None:
        self.trace = perfetto.Trace()
        self._iids: dict[tuple[str, str], int] = {}
        first = self.packet()
        first.sequence_flags = perfetto.TracePacket.SEQ_INCREMENTAL_STATE_CLEARED
        first.track_descriptor.uuid = self.PROCESS_UUID
        first.track_descriptor.process.pid = pid

    def packet(self) -> Any:
        packet = self.trace.packet.add()
        packet.trusted_packet_sequence_id = self.WRITER
        return packet

    def track(self, uuid: int, name: str) -> None:
        track = self.packet().track_descriptor
        track.uuid, track.parent_uuid, track.name = uuid, self.PROCESS_UUID, name

    def slice(self, category: str, name: str, uuid: int = 7, **notes: int | str) -> None:
        """Write a begin with its notes, and an end."""
        packet = self.packet()
        packet.timestamp = self._instant(notes.get("begin_ns"))
        event, interned = packet.track_event, packet.interned_data
        event.type = perfetto.TrackEvent.TYPE_SLICE_BEGIN
        event.track_uuid = uuid
        event.category_iids.append(self._iid("category", category, interned.event_categories))
        event.name_iid = self._iid("name", name, interned.event_names)
        for key, value in notes.items():
            note = event.debug_annotations.add()
            note.name_iid = self._iid("note", key, interned.debug_annotation_names)
            if isinstance(value, str):
                note.string_value = value
            else:
                note.uint_value = value
        if not interned.ByteSize():
            packet.ClearField("interned_data")
        end = self.packet()
        end.timestamp = self._instant(notes.get("end_ns"))
        end.track_event.type = perfetto.TrackEvent.TYPE_SLICE_END
        end.track_event.track_uuid = uuid

    def write(self, path: Path) -> Path:
        path.write_bytes(self.trace.SerializeToString())
        return path

    def _instant(self, time_ns: int | str | None) -> int:
        return time_ns if isinstance(time_ns, int) else 0

    def _iid(self, kind: str, text: str, entries: Any) -> int:
        if (kind, text) not in self._iids:
            self._iids[kind, text] = len(self._iids) + 1
            entries.add(iid=self._iids[kind, text], name=text)
        return self._iids[kind, text]


def pftrace(directory: Path) -> Path:
    """Return a trace of two kernels on two streams, a copy, a call and a range."""
    writer = PftraceWriter()
    writer.track(7, "COMPUTE AGENT [4] STREAM [0] (GPU)")
    writer.track(8, "COMPUTE AGENT [4] STREAM [2] (GPU)")
    common = {"kind": 11, "tid": 909, "kernel_id": 5}
    writer.slice(
        "kernel_dispatch", "gemm(float*) [clone .kd]", 7, begin_ns=1000, end_ns=5000, corr_id=11,
        agent="Agent-4", queue=16, **common,
    )  # fmt: skip
    writer.slice(
        "kernel_dispatch", "ncclDevKernel_Generic", 8, begin_ns=4000, end_ns=6000, corr_id=12,
        agent="Agent-4", queue=17, **common,
    )  # fmt: skip
    writer.slice(
        "memory_copy", "MEMORY_COPY_DEVICE_TO_HOST", 9, begin_ns=7000, end_ns=7500, corr_id=13,
        src_agent="Agent-4", dst_agent="Agent-0", copy_bytes=4096, stream_ID=2, tid=909,
    )  # fmt: skip
    writer.slice("hip_api", "hipLaunchKernel", 10, begin_ns=900, end_ns=950, corr_id=11, tid=909)
    writer.slice("marker_api", "decode step", 10, begin_ns=800, end_ns=9000, corr_id=15, tid=909)
    return writer.write(directory / "908_results.pftrace")


COLLAPSED = """\
thread (77): MainThread;main (app.py:10);work (lib/work.py:3) 4
thread (77): MainThread;main (app.py:10) 1
thread (78): worker;run (threading.py:99);work (lib/work.py:4) 2
"""


def collapsed(directory: Path, text: str = COLLAPSED) -> Path:
    path = directory / "profile.txt"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return path


def pyspy(directory: Path, events: Iterable[Any] | None = None) -> Path:
    path = directory / "pyspy.json"
    path.write_text(json.dumps(list(two_frames(77) if events is None else events)))
    return path


def on_gpus(trace: Trace) -> Slices:
    """Return the slices that ran on GPUs."""
    slices = trace.slices()
    is_on_gpu = np.array([kind in DEVICE_KINDS for kind, _ in trace.name_rows], np.bool_)
    return slices.where(is_on_gpu[slices.name])


def union_ns(slices: Slices) -> int:
    """Return how long at least one of them ran, by marking each elementary interval."""
    edges = np.unique(np.concatenate([slices.time_ns, slices.end_ns]))
    covered = np.zeros(len(edges), np.bool_)
    for start, end in zip(slices.time_ns, slices.end_ns, strict=True):
        covered[np.searchsorted(edges, start) : np.searchsorted(edges, end)] = True
    return int(np.diff(edges)[covered[:-1]].sum())


def rows_of(trace: Trace) -> list[tuple[str, str, str, int, int]]:
    """Return kind, name, track's name, start and end of each slice, by time."""
    names, tracks = trace.name_rows, trace.track_rows
    slices = trace.slices()
    columns = (slices.name, slices.track, slices.time_ns, slices.end_ns)
    found = [
        (*names[name], tracks[track]["name"], start, end)
        for name, track, start, end in zip(*(column.tolist() for column in columns), strict=True)
    ]
    return sorted(found, key=lambda row: row[3:])
