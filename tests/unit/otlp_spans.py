"""Trace spans as vLLM sends them, for the tests of the OTLP probe."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

MS = 1_000_000
SECRET = "what the user asked"
# All that vLLM 0.32 sets on a chat request of 3 s: durations in seconds.
ATTRIBUTES: dict[str, Any] = {
    "gen_ai.latency.time_to_first_token": 1.0,
    "gen_ai.latency.e2e": 2.5,
    "gen_ai.latency.time_in_queue": 0.125,
    "gen_ai.usage.prompt_tokens": 4000,
    "gen_ai.usage.completion_tokens": 16,
    "gen_ai.latency.time_in_model_prefill": 0.25,
    "gen_ai.latency.time_in_model_decode": 1.5,
    "gen_ai.latency.time_in_model_inference": 1.75,
    "gen_ai.request.id": "chatcmpl-mine",
    "gen_ai.request.max_tokens": 16,
    "gen_ai.request.n": 1,
    "gen_ai.request.secret": SECRET,
}


def any_value(value: Any) -> AnyValue:
    """Return ``value`` as an attribute's; an AnyValue stays what it is."""
    if isinstance(value, AnyValue):
        return value
    kinds = {bool: "bool_value", int: "int_value", float: "double_value", str: "string_value"}
    return AnyValue(**{kinds[type(value)]: value})


def make_span(
    attributes: Mapping[str, Any] | None = None, *, name: str = "llm_request",
    start_ns: int | None = None, end_ns: int | None = None, **changes: Any,
) -> Span:  # fmt: skip
    """Return a span that began 3 s ago, in wall time; ``changes`` name their last word only."""
    now_ns = time.time_ns()
    span = Span(
        name=name,
        start_time_unix_nano=now_ns - 3000 * MS if start_ns is None else start_ns,
        end_time_unix_nano=now_ns if end_ns is None else end_ns,
    )
    for key, value in (ATTRIBUTES if attributes is None else attributes).items():
        changed = changes.get(key.rpartition(".")[2], value)
        if changed is not None:
            span.attributes.add(key=key, value=any_value(changed))
    return span


def make_message(
    spans: Sequence[Span], *, resource: Mapping[str, Any] | None = None
) -> ExportTraceServiceRequest:
    """Return a message with these spans of one sender."""
    message = ExportTraceServiceRequest()
    group = message.resource_spans.add()
    for key, value in (resource or {}).items():
        group.resource.attributes.add(key=key, value=any_value(value))
    group.scope_spans.add().spans.extend(spans)
    return message
