"""Rows of rocprofv3's CSV files on their way into a trace, by kind of file.

As in rocpd, a track is a HIP stream, or a queue for what has no stream of its own (its id is then
the queue's, negative): what shares a track ran one after another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from collectors.importers.csv_source import Batch, Texts, read_csv
from collectors.importers.groups import MAX_TRACK_COUNT, Lookup
from collectors.importers.rocprofv3_agents import Agents, Gpu
from collectors.importers.slice_buffer import SliceBuffer
from collectors.importers.source import Progress
from collectors.importers.trace import Trace
from collectors.slices import ANNOTATION, API, KERNEL, MEMCPY, NONE, make_slices

KERNELS: Final = "kernels"
COPIES: Final = "copies"
CALLS: Final = "calls"

_MAX_ID: Final = (1 << 31) - 1
_RANGE_DOMAINS: Final = frozenset({"MARKER_CORE_API", "MARKER_CORE_RANGE_API"})
_TIMES: Final = ("Correlation_Id", "Start_Timestamp", "End_Timestamp")
_QUEUES: Final = ("Queue_Id", "Stream_Id")  # neither is in all versions
_COLUMNS: Final = {  # integers, then texts
    KERNELS: (("Thread_Id", *_TIMES), ("Agent_Id", "Kernel_Name")),
    COPIES: (_TIMES, ("Direction", "Source_Agent_Id", "Destination_Agent_Id")),
    CALLS: (("Process_Id", "Thread_Id", *_TIMES), ("Domain", "Function")),
}


def kind_of(header: Sequence[str]) -> str | None:
    """Return what a file with these columns holds, None if it is no file of slices."""
    if "Counter_Name" in header:  # a row per counter, not per dispatch
        return None
    for kind, (integers, texts) in _COLUMNS.items():
        if set(header).issuperset((*integers, *texts)):
            return kind
    return None


class ProcessFiles:
    """The files of one process."""

    def __init__(self, trace: Trace, agents: Agents, pid: int) -> None:
        """Begin; ``pid`` is whose work kernels and copies are."""
        self._trace = trace
        self._agents = agents
        self._pid = pid
        self._slices = SliceBuffer(trace)
        self._gpus: dict[Gpu, int] = {}  # its place in the list below
        self._gpu_list: list[Gpu] = []
        self._streams = Lookup("streams", MAX_TRACK_COUNT, self._stream)
        self._threads = Lookup("threads", MAX_TRACK_COUNT, self._thread)

    def add(self, kind: str, path: Path, header: Sequence[str], on_progress: Progress) -> None:
        """Add the rows of a file of this kind."""
        integers, texts = _COLUMNS[kind]
        there = [name for name in _QUEUES if name in header]
        adders: dict[str, Callable[[Batch], None]] = {
            KERNELS: self._add_kernels, COPIES: self._add_copies, CALLS: self._add_calls
        }  # fmt: skip
        for batch in read_csv(
            path, (*integers, *there), texts, skip=self._trace.skip, on_progress=on_progress
        ):
            if batch.row_count:
                adders[kind](batch)
        self._slices.flush()

    def _add_kernels(self, batch: Batch) -> None:
        process = np.full(batch.row_count, self._pid, np.int64)
        self._add_on_gpu(
            batch, self._gpu_column(batch.texts["Agent_Id"]),
            self._names(KERNEL, batch.texts["Kernel_Name"]),
            self._threads(process, batch.integers["Thread_Id"]),
        )  # fmt: skip

    def _add_copies(self, batch: Batch) -> None:
        """Add copies: the source's when that is the GPU, otherwise the target's."""
        direction = batch.texts["Direction"]
        words = [text.removeprefix("MEMORY_COPY_") for text in direction.distinct]
        is_from_gpu = np.array([word == "DEVICE_TO_HOST" for word in words], np.bool_)
        gpu = np.where(
            is_from_gpu[direction.code],
            self._gpu_column(batch.texts["Source_Agent_Id"]),
            self._gpu_column(batch.texts["Destination_Agent_Id"]),
        )
        names = self._names(MEMCPY, Texts(words, direction.code))
        self._add_on_gpu(batch, gpu, names, np.full(batch.row_count, NONE, np.int32))

    def _add_on_gpu(
        self, batch: Batch, gpu: NDArray[np.int64], names: NDArray[np.int32],
        launch_track: NDArray[np.int32],
    ) -> None:  # fmt: skip
        none = np.zeros(batch.row_count, np.int64)
        queue, stream = (batch.integers.get(name, none) for name in _QUEUES)
        track = self._streams(gpu, queue, stream)
        start = batch.integers["Start_Timestamp"]
        slices = make_slices(
            start, batch.integers["End_Timestamp"] - start, track, names,
            correlation=_correlation(batch), launch_track=launch_track,
        )  # fmt: skip
        is_known = track != NONE
        if not is_known.all():
            self._trace.skip("rows of no GPU", int((~is_known).sum()))
            slices = slices.where(is_known)
        self._slices.add(slices)

    def _add_calls(self, batch: Batch) -> None:
        """Add calls of the runtimes, and ranges under the text that their user gave them."""
        domain, function = batch.texts["Domain"], batch.texts["Function"]
        is_range = np.array([text in _RANGE_DOMAINS for text in domain.distinct], np.bool_)
        is_range = is_range[domain.code]
        names = np.where(
            is_range,
            self._names(ANNOTATION, function, is_range),
            self._names(API, function, ~is_range),
        )
        track = self._threads(batch.integers["Process_Id"], batch.integers["Thread_Id"])
        start = batch.integers["Start_Timestamp"]
        slices = make_slices(
            start, batch.integers["End_Timestamp"] - start, track, names,
            correlation=_correlation(batch),
        )  # fmt: skip
        is_known = track != NONE
        if not is_known.all():
            self._trace.skip("rows of no thread", int((~is_known).sum()))
            slices = slices.where(is_known)
        self._slices.add(slices)

    def _names(
        self, kind: str, texts: Texts, rows: NDArray[np.bool_] | None = None
    ) -> NDArray[np.int32]:
        """Return the id of each row's name; names that only other rows use stay unregistered."""
        is_used = np.full(len(texts.distinct), rows is None)
        if rows is not None:
            is_used[texts.code[rows]] = True
        ids = np.full(len(texts.distinct), NONE, np.int32)
        used = np.flatnonzero(is_used)
        ids[used] = self._trace.names(kind, (texts.distinct[at] for at in used.tolist()))
        return ids[texts.code]

    def _gpu_column(self, texts: Texts) -> NDArray[np.int64]:
        """Return the place of each row's GPU in the list of those met, `NONE` for none."""
        places = []
        for label in texts.distinct:
            gpu = self._agents.gpu(label)
            if gpu is not None and gpu not in self._gpus:
                self._gpus[gpu] = len(self._gpu_list)
                self._gpu_list.append(gpu)
            places.append(NONE if gpu is None else self._gpus[gpu])
        return np.array(places, np.int64)[texts.code]

    def _stream(self, place: int, queue: int, stream: int) -> int:
        if place == NONE:
            return NONE
        gpu = self._gpu_list[place]
        process = self._trace.process(self._pid)
        device = self._trace.device(gpu.index, name=gpu.name)
        if stream > 0:
            return self._trace.stream(device, stream, process=process, name=f"stream {stream}")
        queue = max(0, queue)
        name = f"queue {queue}" if queue else "default stream"
        return self._trace.stream(device, -queue, process=process, name=name)

    def _thread(self, pid: int, tid: int) -> int:
        if not (0 <= pid <= _MAX_ID and 0 < tid <= _MAX_ID):
            return NONE
        return self._trace.thread(self._trace.process(pid), tid)


def _correlation(batch: Batch) -> NDArray[np.int64]:
    ids = batch.integers["Correlation_Id"]
    return np.where(ids > 0, ids, NONE)
