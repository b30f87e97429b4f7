"""Perfetto traces of rocprofv3, written here with Perfetto's own messages."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf.descriptor import FieldDescriptor
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as perfetto

from collectors.errors import ImportInvalid
from collectors.importers import pftrace, pftrace_packets
from collectors.importers.formats import find_format
from collectors.importers.perfetto_messages import MESSAGES, TracePacket
from collectors.importers.trace import Clock, Trace
from collectors.slices import ANNOTATION, API, KERNEL, MEMCPY, NONE
from tests import foreign_traces as made

KERNEL_NOTES = {"begin_ns": 1000, "end_ns": 5000, "agent": "Agent-4", "queue": 16, "tid": 909}


def read(path: Path, *, device_only: bool = False) -> Trace:
    return pftrace.read([path], device_only=device_only)


@pytest.mark.parametrize("name", MESSAGES)
def test_the_messages_are_those_of_perfetto(name):
    theirs = {
        "InternedText": perfetto.EventName,  # and its like
    }.get(name, getattr(perfetto, name, None)).DESCRIPTOR
    ours = TracePacket.DESCRIPTOR.file.message_types_by_name[name]
    bytes_like = {FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES}

    for field in ours.fields:
        other = theirs.fields_by_name[field.name]
        assert (field.number, field.is_repeated) == (other.number, other.is_repeated)
        if other.type == FieldDescriptor.TYPE_MESSAGE:
            assert field.type == FieldDescriptor.TYPE_MESSAGE
        elif other.type in bytes_like:
            assert field.type in bytes_like
        elif other.type == FieldDescriptor.TYPE_ENUM:
            assert field.type == FieldDescriptor.TYPE_INT32
        else:
            assert field.type == other.type


def test_slices_have_the_times_in_their_notes(tmp_path):
    path = made.pftrace(tmp_path)

    trace = read(path)

    assert find_format(path) == "pftrace"
    assert trace.clock is Clock.BOOTTIME
    assert made.rows_of(trace) == [
        (ANNOTATION, "decode step", "", 800, 9000),
        (API, "hipLaunchKernel", "", 900, 950),
        (KERNEL, "gemm(float*)", "queue 16", 1000, 5000),
        (KERNEL, "ncclDevKernel_Generic", "stream 2", 4000, 6000),
        (MEMCPY, "DEVICE_TO_HOST", "stream 2", 7000, 7500),
    ]
    assert made.union_ns(made.on_gpus(trace)) == 5000 + 500
    assert "middle of the overlap" in trace.host["caveat"]
    assert not trace.skipped


def test_who_launched_where_and_how_much(tmp_path):
    trace = read(made.pftrace(tmp_path))

    tracks, slices = trace.track_rows, made.on_gpus(trace)
    (device,) = (row for row in tracks if row["kind"] == "device")
    assert device["device"] == 4
    assert {row["pid"] for row in tracks if row["kind"] == "process"} == {908}
    assert {tracks[track]["tid"] for track in slices.launch_track.tolist()} == {909}
    assert sorted(slices.correlation.tolist()) == [11, 12, 13]
    assert sorted(slices.size_bytes.tolist()) == [NONE, NONE, 4096]


def test_device_only_leaves_out_the_host(tmp_path):
    trace = read(made.pftrace(tmp_path), device_only=True)

    assert {kind for kind, _ in trace.name_rows} == {KERNEL, MEMCPY}


def test_numbers_begin_anew_where_the_writer_says_so(tmp_path):
    # Given a second sequence of packets that gives the same numbers to other names
    first, second = made.PftraceWriter(), made.PftraceWriter()
    first.slice("kernel_dispatch", "first", **KERNEL_NOTES)
    second.slice("kernel_dispatch", "second", **KERNEL_NOTES)
    path = tmp_path / "a.pftrace"
    path.write_bytes(first.trace.SerializeToString() + second.trace.SerializeToString())

    # When
    trace = read(path)

    # Then
    assert sorted(text for _, text in trace.name_rows) == ["first", "second"]


def test_names_may_stand_in_the_packet_itself(tmp_path):
    writer = made.PftraceWriter()
    writer.slice("kernel_dispatch", "interned", **KERNEL_NOTES)
    event = writer.packet().track_event
    event.type = perfetto.TrackEvent.TYPE_SLICE_BEGIN
    event.name = "inline"
    event.categories.append("kernel_dispatch")
    for key, value in KERNEL_NOTES.items():
        note = event.debug_annotations.add(name=key)
        if isinstance(value, int):
            note.int_value = value
        else:
            note.string_value = value

    trace = read(writer.write(tmp_path / "a.pftrace"))

    assert sorted(text for _, text in trace.name_rows) == ["inline", "interned"]


@pytest.mark.parametrize(
    ("notes", "reason"),
    [
        ({"begin_ns": 1, "agent": "Agent-4"}, "slices without begin_ns and end_ns"),
        ({**KERNEL_NOTES, "begin_ns": "soon"}, "slices without begin_ns and end_ns"),
        ({**KERNEL_NOTES, "end_ns": 2**64 - 1}, "slices without begin_ns and end_ns"),
        ({**KERNEL_NOTES, "end_ns": 7}, "negative durations"),
        ({**KERNEL_NOTES, "agent": "nobody"}, "slices of no GPU or thread"),
        ({"begin_ns": 1, "end_ns": 2}, "slices of no GPU or thread"),
    ],
)
def test_slices_that_cannot_be_are_left_out_and_counted(tmp_path, notes, reason):
    writer = made.PftraceWriter()
    writer.slice("kernel_dispatch", "good", **KERNEL_NOTES)
    writer.slice("kernel_dispatch", "bad", **notes)

    trace = read(writer.write(tmp_path / "a.pftrace"))

    assert trace.skipped == {reason: 1}
    assert [row[1] for row in made.rows_of(trace)] == ["good"]


def test_packets_of_other_kinds_are_passed_over_and_broken_ones_counted(tmp_path):
    path = made.pftrace(tmp_path)
    counter = perfetto.Trace()
    counter.packet.add().track_event.type = perfetto.TrackEvent.TYPE_COUNTER
    broken = b"\x0a\x03\x62\x70\x01"  # a packet of 3 bytes whose track event claims 112
    path.write_bytes(path.read_bytes() + counter.SerializeToString() + broken)

    trace = read(path)

    assert len(trace.slices()) == 5
    assert trace.skipped == {"packets that are no Perfetto messages": 1}


def test_names_that_are_not_utf8_are_readable_all_the_same(tmp_path):
    path = made.pftrace(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"decode step", b"decode\xffstep"))

    assert (ANNOTATION, "decode\ufffdstep") in read(path).name_rows


def test_a_cut_off_file_is_refused(tmp_path):
    path = made.pftrace(tmp_path)
    path.write_bytes(path.read_bytes()[:-3])

    with pytest.raises(ImportInvalid, match="cut off in its last packet"):
        read(path)


def test_a_file_that_goes_on_with_something_else_is_refused(tmp_path):
    path = made.pftrace(tmp_path)
    path.write_bytes(path.read_bytes() + b"{}{}{}")

    with pytest.raises(ImportInvalid, match="no packet where one should be"):
        read(path)


def test_a_packet_of_absurd_size_is_refused(tmp_path):
    path = made.pftrace(tmp_path)
    path.write_bytes(path.read_bytes() + b"\x0a\xff\xff\xff\xff\x0f" + b"\0" * 100)

    with pytest.raises(ImportInvalid, match="a packet of 4,294,967,295 bytes"):
        read(path)


def test_more_names_than_any_trace_has_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(pftrace_packets, "MAX_INTERNED_COUNT", 4)

    with pytest.raises(ImportInvalid, match="more than 4 names"):
        read(made.pftrace(tmp_path))


def test_a_perfetto_trace_of_another_tool_is_refused(tmp_path):
    writer = made.PftraceWriter()
    writer.slice("sched", "swapper", begin_ns=1, end_ns=2)

    with pytest.raises(ImportInvalid, match="without slices of rocprofv3"):
        read(writer.write(tmp_path / "a.pftrace"))


@pytest.mark.parametrize("content", [b"", b"\n", b"\n\n\n\n\n", b"\n{}\n", b"\x0a\x00\x0a\x00"])
def test_text_and_emptiness_are_not_taken_for_packets(tmp_path, content):
    assert not pftrace.is_mine(tmp_path / "a.pftrace", content)
