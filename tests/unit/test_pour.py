"""Pouring a trace into a running recording: tracks by PID, its clock, and what is lost."""

from __future__ import annotations

import numpy as np

from collectors.capture import finalise
from collectors.importers.pour import pour
from collectors.importers.trace import Clock, Trace
from collectors.slices import API, KERNEL, MEMCPY, NONE, make_slices
from tests.recordings import PID, make_recorder

STRANGER = 999
OFFSET_NS = 1_000_000


def finish(recorder):
    recorder.close()
    recorder.manifest.stopped_ns = recorder.manifest.started_ns + 1_000
    return finalise(recorder.directory, recorder.manifest)


def one_kernel(trace: Trace, *, pid: int = PID, time_ns: int = 5, name: str = "gemm") -> None:
    """A call on a thread of ``pid``, and the kernel that it launched 2 ns later for 10 ns."""
    process = trace.process(pid)
    thread = trace.thread(process, pid + 1, name="main")
    stream = trace.stream(trace.device(3, name="MI350X"), 16, process=process, name="queue 16")
    trace.add(
        make_slices(
            np.array([time_ns, time_ns + 2]),
            np.array([1, 10]),
            np.array([thread, stream], np.int32),
            np.append(trace.names(API, ["hipLaunchKernel"]), trace.names(KERNEL, [name])),
            correlation=np.array([77, 77]),
            launch_track=np.array([NONE, thread], np.int32),
        )
    )


def test_slices_land_on_the_tracks_of_the_recording_at_its_time(tmp_path):
    # Given a recording that knows process 0 and its thread 1, and a trace of the same process
    recorder = make_recorder(tmp_path / "c")
    trace = Trace("made", Clock.BOOTTIME)
    one_kernel(trace)

    # When
    pour(trace, recorder, OFFSET_NS, {PID: 0})

    # Then
    capture = finish(recorder)
    tracks = {row["track"]: row for row in capture.table("tracks").to_pylist()}
    call, kernel = capture.table("slices").sort_by("time_ns").to_pylist()
    assert (call["time_ns"], call["duration_ns"]) == (5 + OFFSET_NS, 1)
    assert (call["track"], call["launch_track"], call["correlation"]) == (1, None, 77)
    assert (kernel["time_ns"], kernel["duration_ns"]) == (7 + OFFSET_NS, 10)
    assert (kernel["launch_track"], kernel["size_bytes"], kernel["graph"]) == (1, None, None)
    stream = tracks[kernel["track"]]
    assert (stream["kind"], stream["pid"], stream["tid"], stream["device"]) == (
        "stream", PID, 16, 3,
    )  # fmt: skip
    device = tracks[stream["parent"]]
    assert (device["kind"], device["pid"], device["name"], device["device"]) == (
        "device", None, "MI350X", 3,
    )  # fmt: skip
    names = {row["name"]: (row["kind"], row["text"]) for row in capture.table("names").to_pylist()}
    assert names[call["name"]] == (API, "hipLaunchKernel")
    assert names[kernel["name"]] == (KERNEL, "gemm")


def test_a_second_pour_uses_the_same_tracks_and_names(tmp_path):
    recorder = make_recorder(tmp_path / "c")
    for time_ns, name in ((5, "gemm"), (50, "softmax"), (500, "gemm")):
        trace = Trace("made", Clock.BOOTTIME)
        trace.name(MEMCPY, "never used")  # so that ids differ between trace and recording
        one_kernel(trace, time_ns=time_ns, name=name)
        pour(trace, recorder, 0, {PID: 0})

    capture = finish(recorder)
    texts = {row["name"]: row["text"] for row in capture.table("names").to_pylist()}
    slices = capture.table("slices").to_pylist()
    kernels = [row for row in slices if row["duration_ns"] == 10]
    assert [texts[row["name"]] for row in kernels] == ["gemm", "softmax", "gemm"]
    assert len({row["track"] for row in kernels}) == 1
    assert sorted(texts.values()) == ["gemm", "hipLaunchKernel", "softmax"]


def test_what_belongs_to_nobody_is_counted_not_kept(tmp_path):
    # Given a trace of the target and of a process that is not part of it, with a bad row as well
    recorder = make_recorder(tmp_path / "c")
    trace = Trace("made", Clock.BOOTTIME)
    one_kernel(trace)
    one_kernel(trace, pid=STRANGER)
    trace.skip("rows without a time", 4)

    # When
    pour(trace, recorder, 0, {PID: 0}, probe="rocprof")

    # Then
    capture = finish(recorder)
    assert len(capture.table("slices")) == 2
    gaps = {row["reason"]: row for row in capture.table("gaps").to_pylist()}
    assert gaps["left out: rows without a time"]["lost_count"] == 4
    assert gaps["left out: slices of processes outside the target"]["lost_count"] == 2
    assert {row["probe"] for row in gaps.values()} == {"rocprof"}
    assert {(row["start_ns"], row["end_ns"]) for row in gaps.values()} == {(5, 17)}
    assert all(row["pid"] != STRANGER for row in capture.table("tracks").to_pylist())


def test_a_trace_without_slices_leaves_only_its_gaps(tmp_path):
    recorder = make_recorder(tmp_path / "c")
    trace = Trace("made", Clock.BOOTTIME)
    trace.skip("damaged rows")

    pour(trace, recorder, 0, {PID: 0})

    capture = finish(recorder)
    assert len(capture.table("slices")) == len(capture.table("names")) == 0
    assert [row["reason"] for row in capture.table("gaps").to_pylist()] == [
        "left out: damaged rows"
    ]


def test_a_stream_of_an_unknown_process_is_kept(tmp_path):
    recorder = make_recorder(tmp_path / "c")
    trace = Trace("made", Clock.BOOTTIME)
    stream = trace.stream(trace.device(0), 7, process=None)
    trace.add(
        make_slices(np.array([1]), np.array([2]), np.array([stream], np.int32),
                    trace.names(KERNEL, ["gemm"]))
    )  # fmt: skip

    pour(trace, recorder, 0, {})

    capture = finish(recorder)
    (row,) = capture.table("slices").to_pylist()
    tracks = {one["track"]: one for one in capture.table("tracks").to_pylist()}
    assert tracks[row["track"]]["pid"] is None
