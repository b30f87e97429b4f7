"""What events of the torch profiler name by ids and texts: threads, streams, kernels, operators."""

from __future__ import annotations

import re
from typing import Final

from collectors.errors import ImportInvalid
from collectors.importers.groups import MAX_TRACK_COUNT
from collectors.importers.kineto_events import METADATA, Event, Scalar
from collectors.importers.trace import MAX_NAME_CHARS, Trace
from collectors.slices import NONE

PIDS: Final = range(1 << 31)  # devices and ranks, too
# Kineto before 2024 wrote the lower half of a pthread_t, with its sign, where it knew no kernel id.
TIDS: Final = range(-(1 << 63), 1 << 63)
_LAST_NUMBER: Final = re.compile(r"(\d{1,18})\D*$")
_HOST_LABEL: Final = "CPU"


def number(value: Scalar, allowed: range) -> int | None:
    """Return the id of a process, thread, device or stream, `None` where it is none.

    Old writers put ``stream 7`` where newer ones put 7.
    """
    if isinstance(value, str):
        match = _LAST_NUMBER.search(value)
        value = int(match[1]) if match else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and value in allowed else None


class Threads(dict[tuple[Scalar, Scalar], int]):
    """Track of each (pid, tid) of events, made when first seen; `NONE` where these are no ids."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self._trace = trace

    def __missing__(self, said: tuple[Scalar, Scalar]) -> int:
        pid, tid = number(said[0], PIDS), number(said[1], TIDS)
        _check_count(len(self), "threads")
        track = NONE
        if pid is not None and tid is not None:
            track = self._trace.thread(self._trace.process(pid), tid)
        self[said] = track
        return track


class Streams(dict[tuple[Scalar, Scalar, Scalar, Scalar], int]):
    """Place in `ids` of what events say: args.device, args.stream, pid, tid; `NONE`: no ids.

    The arguments go first; without them, a GPU's events have its index as pid, its stream as tid.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[tuple[int, int]] = []  # device and stream
        self._places: dict[tuple[int, int], int] = {}

    def __missing__(self, said: tuple[Scalar, Scalar, Scalar, Scalar]) -> int:
        _check_count(len(self), "streams")
        device, stream = number(said[0], PIDS), number(said[1], TIDS)
        if device is None:
            device = number(said[2], PIDS)
        if stream is None:
            stream = number(said[3], TIDS)
        place = NONE
        if device is not None and stream is not None:
            place = self._places.setdefault((device, stream), len(self.ids))
            if place == len(self.ids):
                self.ids.append((device, stream))
        self[said] = place
        return place


class NameIds(dict[str, int]):
    """Id of each name of one kind; of too many names, the later ones are asked for each time."""

    def __init__(self, trace: Trace, kind: str) -> None:
        super().__init__()
        self._trace = trace
        self._kind = kind

    def __missing__(self, text: str) -> int:
        name = self._trace.name(self._kind, text)
        if len(self) < MAX_TRACK_COUNT and len(text) <= MAX_NAME_CHARS:
            self[text] = name
        return name


class Labels:
    """What the metadata events of a file say of its processes and threads."""

    def __init__(self) -> None:
        self.host_pids: set[int] = set()  # the other processes are GPUs
        self._processes: dict[int, str] = {}
        self._threads: dict[tuple[int, int], str] = {}

    def take(self, events: list[Event]) -> None:
        """Take what of these is metadata."""
        for event in events:
            pid, tid = number(event.pid, PIDS), number(event.tid, TIDS)
            name = event.args.name
            if event.ph != METADATA or pid is None or not isinstance(name, str):
                continue
            _check_count(len(self._threads) + len(self._processes), "labels of threads")
            if event.name == "process_name":
                self._processes[pid] = name
            elif event.name == "process_labels" and event.args.labels == _HOST_LABEL:
                self.host_pids.add(pid)
            elif event.name == "thread_name" and tid is not None:
                self._threads[pid, tid] = name

    def give(self, trace: Trace, threads: Threads, rank: int | None) -> list[int]:
        """Complete the tracks of a file's processes and threads; return those of its processes."""
        rows = [trace.track_rows[track] for track in set(threads.values()) - {NONE}]
        pids = sorted(self.host_pids | {row["pid"] for row in rows})
        processes = {
            pid: trace.process(pid, name=self._processes.get(pid, ""), rank=rank) for pid in pids
        }
        for row in rows:
            pid, tid = row["pid"], row["tid"]
            trace.thread(processes[pid], tid, name=self._threads.get((pid, tid), ""))
        return list(processes.values())


def _check_count(count: int, what: str) -> None:
    if count >= MAX_TRACK_COUNT:
        raise ImportInvalid(
            f"more than {MAX_TRACK_COUNT:,} {what}", "the file is damaged: record again"
        )
