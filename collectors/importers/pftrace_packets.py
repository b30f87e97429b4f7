"""The slices in one Perfetto trace of rocprofv3, packet by packet, on their way into a trace."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from google.protobuf.message import DecodeError

from collectors.errors import ImportInvalid
from collectors.importers.perfetto_messages import TracePacket
from collectors.importers.trace import Trace
from collectors.slices import ANNOTATION, API, KERNEL, MEMCPY, NONE, make_slices

MAX_INTERNED_COUNT: Final = 1 << 20  # of one sequence: names, categories, notes
MAX_TRACK_COUNT: Final = 1 << 16

_SLICE_BEGIN: Final = 1  # TrackEvent.Type
_STATE_CLEARED: Final = 1  # TracePacket.SequenceFlags
_FLUSH_COUNT: Final = 1 << 16
_MAX_ID: Final = (1 << 31) - 1
_MAX_INT64: Final = (1 << 63) - 1
_KINDS: Final = {
    b"kernel_dispatch": KERNEL, b"memory_copy": MEMCPY, b"marker_api": ANNOTATION,
    b"hip_api": API, b"hsa_api": API, b"rccl_api": API,
    b"rocdecode_api": API, b"rocjpeg_api": API,
}  # fmt: skip
_ON_GPU: Final = frozenset({KERNEL, MEMCPY})
_NOTES: Final = frozenset(
    b"begin_ns end_ns corr_id tid agent src_agent dst_agent queue stream_ID stream_id "
    b"copy_bytes".split()
)
_AGENT = re.compile(r"(?:[A-Za-z]+[- ])?(\d{1,10})", re.ASCII)  # 4, Agent-4, GPU-0
_STREAM_TRACK = re.compile(r"\bSTREAM \[(\d{1,18})\]", re.ASCII)
_DEVICE_TO_HOST: Final = "DEVICE_TO_HOST"


@dataclass(slots=True)
class _Sequence:
    """What the packets of one writer refer to by number, since it last began anew."""

    names: dict[int, bytes] = field(default_factory=dict)
    kinds: dict[int, str] = field(default_factory=dict)  # the categories that matter
    notes: dict[int, bytes] = field(default_factory=dict)  # the names of notes that matter
    texts: dict[int, bytes] = field(default_factory=dict)


@dataclass(slots=True)
class _Rows:
    """Slices not yet added, as columns."""

    start_ns: list[int] = field(default_factory=list)
    end_ns: list[int] = field(default_factory=list)
    track: list[int] = field(default_factory=list)
    name: list[int] = field(default_factory=list)
    correlation: list[int] = field(default_factory=list)
    launch_track: list[int] = field(default_factory=list)
    size_bytes: list[int] = field(default_factory=list)


class PacketReader:
    """Takes one file's packets in their order."""

    def __init__(self, trace: Trace, *, device_only: bool) -> None:
        """Begin; ``device_only`` leaves out what threads did."""
        self._trace = trace
        self._is_device_only = device_only
        self._sequences: dict[int, _Sequence] = {}
        self._interned_count = 0
        self._pid = 0
        self._stream_of_track: dict[int, int] = {}
        self._tracks: dict[tuple[object, ...], int] = {}
        self._rows = _Rows()
        self.has_slices = False

    def take(self, data: bytes) -> None:
        """Add what a packet holds.

        Raises:
            ImportInvalid: the file names more than any trace does.
        """
        try:
            packet = TracePacket.FromString(data)
        except DecodeError:
            self._trace.skip("packets that are no Perfetto messages")
            return
        writer = packet.trusted_packet_sequence_id
        if packet.sequence_flags & _STATE_CLEARED or packet.incremental_state_cleared:
            self._sequences[writer] = _Sequence()
        sequence = self._sequences.get(writer)
        if sequence is None:
            sequence = self._sequences[writer] = _Sequence()
        if packet.HasField("interned_data"):
            self._intern(sequence, packet.interned_data)
        if packet.HasField("track_descriptor"):
            self._describe(packet.track_descriptor)
        if packet.HasField("track_event") and packet.track_event.type == _SLICE_BEGIN:
            self._add(sequence, packet.track_event)
        if packet.HasField("compressed_packets"):
            self._trace.skip("compressed packets")

    def finish(self) -> None:
        """Add what is left."""
        rows = self._rows
        if rows.start_ns:
            start = np.array(rows.start_ns, np.int64)
            slices = make_slices(
                start, np.array(rows.end_ns, np.int64) - start,
                np.array(rows.track, np.int32), np.array(rows.name, np.int32),
                correlation=np.array(rows.correlation, np.int64),
                launch_track=np.array(rows.launch_track, np.int32),
                size_bytes=np.array(rows.size_bytes, np.int64),
            )  # fmt: skip
            self._trace.add(slices)
        self._rows = _Rows()

    def _intern(self, sequence: _Sequence, data: Any) -> None:
        for entry in data.event_names:
            sequence.names[entry.iid] = entry.name
        for entry in data.event_categories:
            sequence.kinds.pop(entry.iid, None)
            if entry.name in _KINDS:
                sequence.kinds[entry.iid] = _KINDS[entry.name]
        for entry in data.debug_annotation_names:
            sequence.notes.pop(entry.iid, None)
            if entry.name in _NOTES:
                sequence.notes[entry.iid] = entry.name
        for entry in data.debug_annotation_string_values:
            sequence.texts[entry.iid] = entry.name
        self._interned_count += len(data.event_names) + len(data.debug_annotation_string_values)
        if self._interned_count > MAX_INTERNED_COUNT or len(self._sequences) > MAX_TRACK_COUNT:
            raise ImportInvalid(
                f"more than {MAX_INTERNED_COUNT:,} names", "the file is damaged: record again"
            )

    def _describe(self, track: Any) -> None:
        if track.HasField("process") and 0 < track.process.pid <= _MAX_ID and self._pid == 0:
            self._pid = track.process.pid
        name = (track.name or track.static_name).decode("utf-8", "replace")
        match = _STREAM_TRACK.search(name)
        if match and len(self._stream_of_track) < MAX_TRACK_COUNT:
            self._stream_of_track[track.uuid] = int(match[1])

    def _add(self, sequence: _Sequence, event: Any) -> None:
        kind = self._kind(sequence, event)
        if kind is None or (self._is_device_only and kind not in _ON_GPU):
            return
        notes = self._read_notes(sequence, event)
        start_ns, end_ns = notes.get(b"begin_ns"), notes.get(b"end_ns")
        if not isinstance(start_ns, int) or not isinstance(end_ns, int):
            self._trace.skip("slices without begin_ns and end_ns")
            return
        text = event.name or sequence.names.get(event.name_iid, b"")
        name = text.decode("utf-8", "replace").removesuffix(" [clone .kd]")
        launcher = self._thread(_integer(notes, b"tid"))
        is_on_gpu = kind in _ON_GPU
        track = self._stream(notes, event.track_uuid, name) if is_on_gpu else launcher
        if track == NONE:
            self._trace.skip("slices of no GPU or thread")
            return
        self.has_slices = True
        rows = self._rows
        rows.start_ns.append(start_ns)
        rows.end_ns.append(end_ns)
        rows.track.append(track)
        rows.name.append(self._trace.name(kind, name.removeprefix("MEMORY_COPY_")))
        rows.correlation.append(_integer(notes, b"corr_id") or NONE)
        rows.launch_track.append(launcher if is_on_gpu else NONE)
        rows.size_bytes.append(_integer(notes, b"copy_bytes", NONE))
        if len(rows.start_ns) == _FLUSH_COUNT:
            self.finish()

    def _kind(self, sequence: _Sequence, event: Any) -> str | None:
        for category in event.category_iids:
            if (kind := sequence.kinds.get(category)) is not None:
                return kind
        return next((_KINDS[text] for text in event.categories if text in _KINDS), None)

    def _read_notes(self, sequence: _Sequence, event: Any) -> dict[bytes, int | bytes]:
        """Return the notes on an event that are used: whole numbers that fit, and texts."""
        found: dict[bytes, int | bytes] = {}
        known = sequence.notes
        for note in event.debug_annotations:
            name = known.get(note.name_iid) or note.name
            if name not in _NOTES:
                continue
            value = note.uint_value or note.int_value
            if value == 0 and (note.string_value or note.string_value_iid):
                found[name] = note.string_value or sequence.texts.get(note.string_value_iid, b"")
            elif value <= _MAX_INT64:
                found[name] = value
        return found

    def _stream(self, notes: dict[bytes, int | bytes], track_uuid: int, name: str) -> int:
        """Return the track: of the stream, or of the queue where there is no stream but 0."""
        label = notes.get(b"agent")
        if label is None:
            side = b"src_agent" if name.endswith(_DEVICE_TO_HOST) else b"dst_agent"
            label = notes.get(side)
        stream = _integer(notes, b"stream_ID", _integer(notes, b"stream_id", NONE))
        if stream == NONE:
            stream = self._stream_of_track.get(track_uuid, 0)
        queue = max(0, _integer(notes, b"queue"))
        key = (label, stream, 0 if stream > 0 else queue)
        if key not in self._tracks:
            self._check_track_count()
            self._tracks[key] = self._new_stream(label, stream, queue)
        return self._tracks[key]

    def _new_stream(self, label: int | bytes | None, stream: int, queue: int) -> int:
        said = label.decode("utf-8", "replace") if isinstance(label, bytes) else str(label)
        match = _AGENT.fullmatch(said)
        if match is None or int(match[1]) > _MAX_ID:
            return NONE
        process = self._trace.process(self._pid)
        device = self._trace.device(int(match[1]))
        if stream > 0:
            return self._trace.stream(device, stream, process=process, name=f"stream {stream}")
        text = f"queue {queue}" if queue else "default stream"
        return self._trace.stream(device, -queue, process=process, name=text)

    def _thread(self, tid: int) -> int:
        if not 0 < tid <= _MAX_ID:
            return NONE
        key = (tid,)
        if key not in self._tracks:
            self._check_track_count()
            self._tracks[key] = self._trace.thread(self._trace.process(self._pid), tid)
        return self._tracks[key]

    def _check_track_count(self) -> None:
        if len(self._tracks) >= MAX_TRACK_COUNT:
            raise ImportInvalid(
                f"more than {MAX_TRACK_COUNT:,} tracks", "the file is damaged: record again"
            )


def _integer(notes: dict[bytes, int | bytes], name: bytes, otherwise: int = 0) -> int:
    value = notes.get(name, otherwise)
    return value if isinstance(value, int) else otherwise
