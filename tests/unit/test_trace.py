"""What importers fill: tracks, names and slices, and what no timeline can hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from collectors import open_capture
from collectors.errors import ImportInvalid, OutputExists
from collectors.importers.tables import to_capture, write_import
from collectors.importers.trace import MAX_NAME_CHARS, Clock, Trace
from collectors.slices import KERNEL, MEMCPY, NONE, Slices, make_slices


def slices(*rows: tuple[int, int], track: int = 0, name: int = 0, **more: list[int]) -> Slices:
    time_ns, duration_ns = (np.array(values, np.int64) for values in zip(*rows, strict=True))
    ids = (np.full(len(rows), value, np.int32) for value in (track, name))
    return make_slices(
        time_ns, duration_ns, *ids, **{key: np.array(values) for key, values in more.items()}
    )


def gpu_trace() -> tuple[Trace, int]:
    trace = Trace("made", Clock.BOOTTIME)
    process = trace.process(77, name="worker", rank=1)
    device = trace.device(3, name="GPU", rank=1)
    return trace, trace.stream(device, 9, process=process)


def test_a_track_is_registered_once_and_completed_later():
    trace = Trace("made", Clock.OWN)

    first = trace.process(5)
    again = trace.process(5, name="vllm", rank=2)

    assert first == again
    assert trace.track_rows[first]["name"] == "vllm"
    assert trace.track_rows[first]["rank"] == 2


def test_each_scope_has_its_own_processes_and_gpus():
    trace = Trace("made", Clock.OWN)
    first = trace.process(5), trace.device(0)
    trace.begin_scope()

    second = trace.process(5), trace.device(0)

    assert len({*first, *second}) == 4


def test_names_are_ids_by_kind_and_text():
    trace = Trace("made", Clock.OWN)

    ids = trace.names(KERNEL, ["gemm", "norm", "gemm"])
    copy = trace.name(MEMCPY, "gemm")

    assert ids.tolist() == [0, 1, 0]
    assert trace.name_rows[copy] == (MEMCPY, "gemm")


def test_an_endless_name_is_cut_and_counted():
    trace = Trace("made", Clock.OWN)

    name = trace.name(KERNEL, "k" * 20_000)

    assert trace.name_rows[name] == (KERNEL, "k" * MAX_NAME_CHARS)
    assert sum(trace.skipped.values()) == 1


def test_a_lone_surrogate_is_replaced():
    trace = Trace("made", Clock.OWN)

    name = trace.name(KERNEL, "a\ud800b")

    assert trace.name_rows[name] == (KERNEL, "a?b")


@pytest.mark.parametrize("bad", [(10, -1), (1 << 62, 1), (-(1 << 63), 1), (0, 1 << 62)], ids=str)
def test_times_that_cannot_be_are_counted_and_left_out(bad):
    trace, stream = gpu_trace()

    trace.add(slices((5, 5), bad, track=stream))

    assert trace.slices().time_ns.tolist() == [5]
    assert sum(trace.skipped.values()) == 1


def test_a_trace_becomes_a_capture_that_opens_again(tmp_path):
    trace, stream = gpu_trace()
    name = trace.name(KERNEL, "gemm")
    trace.add(slices((200, 50), (100, 10), track=stream, name=name, correlation=[7, NONE]))
    trace.skip("events without a time", 2)

    write_import(to_capture(trace, [Path("a.json")], "0"), tmp_path / "it.capture")
    capture = open_capture(tmp_path / "it.capture")

    assert capture.manifest.clock == "boottime"
    assert (capture.start_ns, capture.end_ns) == (100, 250)
    assert not capture.is_partial
    assert capture.table("slices")["time_ns"].to_pylist() == [100, 200]
    assert capture.table("slices")["correlation"].to_pylist() == [None, 7]
    assert capture.table("names").to_pylist() == [{"name": 0, "kind": KERNEL, "text": "gemm"}]
    device, queue = capture.table("tracks").to_pylist()[1:]
    assert (device["kind"], device["device"], device["pid"]) == ("device", 3, None)
    assert (queue["kind"], queue["parent"], queue["pid"], queue["tid"]) == ("stream", 1, 77, 9)
    assert [row["lost_count"] for row in capture.table("gaps").to_pylist()] == [2]
    assert capture.manifest.probes[0].level == "degraded"


def test_a_trace_without_a_single_time_is_refused():
    trace, _ = gpu_trace()

    with pytest.raises(ImportInvalid, match="no event with a time"):
        to_capture(trace, [Path("a.json")], "0")


def test_an_import_does_not_overwrite(tmp_path):
    trace, stream = gpu_trace()
    trace.add(slices((1, 1), track=stream))
    (tmp_path / "notes.txt").write_text("mine")

    with pytest.raises(OutputExists):
        write_import(to_capture(trace, [Path("a.json")], "0"), tmp_path)

    assert [one.name for one in tmp_path.iterdir()] == ["notes.txt"]
