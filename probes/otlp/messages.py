"""OTLP trace messages from their bytes, checked before anything of them is used.

The form: https://opentelemetry.io/docs/specs/otlp/ and the package
``opentelemetry-proto``, which is its official one for Python.
"""

from __future__ import annotations

import zlib
from itertools import islice
from typing import TYPE_CHECKING, Final

from probes.otlp.spans import MAX_ATTRIBUTES

if TYPE_CHECKING:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
        ExportTraceServiceRequest,
        ExportTraceServiceResponse,
    )
    from opentelemetry.proto.resource.v1.resource_pb2 import Resource
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

# gRPC's own default; a full batch of vLLM's (512 spans) is a tenth of it.
MAX_BODY_BYTES: Final = 4 << 20
MAX_SPANS: Final = 10_000  # two bytes make a span, so the bytes alone bound nothing
PROCESS_ID: Final = "vllm.process_id"  # a resource attribute: vllm/tracing/otel.py


class MessageRefused(Exception):
    """A message of which nothing is kept; the message of the error is the reason."""


class MessageTooBig(MessageRefused):
    """It is longer, or holds more, than is read."""


def inflate(body: bytes) -> bytes:
    """Return what ``body``, gzip or zlib, holds.

    Raises:
        MessageRefused: it is neither, is cut off, or is longer than `MAX_BODY_BYTES` inside.
    """
    inflater = zlib.decompressobj(wbits=32 + zlib.MAX_WBITS)  # 32: either header
    try:
        plain = inflater.decompress(body, MAX_BODY_BYTES + 1)
    except zlib.error as error:
        raise MessageRefused("a body that is not compressed as it says") from error
    if len(plain) > MAX_BODY_BYTES:
        raise MessageTooBig(f"a message of more than {MAX_BODY_BYTES} bytes")
    if not inflater.eof or inflater.unused_data:
        raise MessageRefused("a body that is not compressed as it says")
    return plain


def parse(body: bytes, *, is_json: bool) -> ExportTraceServiceRequest:
    """Return the message in ``body``.

    Raises:
        MessageRefused: it is none.
    """
    from google.protobuf import json_format
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    message = ExportTraceServiceRequest()
    try:
        if is_json:
            # Trace and span ids are hex here and read as base64: wrong, and not looked at.
            json_format.Parse(body, message, ignore_unknown_fields=True)
        else:
            message.ParseFromString(body)
    except (DecodeError, json_format.ParseError, ValueError, RecursionError) as error:
        raise MessageRefused("a body that is no trace message") from error
    return message


def spans_of(message: ExportTraceServiceRequest) -> list[tuple[int | None, Span]]:
    """Return all spans, each with the PID that its sender gives itself, if it does.

    Raises:
        MessageTooBig: there are more than `MAX_SPANS` of them, or of the groups around them.
    """
    resources = message.resource_spans
    if (
        len(resources) > MAX_SPANS
        or sum(len(resource.scope_spans) for resource in resources) > MAX_SPANS
        or sum(len(scope.spans) for one in resources for scope in one.scope_spans) > MAX_SPANS
    ):
        raise MessageTooBig(f"a message of more than {MAX_SPANS} spans")
    return [
        (sender_pid, span)
        for resource in resources
        for sender_pid in [_sender_pid(resource.resource)]
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def answer(refused_count: int, reason: str, *, is_json: bool) -> bytes:
    """Return the body that accepts a message, all but ``refused_count`` of its spans."""
    from google.protobuf import json_format
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    response: ExportTraceServiceResponse = ExportTraceServiceResponse()
    if refused_count:
        response.partial_success.rejected_spans = refused_count
        response.partial_success.error_message = reason
    if is_json:
        return str(json_format.MessageToJson(response, indent=None)).encode()
    return bytes(response.SerializeToString())


def _sender_pid(resource: Resource) -> int | None:
    for attribute in islice(resource.attributes, MAX_ATTRIBUTES):
        if attribute.key == PROCESS_ID:
            text = attribute.value.string_value
            return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None
    return None
