"""What each GPU did: against a count of every nanosecond, and by hand."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from analyzers.gpu.busy import (
    Category,
    DeviceTime,
    breakdown,
    busy_parts,
    categorise,
    devices_of_tracks,
)
from collectors.slices import API, KERNEL, MEMCPY, MEMSET, Slices, make_slices

NAMES = [
    (KERNEL, "gemm"), (KERNEL, "ncclDevKernel_AllReduce"), (MEMCPY, "Memcpy HtoD"),
    (MEMSET, "Memset (Device)"), (API, "hipLaunchKernel"),
]  # fmt: skip
GEMM, NCCL, COPY, FILL, CALL = range(5)
# Two GPUs with two streams each, and a thread.
TRACKS = [
    {"track": 0, "kind": "device", "parent": None},
    {"track": 1, "kind": "stream", "parent": 0},
    {"track": 2, "kind": "stream", "parent": 0},
    {"track": 3, "kind": "device", "parent": None},
    {"track": 4, "kind": "stream", "parent": 3},
    {"track": 5, "kind": "stream", "parent": 3},
    {"track": 6, "kind": "thread", "parent": 7},
]
ROW = st.tuples(
    st.integers(0, 60), st.integers(0, 15), st.sampled_from([1, 2, 4, 5, 6]), st.integers(0, 4)
)


def slices_of(rows: list[tuple[int, int, int, int]]) -> Slices:
    start, duration, track, name = (np.array(one) for one in zip(*rows, strict=True))
    return make_slices(start, duration, track.astype(np.int32), name.astype(np.int32))


def times(rows: list[tuple[int, int, int, int]]) -> dict[int, DeviceTime]:
    """Rows are start, duration, track, name."""
    found = breakdown(slices_of(rows), categorise(NAMES), devices_of_tracks(TRACKS, len(TRACKS)))
    return {one.track: one for one in found}


@given(st.lists(ROW, min_size=1, max_size=30))
def test_every_figure_is_a_count_of_nanoseconds(rows: list[tuple[int, int, int, int]]) -> None:
    found = times(rows)
    for device, streams in ((0, {1, 2}), (3, {4, 5})):
        own = [row for row in rows if row[2] in streams and row[3] != CALL]
        assert (device in found) == bool(own)
        if own:
            check(found[device], own)


def check(time: DeviceTime, own: list[tuple[int, int, int, int]]) -> None:
    def lit(*names: int) -> set[int]:
        return {at for row in own if row[3] in names for at in range(row[0], row[0] + row[1])}

    compute, communication, copies = lit(GEMM, FILL), lit(NCCL), lit(COPY)
    everything = compute | communication | copies
    assert time.span_ns == max(row[0] + row[1] for row in own) - min(row[0] for row in own)
    assert time.busy_ns == len(everything)
    assert time.idle_ns == time.span_ns - len(everything)
    assert time.compute_ns == len(compute)
    assert time.communication_ns == len(communication)
    assert time.memcpy_ns == len(copies)
    assert time.overlap_ns == len(compute & communication)
    assert time.exposed_communication_ns == len(communication - compute)
    assert time.exposed_memcpy_ns == len(copies - compute - communication)
    assert time.kernel_count == sum(row[3] in (GEMM, NCCL) for row in own)
    for stream in time.streams:
        mine = [row for row in own if row[2] == stream.track]
        assert stream.slice_count == len(mine)
        assert stream.busy_ns == len({at for row in mine for at in range(row[0], row[0] + row[1])})
    assert sum(one.slice_count for one in time.streams) == len(own)


def test_the_parts_of_busy_time_add_up() -> None:
    time = times([(0, 10, 1, GEMM), (5, 10, 2, NCCL), (12, 8, 1, COPY), (30, 5, 1, FILL)])[0]

    exposed = time.exposed_communication_ns + time.exposed_memcpy_ns
    assert time.compute_ns + exposed == time.busy_ns == 25
    assert (time.overlap_ns, time.exposed_communication_ns, time.exposed_memcpy_ns) == (5, 5, 5)


def test_gpus_are_told_apart_by_their_track_not_by_their_number() -> None:
    # Both are GPU 0 of their own machine.
    found = times([(0, 10, 1, GEMM), (100, 20, 4, GEMM)])

    assert [one.busy_ns for one in found.values()] == [10, 20]


def test_collectives_are_told_by_name_whatever_its_case() -> None:
    categories = categorise([(KERNEL, "RcclKernel"), (KERNEL, "my_NCCL_thing"), (KERNEL, "nice")])

    assert categories.tolist() == [
        Category.COMMUNICATION, Category.COMMUNICATION, Category.KERNEL,
    ]  # fmt: skip


def test_a_slice_without_length_counts_for_the_span_and_as_a_launch() -> None:
    time = times([(0, 10, 1, GEMM), (50, 0, 1, GEMM)])[0]

    assert (time.span_ns, time.busy_ns, time.kernel_count) == (50, 10, 2)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)), min_size=1, max_size=20))
def test_parts_and_holes_make_up_the_span(rows: list[tuple[int, int]]) -> None:
    rows.sort()
    start = np.array([one for one, _ in rows])
    end = np.array([one + length for one, length in rows])

    parts = busy_parts(start, end)

    assert (parts.start[1:] > parts.end[:-1]).all()
    assert (start[parts.first] == parts.start).all()
    lit = {at for one, length in rows for at in range(one, one + length)}
    assert int((parts.end - parts.start).sum()) == len(lit)


def test_no_slices_make_no_gpus() -> None:
    none = make_slices(*(np.empty(0, np.int64),) * 2, *(np.empty(0, np.int32),) * 2)

    assert breakdown(none, categorise(NAMES), devices_of_tracks(TRACKS, len(TRACKS))) == []


def test_many_gpus_and_streams_are_kept_apart() -> None:
    tracks = [{"track": 0, "kind": "device", "parent": None}]
    count = 300  # more than a byte can number
    for device in range(count):
        tracks.append({"track": 2 * device + 1, "kind": "device", "parent": None})
        tracks.append({"track": 2 * device + 2, "kind": "stream", "parent": 2 * device + 1})
    index = np.arange(count)
    slices = make_slices(
        index, index + 1, (2 * index + 2).astype(np.int32), np.zeros(count, np.int32)
    )

    found = breakdown(slices, categorise(NAMES), devices_of_tracks(tracks, 2 * count + 1))

    assert [one.busy_ns for one in found] == (index + 1).tolist()


def test_nothing_but_numpy_is_loaded_for_it() -> None:
    code = "import sys, analyzers.gpu.busy; print('pyarrow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
