"""One process of a rocprofv3 trace on its way into a `Trace`.

Records name kernels, GPUs and operations by numbers; what these are stands before the records. As
with rocpd, a HIP stream is a track, and so is, under its negative id, a queue for what has no
stream of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from collectors.importers.columns import ids, integers
from collectors.importers.groups import MAX_NAME_COUNT, MAX_TRACK_COUNT, Lookup
from collectors.importers.rocprofv3_records import (
    GPU_AGENT,
    Agent,
    Call,
    KernelDispatch,
    KernelSymbol,
    MemoryCopy,
    Strings,
)  # fmt: skip
from collectors.importers.trace import MAX_NAME_CHARS, MAX_NAMES_CHARS, Trace
from collectors.slices import ANNOTATION, API, KERNEL, MEMCPY, NONE, Slices, make_slices

MAX_ID: Final = 1 << 31  # of a process, a thread, a GPU
_COPY_PREFIX: Final = "MEMORY_COPY_"


class RocprofProcess:
    """Takes what the file says of a process, then its records."""

    def __init__(self, trace: Trace, pid: int) -> None:
        """Begin; the trace is at the scope of the file."""
        self._trace = trace
        self._track = trace.process(pid)
        self._gpus: dict[int, Agent] = {}  # by handle
        self._symbols: dict[int, str] = {}
        self._symbols_chars = 0
        self._operations: list[list[str]] = []  # by kind of record, then by operation
        self._messages: dict[int, str] = {}  # of marked ranges, by correlation
        self._streams = Lookup("streams", MAX_TRACK_COUNT, self._stream)
        self._threads = Lookup("threads", MAX_TRACK_COUNT, self._thread)
        self._kernels = Lookup("kernels", MAX_NAME_COUNT, self._kernel)
        self._copies = Lookup("kinds of copies", MAX_NAME_COUNT, self._copy)
        self._calls = Lookup("functions", MAX_NAME_COUNT, self._call)

    def take_agents(self, agents: Sequence[Agent]) -> None:
        """Take processors; CPUs are of no interest."""
        self._gpus |= {agent.id.handle: agent for agent in agents if agent.type == GPU_AGENT}

    def take_strings(self, strings: Strings) -> None:
        """Take texts that records refer to."""
        self._operations = [kind.operations for kind in strings.buffer_records]
        self._messages = {marker.key: marker.value for marker in strings.marker_api}

    def take_symbols(self, symbols: Sequence[KernelSymbol]) -> None:
        """Take names of kernels."""
        for one in symbols:
            name = one.formatted_kernel_name or one.demangled_kernel_name or one.kernel_name
            name = name.removesuffix(".kd")[: MAX_NAME_CHARS + 1]  # the trace cuts it, and says so
            self._symbols_chars += len(name)
            if self._symbols_chars > MAX_NAMES_CHARS:
                self._trace.skip("names of kernels, which are too many")
            else:
                self._symbols[one.kernel_id] = name

    def take_kernels(self, records: Sequence[KernelDispatch]) -> None:
        """Take runs of kernels."""
        dispatches = [one.dispatch_info for one in records]
        track = self._streams(
            integers([one.agent_id.handle for one in dispatches]),
            integers([one.queue_id.handle for one in dispatches]),
            integers([one.stream_id.handle for one in records]),
        )
        names = self._kernels(integers([one.kernel_id for one in dispatches]))
        self._add_on_gpu(records, track, names, None)

    def take_copies(self, records: Sequence[MemoryCopy]) -> None:
        """Take copies: a GPU's own when it is the source and the target is none."""
        target = integers([one.dst_agent_id.handle for one in records])
        source = integers([one.src_agent_id.handle for one in records])
        stream = integers([one.stream_id.handle for one in records])
        track = self._streams(
            np.where(np.isin(target, list(self._gpus)), target, source),
            np.zeros_like(stream),  # copies name no queue
            stream,
        )
        names = self._copies(*_operations(records))
        self._add_on_gpu(records, track, names, integers([one.bytes for one in records]))

    def _add_on_gpu(
        self, records: Sequence[KernelDispatch] | Sequence[MemoryCopy], track: NDArray[np.int32],
        names: NDArray[np.int32], size_bytes: NDArray[np.int64] | None,
    ) -> None:  # fmt: skip
        start_ns, duration_ns = _times(records)
        slices = make_slices(
            start_ns, duration_ns, track, names,
            correlation=ids([one.correlation_id.internal for one in records]),
            launch_track=self._threads(integers([one.thread_id for one in records])),
            size_bytes=size_bytes,
        )  # fmt: skip
        self._add(slices, "records of GPUs that the file does not list")

    def take_calls(self, records: Sequence[Call]) -> None:
        """Take calls of the runtimes."""
        self._add_on_threads(records, self._calls(*_operations(records)))

    def take_markers(self, records: Sequence[Call]) -> None:
        """Take marked ranges, under the text that their user gave them."""
        texts = [
            self._messages.get(one.correlation_id.internal)
            or self._operation(one.kind, one.operation)
            for one in records
        ]
        self._add_on_threads(records, self._trace.names(ANNOTATION, texts))

    def _add_on_threads(self, records: Sequence[Call], names: NDArray[np.int32]) -> None:
        start_ns, duration_ns = _times(records)
        slices = make_slices(
            start_ns, duration_ns,
            self._threads(integers([one.thread_id for one in records])), names,
            correlation=ids([one.correlation_id.internal for one in records]),
        )  # fmt: skip
        self._add(slices, "calls without a thread")

    def _add(self, slices: Slices, reason: str) -> None:
        is_known = slices.track != NONE
        if not is_known.all():
            self._trace.skip(reason, int((~is_known).sum()))
            slices = slices.where(is_known)
        self._trace.add(slices)

    def _stream(self, agent: int, queue: int, stream: int) -> int:
        gpu = self._gpus.get(agent)
        if gpu is None:
            return NONE
        index = gpu.gpu_index if gpu.gpu_index >= 0 else gpu.logical_node_type_id
        if not 0 <= index < MAX_ID:
            return NONE
        device = self._trace.device(index, name=gpu.product_name or gpu.name)
        if stream > 0:
            return self._trace.stream(device, stream, process=self._track, name=f"stream {stream}")
        queue = max(0, queue)
        name = f"queue {queue}" if queue else "default stream"
        return self._trace.stream(device, -queue, process=self._track, name=name)

    def _thread(self, tid: int) -> int:
        return self._trace.thread(self._track, tid) if 0 <= tid < MAX_ID else NONE

    def _kernel(self, kernel: int) -> int:
        return self._trace.name(KERNEL, self._symbols.get(kernel) or f"kernel {kernel}")

    def _copy(self, kind: int, operation: int) -> int:
        return self._trace.name(MEMCPY, self._operation(kind, operation).removeprefix(_COPY_PREFIX))

    def _call(self, kind: int, operation: int) -> int:
        return self._trace.name(API, self._operation(kind, operation))

    def _operation(self, kind: int, operation: int) -> str:
        if 0 <= kind < len(self._operations) and 0 <= operation < len(self._operations[kind]):
            return self._operations[kind][operation]
        return f"operation {operation} of kind {kind}"


def _times(
    records: Sequence[KernelDispatch] | Sequence[MemoryCopy] | Sequence[Call],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    start_ns = integers([one.start_timestamp for one in records])
    return start_ns, integers([one.end_timestamp for one in records]) - start_ns


def _operations(
    records: Sequence[MemoryCopy] | Sequence[Call],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return integers([one.kind for one in records]), integers([one.operation for one in records])
