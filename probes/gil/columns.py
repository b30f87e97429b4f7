"""Turns a decoded batch into columns of the ``gil`` table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from probes.gil.decode import Batch
from probes.gil.reader import FREE, UNKNOWN

Int64s = npt.NDArray[np.int64]


def gil_columns(
    batch: Batch, process_track: Callable[[int], int], thread_track: Callable[[int, int], int]
) -> dict[str, Any]:
    """Return the batch as columns.

    Args:
        batch: the samples.
        process_track: PID to track.
        thread_track: PID and thread id to track.

    Returns:
        The columns of `collectors.schema.GIL`. A holder that could not be told (its thread was
        just ending) is given as the process itself: held, but by whom is unknown.
    """
    samples = batch.samples
    pids = samples["pid"].astype(np.int64)
    holders = samples["holder_tid"].astype(np.int64)
    looked = samples["looked_count"]
    lengths = np.maximum(looked, 0).astype(np.int64)

    def track(pid: int, tid: int) -> int:
        return process_track(pid) if tid in (FREE, UNKNOWN) else thread_track(pid, tid)

    waiter_tracks = _map_pairs(np.repeat(pids, lengths), batch.waiter_tids.astype(np.int64), track)
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    return {
        "time_ns": samples["time_ns"],
        "track": _map_pairs(pids, np.zeros_like(pids), track),
        "holder": pa.array(_map_pairs(pids, holders, track), pa.int32(), mask=holders == FREE),
        "waiter_count": pa.array(
            samples["waiter_count"], pa.int16(), mask=samples["waiter_count"] == UNKNOWN
        ),
        "switch_count": samples["switch_count"],
        "waiters": pa.ListArray.from_arrays(
            pa.array(offsets), pa.array(waiter_tracks), mask=pa.array(looked < 0)
        ),
    }


def _map_pairs(
    pids: Int64s, tids: Int64s, track: Callable[[int, int], int]
) -> npt.NDArray[np.int32]:
    """Apply ``track`` to each pair, calling it once for each distinct one."""
    pairs, inverse = np.unique((pids << 32) | (tids & 0xFFFFFFFF), return_inverse=True)
    signed = ((pair >> 32, pair & 0xFFFFFFFF) for pair in pairs.tolist())
    tracks = [track(pid, UNKNOWN if tid == 0xFFFFFFFF else tid) for pid, tid in signed]
    return np.asarray(tracks, np.int32)[inverse]
