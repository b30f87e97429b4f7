"""The few messages of Perfetto's trace format that rocprofv3's traces use.

A descriptor made here, and not the package ``perfetto``, whose generated code wants a protobuf as
new as its own: this works with whatever a server's environment has. A test compares it with that
package's. Numbers: protos/perfetto/trace/ in https://github.com/google/perfetto.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

_FIELD = FieldDescriptorProto
_UINT64: Final = _FIELD.TYPE_UINT64
# Text is read as bytes: a name that is not UTF-8 must not take its packet with it.
_TEXT: Final = _FIELD.TYPE_BYTES
_MANY: Final = "*"

# Message -> field -> number and type (a name: of another message; with a star: repeated).
MESSAGES: Final[dict[str, dict[str, tuple[int, int | str]]]] = {
    "TracePacket": {
        "trusted_packet_sequence_id": (10, _FIELD.TYPE_UINT32),
        "track_event": (11, "TrackEvent"),
        "interned_data": (12, "InternedData"),
        "sequence_flags": (13, _FIELD.TYPE_UINT32),
        "incremental_state_cleared": (41, _FIELD.TYPE_BOOL),
        "compressed_packets": (50, _FIELD.TYPE_BYTES),
        "track_descriptor": (60, "TrackDescriptor"),
    },
    "TrackEvent": {
        "category_iids": (3, f"{_MANY}uint64"),
        "debug_annotations": (4, f"{_MANY}DebugAnnotation"),
        "type": (9, _FIELD.TYPE_INT32),  # an enum
        "name_iid": (10, _UINT64),
        "track_uuid": (11, _UINT64),
        "categories": (22, f"{_MANY}bytes"),
        "name": (23, _TEXT),
    },
    "DebugAnnotation": {
        "name_iid": (1, _UINT64),
        "uint_value": (3, _UINT64),
        "int_value": (4, _FIELD.TYPE_INT64),
        "string_value": (6, _TEXT),
        "name": (10, _TEXT),
        "string_value_iid": (17, _UINT64),
    },
    "InternedData": {
        "event_categories": (1, f"{_MANY}InternedText"),
        "event_names": (2, f"{_MANY}InternedText"),
        "debug_annotation_names": (3, f"{_MANY}InternedText"),
        "debug_annotation_string_values": (29, f"{_MANY}InternedText"),
    },
    "InternedText": {"iid": (1, _UINT64), "name": (2, _TEXT)},
    "TrackDescriptor": {
        "uuid": (1, _UINT64),
        "name": (2, _TEXT),
        "process": (3, "ProcessDescriptor"),
        "parent_uuid": (5, _UINT64),
        "static_name": (10, _TEXT),
    },
    "ProcessDescriptor": {"pid": (1, _FIELD.TYPE_INT32)},
}
_REPEATED: Final = {"uint64": _UINT64, "bytes": _FIELD.TYPE_BYTES}
_PACKAGE: Final = "cputax.perfetto"


def _packet_class() -> Any:
    file = FileDescriptorProto(name="cputax/perfetto.proto", package=_PACKAGE, syntax="proto2")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, (number, kind) in fields.items():
            field = message.field.add(name=field_name, number=number, label=_FIELD.LABEL_OPTIONAL)
            if isinstance(kind, int):
                field.type = kind  # type: ignore[assignment]
                continue
            if kind.startswith(_MANY):
                field.label, kind = _FIELD.LABEL_REPEATED, kind.removeprefix(_MANY)
            if kind in _REPEATED:
                field.type = _REPEATED[kind]
            else:
                field.type = _FIELD.TYPE_MESSAGE
                field.type_name = f".{_PACKAGE}.{kind}"
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.TracePacket"))


TracePacket: Final = _packet_class()
