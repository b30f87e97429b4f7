"""Reads the sampler's batches (`probes.gil.wire`) back, as numpy arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from probes.gil import wire
from probes.sampler_link import StreamBroken

SAMPLE_DTYPE: Final = np.dtype(
    [
        ("time_ns", "<i8"),
        ("switch_count", "<i8"),
        ("pid", "<i4"),
        ("holder_tid", "<i4"),
        ("waiter_count", "<i2"),
        ("looked_count", "<i2"),
        ("late_ns", "<u4"),
    ]
)
# Far above what a sampler can send in one batch; a larger one means that we lost our place.
_BATCH_BYTES_LIMIT: Final = 1 << 28


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to one process."""

    time_ns: int
    pid: int
    code: int
    errno: int


@dataclass(frozen=True, slots=True)
class Batch:
    """About 100 ms of samples; ``samples`` has `SAMPLE_DTYPE`, in order of time per process."""

    samples: npt.NDArray[Any]
    waiter_tids: npt.NDArray[np.int32]  # those of all samples with looked_count > 0, in order
    events: tuple[Event, ...]
    dropped_count: int  # samples, since the sampler began
    missed_count: int  # slots, since the sampler began
    largest_gap_ns: int  # within this batch
    cpu_ns: int  # of the sampler, since it began


class Decoder:
    """Turns chunks of bytes into batches; holds back an unfinished one."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, chunk: bytes) -> list[Batch]:
        """Take more bytes and return the batches that are complete.

        Raises:
            StreamBroken: no batch begins where one should.
        """
        self._pending += chunk
        batches = []
        while (batch := self._next()) is not None:
            batches.append(batch)
        return batches

    def _next(self) -> Batch | None:
        if len(self._pending) < wire.HEADER.size:
            return None
        magic, samples, waiters, events, dropped, missed, gap, cpu = wire.HEADER.unpack_from(
            self._pending
        )
        waiters_at = wire.HEADER.size + samples * wire.SAMPLE.size
        events_at = waiters_at + waiters * wire.WAITER.size
        end = events_at + events * wire.EVENT.size
        if magic != wire.MAGIC or end > _BATCH_BYTES_LIMIT:
            raise StreamBroken("no batch of the GIL sampler begins here")
        if len(self._pending) < end:
            return None
        raw = bytes(self._pending[:end])
        del self._pending[:end]
        return Batch(
            samples=np.frombuffer(raw, SAMPLE_DTYPE, samples, wire.HEADER.size),
            waiter_tids=np.frombuffer(raw, "<i4", waiters, waiters_at),
            events=tuple(Event(*event) for event in wire.EVENT.iter_unpack(raw[events_at:])),
            dropped_count=dropped,
            missed_count=missed,
            largest_gap_ns=gap,
            cpu_ns=cpu,
        )
