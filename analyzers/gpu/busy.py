"""What each GPU did: how long it was busy, and with what, as exact unions of its slices' times.

* busy: at least one kernel, copy or fill was running; idle: the rest of the span, which runs from
  the first start to the last end.
* communication: kernels whose name has nccl or rccl in it; compute: all other kernels, and fills;
  memcpy: copies. These may overlap, so they need not add up to busy; *exposed* communication is
  what no compute covered, exposed memcpy what neither of the two covered.

Needs numpy only: a trace can be answered before anything else is imported. Tens of millions of
slices are taken device by device, so only one device's times are copied at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from analyzers.intervals import Times
from collectors.slices import KERNEL, MEMCPY, MEMSET, Slices

Rows = NDArray[np.int32]  # numbers of slices
Ids = NDArray[np.int32]

NO_DEVICE: Final = -1
# NVIDIA's and AMD's collectives library; a server's own all-reduce kernels count as compute.
COMMUNICATION: Final = re.compile("nccl|rccl", re.IGNORECASE)


class Category(IntEnum):
    """What a slice is to its GPU."""

    NONE = -1  # nothing: it ran on the host
    KERNEL = 0
    MEMSET = 1
    COMMUNICATION = 2
    MEMCPY = 3


Categories = NDArray[np.int8]  # `Category` by the id of a name


@dataclass(frozen=True, slots=True)
class StreamTime:
    """One stream or queue of a GPU."""

    track: int
    busy_ns: int
    slice_count: int


@dataclass(frozen=True, slots=True)
class DeviceTime:
    """One GPU; see the module for what the figures mean."""

    track: int
    first_ns: int
    last_ns: int
    busy_ns: int
    compute_ns: int
    communication_ns: int
    memcpy_ns: int
    overlap_ns: int  # of compute with communication
    exposed_communication_ns: int
    exposed_memcpy_ns: int
    kernel_count: int  # of compute and communication
    memcpy_count: int
    memset_count: int
    streams: tuple[StreamTime, ...]

    @property
    def span_ns(self) -> int:
        """From the first start to the last end."""
        return self.last_ns - self.first_ns

    @property
    def idle_ns(self) -> int:
        """When nothing ran within the span."""
        return self.span_ns - self.busy_ns


def categorise(names: Iterable[tuple[str, str]]) -> Categories:
    """Return the `Category` of each name, given as (kind, text)."""
    return np.fromiter((_category(kind, text) for kind, text in names), np.int8)


def _category(kind: str, text: str) -> Category:
    if kind == KERNEL:
        return Category.COMMUNICATION if COMMUNICATION.search(text) else Category.KERNEL
    if kind == MEMCPY:
        return Category.MEMCPY
    return Category.MEMSET if kind == MEMSET else Category.NONE


def devices_of_tracks(track_rows: Iterable[Mapping[str, Any]], count: int) -> Ids:
    """Return the device's track for each stream's track, `NO_DEVICE` for the others.

    ``track_rows`` are rows of the ``tracks`` table; ``count`` is how many ids there may be.
    """
    found = np.full(count, NO_DEVICE, np.int32)
    for row in track_rows:
        if row["kind"] == "stream" and row["track"] < count and row["parent"] is not None:
            found[row["track"]] = row["parent"]
    return found


def breakdown(slices: Slices, categories: Categories, device_of_track: Ids) -> list[DeviceTime]:
    """Return the time of each GPU with slices, by its track.

    Args:
        slices: in any order; those that ran on no device are left out.
        categories: by the id of a name, see `categorise`.
        device_of_track: see `devices_of_tracks`.
    """
    return [
        device_time(slices, rows, categories, track)
        for track, rows in device_rows(slices, categories, device_of_track)
    ]


def device_rows(
    slices: Slices, categories: Categories, device_of_track: Ids
) -> Iterator[tuple[int, Rows]]:
    """Yield each device's track and the numbers of its slices in order of their start."""
    tracks = np.unique(device_of_track[device_of_track != NO_DEVICE])
    if not len(tracks) or not len(slices):
        return
    # Small numbers: they sort in linear time.
    code_of_track = np.searchsorted(tracks, device_of_track).astype(_smallest(len(tracks)))
    code_of_track[device_of_track == NO_DEVICE] = len(tracks)
    code = code_of_track[slices.track]
    code[categories[slices.name] == Category.NONE] = len(tracks)
    counts = np.bincount(code, minlength=len(tracks) + 1)
    order = _grouped(code, counts)
    del code
    end = 0
    for track, count in zip(tracks.tolist(), counts[:-1].tolist(), strict=True):
        begin, end = end, end + count
        if count:
            yield track, _in_order(slices.time_ns, order[begin:end])


def _smallest(highest: int) -> type[np.integer[Any]]:
    return next(kind for kind in (np.int8, np.int16, np.int32) if highest <= np.iinfo(kind).max)


def _grouped(code: NDArray[Any], counts: NDArray[np.intp]) -> Rows:
    """Return row numbers grouped by code, in their order within each."""
    if np.count_nonzero(counts) == 1:
        return np.arange(len(code), dtype=np.int32)
    return np.argsort(code, kind="stable").astype(np.int32)


def _in_order(time_ns: Times, rows: Rows) -> Rows:
    start = time_ns[rows]
    if is_sorted(start):
        return rows
    ordered: Rows = rows[np.argsort(start, kind="stable")]
    return ordered


def is_sorted(times: Times) -> bool:
    """Return whether no time is before the one in front of it."""
    return bool((times[1:] >= times[:-1]).all())


def device_time(slices: Slices, rows: Rows, categories: Categories, track: int) -> DeviceTime:
    """Return the time of one device; ``rows`` are its slices, at least one, in order of start."""
    start = slices.time_ns[rows]
    end = slices.duration_ns[rows]
    end += start
    category = categories[slices.name[rows]]
    counts = np.bincount(category, minlength=len(Category) - 1)
    kernels, memsets, collectives, copies = counts[:4].tolist()
    busy_ns = union_ns(start, end)

    def length(is_in: NDArray[np.bool_], count: int) -> int:
        if count in (0, len(rows)):
            return busy_ns if count else 0
        return union_ns(start[is_in], end[is_in])

    compute_ns = length(category <= Category.MEMSET, kernels + memsets)
    communication_ns = length(category == Category.COMMUNICATION, collectives)
    memcpy_ns = length(category == Category.MEMCPY, copies)
    work_ns = length(category != Category.MEMCPY, len(rows) - copies)
    return DeviceTime(
        track=track,
        first_ns=int(start[0]),
        last_ns=int(end.max()),
        busy_ns=busy_ns,
        compute_ns=compute_ns,
        communication_ns=communication_ns,
        memcpy_ns=memcpy_ns,
        overlap_ns=compute_ns + communication_ns - work_ns,
        exposed_communication_ns=work_ns - compute_ns,
        exposed_memcpy_ns=busy_ns - work_ns,
        kernel_count=kernels + collectives,
        memcpy_count=copies,
        memset_count=memsets,
        streams=_streams(slices.track[rows], start, end, busy_ns),
    )


def _streams(track: Ids, start: Times, end: Times, busy_ns: int) -> tuple[StreamTime, ...]:
    counts = np.bincount(track)
    tracks = np.flatnonzero(counts)
    if len(tracks) == 1:
        return (StreamTime(int(tracks[0]), busy_ns, len(track)),)
    code_of_track = np.zeros(len(counts), _smallest(len(tracks)))
    code_of_track[tracks] = np.arange(len(tracks))
    order = np.argsort(code_of_track[track], kind="stable")
    last = np.cumsum(counts[tracks])
    own_rows = np.split(order, last[:-1])
    return tuple(
        StreamTime(int(one), union_ns(start[rows], end[rows]), len(rows))
        for one, rows in zip(tracks, own_rows, strict=True)
    )


def union_ns(start: Times, end: Times) -> int:
    """Return the length of the union of ``[start, end)``, which are in order of start."""
    if not len(start):
        return 0
    reach = np.maximum.accumulate(end)
    last = int(reach[-1])
    holes = start[1:] - reach[:-1]
    return last - int(start[0]) - int(holes.sum(where=holes > 0))


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """The union of slices: part ``i`` is ``[start[i], end[i])``, begun by slice ``first[i]``.

    A slice without length that stands alone is a part without length, so that the parts and the
    holes between them make up the whole span.
    """

    start: Times
    end: Times
    first: NDArray[np.intp]


def busy_parts(start: Times, end: Times) -> Parts:
    """Return the union of at least one ``[start, end)``, which are in order of start."""
    reach = np.maximum.accumulate(end)
    first = np.flatnonzero(start[1:] > reach[:-1]) + 1
    first = np.concatenate(([0], first))
    last = np.concatenate((first[1:], [len(start)])) - 1
    return Parts(start[first], reach[last], first)
