"""From vLLM's span to a row: the right instants, the client's id, and nothing of hostile values."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from collectors.clock import Anchor
from collectors.schema import REQUESTS
from probes.otlp.spans import MAX_ID_CHARS, SpanRefused, client_request_id, read_request
from tests.unit.otlp_spans import ATTRIBUTES, MS, any_value, make_span

NOW_NS = 1_800_000_000_000_000_000  # on the wall clock
ANCHOR = Anchor(monotonic_ns=5_000_000 * MS, realtime_ns=NOW_NS, boottime_ns=0, uncertainty_ns=100)
START_NS = ANCHOR.monotonic_ns - 3000 * MS
ENGINE = {"queued_ns", "scheduled_ns"}
TIMES = {"start_ns": NOW_NS - 3000 * MS, "end_ns": NOW_NS}


def read(**changes):
    return read_request(make_span(**TIMES | changes), ANCHOR)


def after_start_ms(row, name):
    return None if row[name] is None else (row[name] - START_NS) / MS


def test_a_finished_request_has_every_boundary_on_the_monotonic_clock():
    row, doubtful_count = read()

    assert doubtful_count == 0
    assert row["time_ns"] == START_NS
    assert (row["request"], row["source"], row["status"]) == ("mine", "otlp", "ok")
    assert (row["prompt_tokens"], row["output_tokens"]) == (4000, 16)
    assert after_start_ms(row, "first_token_ns") == 1000
    assert after_start_ms(row, "last_token_ns") == 2500
    assert after_start_ms(row, "done_ns") == 3000
    assert row["decode_duration_ns"] == 1500 * MS


@pytest.mark.parametrize(
    ("ttft_s", "e2e_s", "scheduled_ms"),
    [
        (1.0, 2.5, 750),  # both outputs took equally long to come: first token - prefill
        (1.0, 2.6, 750),  # the last was late: the first tells it better
        (1.1, 2.5, 750),  # the first was late: the last tells it better
    ],
)
def test_it_was_scheduled_when_the_less_delayed_output_says(ttft_s, e2e_s, scheduled_ms):
    row, _ = read(time_to_first_token=ttft_s, e2e=e2e_s)

    assert after_start_ms(row, "scheduled_ns") == scheduled_ms
    assert after_start_ms(row, "queued_ns") == scheduled_ms - 125


@pytest.mark.parametrize("absent", list(ATTRIBUTES))
def test_what_the_server_does_not_say_is_unknown_and_never_zero(absent):
    changes = {absent.rpartition(".")[2]: None}
    if absent == "gen_ai.request.id":
        with pytest.raises(SpanRefused, match="without a request id"):
            read(**changes)
        return

    row, doubtful_count = read(**changes)

    assert doubtful_count == 0
    assert 0 not in row.values()
    unknown = {name for name, value in row.items() if value is None}
    assert unknown == {
        "gen_ai.latency.time_to_first_token": {"first_token_ns"},
        "gen_ai.latency.e2e": {"last_token_ns"},
        "gen_ai.latency.time_in_queue": {"queued_ns"},
        "gen_ai.latency.time_in_model_prefill": {"queued_ns", "scheduled_ns"},
        "gen_ai.latency.time_in_model_decode": {"decode_duration_ns"},
        "gen_ai.usage.prompt_tokens": {"prompt_tokens"},
        "gen_ai.usage.completion_tokens": {"output_tokens"},
    }.get(absent, set())


def test_a_span_with_an_id_alone_is_a_row_of_unknowns():
    row, doubtful_count = read(attributes={"gen_ai.request.id": "x"})

    assert doubtful_count == 0
    assert {name for name, value in row.items() if value is not None} == {
        "time_ns", "request", "source", "status", "done_ns",
    }  # fmt: skip


def test_an_error_of_the_span_is_an_error_of_the_request():
    span = make_span(**TIMES)
    span.status.code = span.status.STATUS_CODE_ERROR

    assert read_request(span, ANCHOR)[0]["status"] == "error"


@pytest.mark.parametrize(
    ("raw", "sent"),
    [
        ("chatcmpl-abc", "abc"),
        ("chatcmpl-a-b-0", "a-b-0"),  # chat adds nothing at the end
        ("cmpl-abc-0", "abc"),
        ("cmpl-abc-0-12", "abc-0"),
        ("cmpl-abc", "cmpl-abc"),
        ("generate-tokens-abc", "abc"),
        ("chatcmpl-cmpl-abc-0", "cmpl-abc-0"),  # the client's own
        ("resp_abc", "resp_abc"),
        ("abc", "abc"),
        ("chatcmpl-", "chatcmpl-"),
    ],
)
def test_the_id_is_what_the_client_sent(raw, sent):
    assert client_request_id(raw) == sent


@pytest.mark.parametrize("bad", [-0.5, math.nan, math.inf, 1e300, 100_000.0, "1.0", True])
@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("time_to_first_token", "first_token_ns"),
        ("e2e", "last_token_ns"),
        ("time_in_model_prefill", "scheduled_ns"),
    ],
)
def test_a_duration_that_cannot_be_is_unknown_and_counted(name, column, bad):
    row, doubtful_count = read(**{name: bad})

    assert row[column] is None
    assert doubtful_count == 1


@pytest.mark.parametrize("bad", [-1, 1 << 31, 2.0, "7", False])
def test_a_token_count_that_cannot_be_is_unknown_and_counted(bad):
    row, doubtful_count = read(prompt_tokens=bad, completion_tokens=bad)

    assert row["prompt_tokens"] is row["output_tokens"] is None
    assert doubtful_count == 2


@pytest.mark.parametrize(
    ("changes", "unknown"),
    [
        ({"time_to_first_token": 2.75}, {"first_token_ns", "last_token_ns", *ENGINE}),
        ({"e2e": 3.5}, {"first_token_ns", "last_token_ns", *ENGINE}),
        ({"time_in_model_prefill": 1.25}, ENGINE),  # before it arrived
        ({"end_ns": NOW_NS - 4000 * MS}, {"done_ns"}),
        ({"end_ns": 0}, {"done_ns"}),
        ({"end_ns": NOW_NS + 2000 * MS}, {"done_ns"}),
    ],
)
def test_boundaries_out_of_order_are_not_believed(changes, unknown):
    row, doubtful_count = read(**changes)

    assert {name for name, value in row.items() if value is None} == unknown
    assert doubtful_count == 1


@pytest.mark.parametrize("start_ns", [0, NOW_NS - 90_000_000 * MS, NOW_NS + 2000 * MS, 2**64 - 1])
def test_a_start_that_cannot_be_is_refused(start_ns):
    with pytest.raises(SpanRefused, match="a start that cannot be"):
        read(start_ns=start_ns)


ANY_VALUES = st.one_of(
    st.booleans().map(any_value),
    st.integers(-(2**63), 2**63 - 1).map(any_value),
    st.floats().map(any_value),
    st.text(max_size=2 * MAX_ID_CHARS).map(any_value),
    st.binary(max_size=9).map(lambda value: AnyValue(bytes_value=value)),
    st.just(AnyValue()),
    st.just(AnyValue(array_value=ArrayValue(values=[any_value("x")]))),
)
INSTANTS = st.integers(0, 2**64 - 1) | st.integers(NOW_NS - 10**15, NOW_NS + 10**10)
SPANS = st.builds(
    lambda start_ns, end_ns, attributes, status: make_hostile(start_ns, end_ns, attributes, status),
    INSTANTS,
    INSTANTS,
    st.lists(st.tuples(st.sampled_from([*ATTRIBUTES, "", "other"]), ANY_VALUES), max_size=40),
    st.integers(0, 5),
)


def make_hostile(start_ns, end_ns, attributes, status) -> Span:
    span = Span(start_time_unix_nano=start_ns, end_time_unix_nano=end_ns)
    span.attributes.add(key="gen_ai.request.id", value=any_value("chatcmpl-x"))
    for key, value in attributes:
        span.attributes.add(key=key, value=value)
    span.status.code = status  # type: ignore[assignment]
    return span


@settings(deadline=None, max_examples=300)
@given(SPANS)
def test_a_hostile_span_is_refused_or_a_row_in_order(span):
    try:
        row, _ = read_request(span, ANCHOR)
    except SpanRefused:
        return

    names = ("time_ns", "scheduled_ns", "first_token_ns", "last_token_ns", "done_ns")
    known = [row[name] for name in names if row[name] is not None]
    assert known == sorted(known)
    assert 0 < len(row["request"]) <= MAX_ID_CHARS
    for name, value in row.items():
        pa.array([value], REQUESTS.field(name).type)  # fits its column
