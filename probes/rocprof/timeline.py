"""What one traced process told, as a `Trace`: kernels and copies on their GPUs' queues."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collectors.importers.trace import Clock, Trace
from collectors.slices import API, KERNEL, MEMCPY, NONE, make_slices
from probes.rocprof import sdk, wire
from probes.rocprof._abi import MemoryCopyOperation
from probes.rocprof.decode import Columns, decode_calls, decode_copies, decode_kernels
from probes.rocprof.demangle import Demangler

SOURCE: Final = "rocprof"
COPY_QUEUE: Final = 0  # a copy's record does not say which queue it took; real ones begin at 1
_NO_GPU: Final = -1
_COPY_NAMES: Final = {one.value: one.name for one in MemoryCopyOperation}


@dataclass(slots=True)
class Dispatches:
    """Whether all kernels came: a process numbers its dispatches, without holes."""

    count: int = 0
    first: int | None = None
    last: int = 0

    def note(self, numbers: NDArray[np.int64]) -> None:
        """Take up dispatches in any order."""
        self.count += len(numbers)
        lowest = int(numbers.min())
        self.first = lowest if self.first is None else min(self.first, lowest)
        self.last = max(self.last, int(numbers.max()))

    @property
    def missing_count(self) -> int:
        """How many between the first and the last never came."""
        return 0 if self.first is None else self.last - self.first + 1 - self.count


@dataclass(slots=True)
class Account:
    """What the process said of its own tracing."""

    version: tuple[int, ...] = ()
    library: str = ""
    problems: list[dict[str, Any]] = field(default_factory=list)
    totals: dict[str, int] = field(default_factory=dict)
    drops: dict[int, int] = field(default_factory=dict)  # by mark; the library counts from start
    is_started: bool = False
    is_stopped: bool = False


class Timeline:
    """Turns one process's frames into traces, one for each time it is asked."""

    def __init__(self, pid: int, host_tid: Callable[[int], int] = lambda tid: tid) -> None:
        """Begin.

        Args:
            pid: the process, as the host sees it.
            host_tid: turns a thread id of the process's own namespace into the host's.
        """
        self.pid = pid
        self.account = Account()
        self.dispatches = Dispatches()
        self._host_tid = host_tid
        self._demangler = Demangler()
        self._gpus: dict[int, tuple[int, str]] = {}  # by agent: index and name
        self._kinds: dict[int, str] = {}  # by mark
        self._kernels: dict[int, str] = {}
        self._calls: dict[int, str] = {}
        self._trace = self._new_trace()

    def take(self, kind: int, body: bytes) -> None:
        """Take up one frame.

        Raises:
            ValueError: its body makes no sense.
        """
        try:
            self._take(kind, body)
        except (KeyError, TypeError, AttributeError, struct.error) as error:
            raise ValueError(f"a frame of type {kind} makes no sense") from error

    def _take(self, kind: int, body: bytes) -> None:
        if kind == wire.DATA:
            self._take_records(body)
            return
        content = json.loads(body)
        if kind == wire.HELLO:
            self._greet(content)
        elif kind == wire.KERNELS:
            for number, name in content:
                self._kernels[number] = self._demangler.readable(name)
        elif kind == wire.TOTALS:
            self.account.totals = content
        elif kind == wire.PROBLEM:
            self.account.problems.append(content)
        elif kind in (wire.STARTED, wire.STOPPED):
            self.account.is_started = True
            self.account.is_stopped = kind == wire.STOPPED

    def drain(self) -> Trace:
        """Return what was taken up since the last call."""
        trace, self._trace = self._trace, self._new_trace()
        return trace

    @staticmethod
    def _new_trace() -> Trace:
        return Trace(SOURCE, Clock.BOOTTIME)

    def _greet(self, content: dict[str, Any]) -> None:
        self.account.version = tuple(content["version"])
        self.account.library = content["library"]
        self._kinds = {mark: name for name, mark in content["marks"].items()}
        self._calls = dict(content["calls"])
        self._gpus = {
            agent["id"]: (agent["index"], agent["name"])
            for agent in content["agents"]
            if agent["is_gpu"]
        }

    def _take_records(self, body: bytes) -> None:
        mark, stride, count, drop_count = wire.RECORDS.unpack_from(body)
        rows = memoryview(body)[wire.RECORDS.size :]
        if stride * count != len(rows) or count == 0:
            raise ValueError(f"{count} records of {stride} bytes in {len(rows)} bytes")
        self.account.drops[mark] = max(drop_count, self.account.drops.get(mark, 0))
        name = self._kinds.get(mark)
        if name == sdk.KERNEL_DISPATCH:
            self._add_kernels(decode_kernels(rows, stride))
        elif name == sdk.MEMORY_COPY:
            self._add_copies(decode_copies(rows, stride))
        elif name == sdk.HIP_RUNTIME_API:
            is_old = self.account.version < (1,)
            self._add_calls(decode_calls(rows, stride, is_old=is_old))
        else:
            self._trace.skip("records of an unknown kind", count)

    def _add_kernels(self, found: Columns) -> None:
        self.dispatches.note(found["dispatch"])
        names = self._named(KERNEL, found["kernel"], self._kernel_name)
        self._add(found, self._streams(found["agent"], found["queue"]), names, is_launched=True)

    def _add_copies(self, found: Columns) -> None:
        is_to_gpu = np.isin(found["to_agent"], list(self._gpus))
        agents = np.where(is_to_gpu, found["to_agent"], found["from_agent"])
        streams = self._streams(agents, np.full(len(agents), COPY_QUEUE))
        names = self._named(MEMCPY, found["operation"], self._copy_name)
        self._add(found, streams, names, is_launched=True)

    def _add_calls(self, found: Columns) -> None:
        names = self._named(API, found["operation"], self._call_name)
        self._add(found, self._threads(found["thread"]), names, is_launched=False)

    def _add(
        self, found: Columns, tracks: NDArray[np.int32], names: NDArray[np.int32], *,
        is_launched: bool,
    ) -> None:  # fmt: skip
        is_placed = tracks != NONE
        self._trace.skip("records of an unknown GPU", int((~is_placed).sum()))
        is_timed = (found["start_ns"] > 0) & (found["end_ns"] > 0)
        self._trace.skip("records without a time", int((is_placed & ~is_timed).sum()))
        correlation = found["correlation"]
        slices = make_slices(
            found["start_ns"], found["end_ns"] - found["start_ns"], tracks, names,
            correlation=np.where(correlation == 0, NONE, correlation),
            launch_track=self._threads(found["thread"]) if is_launched else None,
            size_bytes=found.get("size_bytes"),
        )  # fmt: skip
        self._trace.add(slices.where(is_placed & is_timed))

    def _streams(
        self, agents: NDArray[np.int64], queues: NDArray[np.int64]
    ) -> NDArray[np.int32]:  # fmt: skip
        """Return the track of each record's queue; `NONE` where no GPU has that agent."""
        agent_ids, agent_at = np.unique(agents, return_inverse=True)
        queue_ids, queue_at = np.unique(queues, return_inverse=True)
        pairs, position = np.unique(agent_at * len(queue_ids) + queue_at, return_inverse=True)
        pair_agents = agent_ids[pairs // len(queue_ids)].tolist()
        pair_queues = queue_ids[pairs % len(queue_ids)].tolist()
        return np.array(list(map(self._stream, pair_agents, pair_queues)), np.int32)[position]

    def _stream(self, agent: int, queue: int) -> int:
        index, name = self._gpus.get(agent, (_NO_GPU, ""))
        if index == _NO_GPU:
            return NONE
        device = self._trace.device(index, name=name)
        # A queue's id is negative, so that it is no HIP stream's (`collectors.importers.rocpd`).
        label = "copies" if queue == COPY_QUEUE else f"queue {queue}"
        return self._trace.stream(device, -queue, process=self._process(), name=label)

    def _threads(self, tids: NDArray[np.int64]) -> NDArray[np.int32]:
        distinct, position = np.unique(tids, return_inverse=True)
        process = self._process()
        tracks = [self._trace.thread(process, self._host_tid(tid)) for tid in distinct.tolist()]
        return np.array(tracks, np.int32)[position]

    def _process(self) -> int:
        return self._trace.process(self.pid)

    def _named(
        self, kind: str, numbers: NDArray[np.int64], name: Callable[[int], str]
    ) -> NDArray[np.int32]:  # fmt: skip
        distinct, position = np.unique(numbers, return_inverse=True)
        ids = self._trace.names(kind, map(name, distinct.tolist()))
        return ids[position]

    def _kernel_name(self, number: int) -> str:
        return self._kernels.get(number, f"(kernel {number})")

    def _copy_name(self, number: int) -> str:
        return _COPY_NAMES.get(number, f"(copy {number})")

    def _call_name(self, number: int) -> str:
        return self._calls.get(number, f"(HIP call {number})")
