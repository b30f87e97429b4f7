"""Message bytes: whole ones are read, all others are refused before they cost anything."""

from __future__ import annotations

import contextlib
import gzip
import json
import zlib

import pytest
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from probes.otlp.messages import (
    MAX_BODY_BYTES,
    MAX_SPANS,
    MessageRefused,
    MessageTooBig,
    answer,
    inflate,
    parse,
    spans_of,
)
from tests.unit.otlp_spans import make_message, make_span


@pytest.mark.parametrize("deflate", [gzip.compress, zlib.compress])
def test_both_codings_of_the_exporters_are_read(deflate):
    assert inflate(deflate(b"span" * 1000)) == b"span" * 1000


@pytest.mark.parametrize(
    "body", [b"", b"plain", gzip.compress(b"span")[:-1], gzip.compress(b"span") + b"more"]
)
def test_a_body_that_does_not_inflate_to_its_end_is_refused(body):
    with pytest.raises(MessageRefused, match="not compressed as it says"):
        inflate(body)


def test_a_body_that_inflates_too_far_is_refused():
    with pytest.raises(MessageTooBig):
        inflate(gzip.compress(bytes(MAX_BODY_BYTES + 1)))


@pytest.mark.parametrize("is_json", [False, True])
def test_a_message_is_read_in_both_forms(is_json):
    sent = make_message([make_span(), make_span(name="other")])
    body = json_format.MessageToJson(sent).encode() if is_json else sent.SerializeToString()

    assert parse(body, is_json=is_json) == sent


def test_json_as_the_specification_writes_it_is_read():
    # Ids in hex, integers as text or number, fields that are not known yet.
    body = b"""{"resourceSpans": [{"scopeSpans": [{"new": 1, "spans": [{
        "traceId": "5b8efff798038103d269b633813fc60c", "spanId": "eee19b7ec3c1b174",
        "name": "llm_request", "kind": 2, "startTimeUnixNano": "1544712660000000000",
        "attributes": [{"key": "gen_ai.usage.prompt_tokens", "value": {"intValue": "7"}}]
    }]}]}]}"""

    ((_, span),) = spans_of(parse(body, is_json=True))

    assert span.name == "llm_request"
    assert span.start_time_unix_nano == 1544712660000000000
    assert span.attributes[0].value.int_value == 7


@pytest.mark.parametrize(
    "body",
    [b"\xff", b"7", b'{"resourceSpans": 1}', b'{"a":' * 100_000, b"1" * 10_000, b'"\\ud800"'],
    ids=["bytes", "scalar", "type", "deep", "number", "surrogate"],
)
def test_json_that_is_no_message_is_refused(body):
    with pytest.raises(MessageRefused):
        parse(body, is_json=True)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200), st.integers(0, 300), st.booleans())
def test_garbage_is_refused_or_read(garbage, at, is_json):
    whole = make_message([make_span()]).SerializeToString()
    with contextlib.suppress(MessageRefused):
        spans_of(parse(whole[:at] + garbage + whole[at:], is_json=is_json))


FIELDS = st.sampled_from(
    ["resourceSpans", "scopeSpans", "spans", "resource", "attributes", "key", "value", "name",
     "status", "code", "startTimeUnixNano", "traceId", "stringValue", "intValue", "arrayValue"]
)  # fmt: skip
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
DOCUMENTS = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(FIELDS, inner, max_size=4)
)


@settings(deadline=None, max_examples=300)
@given(DOCUMENTS | DOCUMENTS.map(lambda inner: {"resourceSpans": [{"scopeSpans": [inner]}]}))
def test_json_of_any_shape_is_refused_or_read(document):
    with contextlib.suppress(MessageRefused):
        spans_of(parse(json.dumps(document).encode(), is_json=True))


def test_more_spans_than_are_read_are_refused_whole():
    scope = ExportTraceServiceRequest()
    for _ in range(MAX_SPANS + 1):
        scope.resource_spans.add()
    one = make_message([make_span()] * MAX_SPANS)
    assert len(spans_of(one)) == MAX_SPANS

    one.resource_spans[0].scope_spans.add().spans.add()
    for message in (scope, one):
        with pytest.raises(MessageTooBig):
            spans_of(message)


@pytest.mark.parametrize(
    ("said", "pid"),
    [("4242", 4242), ("", None), ("-1", None), ("0x10", None), ("9" * 5000, None), (7, None)],
)
def test_the_sender_may_say_its_pid(said, pid):
    message = make_message([make_span()], resource={"service.name": "x", "vllm.process_id": said})

    assert [sender for sender, _ in spans_of(message)] == [pid]


@pytest.mark.parametrize("is_json", [False, True])
def test_the_answer_says_what_was_refused(is_json):
    body = answer(3, "why", is_json=is_json)

    response = ExportTraceServiceResponse()
    if is_json:
        json_format.Parse(body, response)
    else:
        response.ParseFromString(body)
    assert response.partial_success.rejected_spans == 3
    assert response.partial_success.error_message == "why"
    assert answer(0, "", is_json=is_json) == (b"{}" if is_json else b"")
