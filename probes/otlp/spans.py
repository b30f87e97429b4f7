"""vLLM's ``llm_request`` span: what it says of one request, as a row of ``requests``.

vLLM emits one when a request finishes (`OutputProcessor.do_tracing`, the same in 0.19 and 0.32).
It starts when the frontend took the request up and ends when its last output was processed, both in
wall time. Its attributes are durations in seconds, on two clocks:

* the frontend's: time to first token and end to end, from the start until it *received* the output;
* the engine's: queue, prefill and decode, of which only the lengths are told.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from collectors.clock import Anchor
from collectors.schema import ERROR, OK, OTLP

if TYPE_CHECKING:
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

SPAN_NAME: Final = "llm_request"
# Attribute names: vllm/tracing/utils.py. All others are neither read nor kept.
REQUEST_ID: Final = "gen_ai.request.id"
TO_FIRST_TOKEN: Final = "gen_ai.latency.time_to_first_token"
END_TO_END: Final = "gen_ai.latency.e2e"
QUEUE: Final = "gen_ai.latency.time_in_queue"
PREFILL: Final = "gen_ai.latency.time_in_model_prefill"
DECODE: Final = "gen_ai.latency.time_in_model_decode"
PROMPT_TOKENS: Final = "gen_ai.usage.prompt_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.completion_tokens"

MAX_ATTRIBUTES: Final = 128  # that are looked at: the SDK's own limit, unless set otherwise
MAX_ID_CHARS: Final = 256
LONGEST_S: Final = 86_400.0  # no request takes longer, and none is told later than that
# How far after now a span may end: the wall clock may have been set back since.
AHEAD_NS: Final = 1_000_000_000
# vLLM puts the kind of request before the client's X-Request-Id, and the number of the prompt
# after it where a request may hold several (entrypoints/openai/*/serving.py).
_NAMED_BY_CLIENT = re.compile(r"(?:chatcmpl|generate-tokens)-(.+)|cmpl-(.+)-\d+", re.DOTALL)


class SpanRefused(Exception):
    """An ``llm_request`` span that makes no row; the message is the reason, without its values."""


def client_request_id(raw: str) -> str:
    """Return what the client sent as X-Request-Id, or ``raw`` when it has no form of vLLM's."""
    match = _NAMED_BY_CLIENT.fullmatch(raw)
    return raw if match is None else match[1] or match[2]


def read_request(span: Span, anchor: Anchor) -> tuple[dict[str, Any], int]:
    """Return a row of ``requests`` and how many values were there but could not be believed.

    ``anchor`` was read when the span arrived. What is missing or not believed is null.

    Raises:
        SpanRefused: it does not say which request it is about, or when that arrived.
    """
    values = _Values(span)
    raw_id = values.text(REQUEST_ID)
    if raw_id is None:
        raise SpanRefused("a request span without a request id")
    latest_ns = anchor.monotonic_ns + AHEAD_NS
    start_ns = anchor.monotonic_from_realtime_ns(span.start_time_unix_nano)
    if not latest_ns - round(LONGEST_S * 1e9) <= start_ns <= latest_ns:
        raise SpanRefused("a request span with a start that cannot be")
    end_ns = anchor.monotonic_from_realtime_ns(span.end_time_unix_nano)
    done_ns = end_ns if start_ns <= end_ns <= latest_ns else None
    values.doubtful_count += done_ns is None
    prefill_ns, decode_ns = values.duration_ns(PREFILL), values.duration_ns(DECODE)
    first_ns = _later(start_ns, values.duration_ns(TO_FIRST_TOKEN))
    last_ns = _later(start_ns, values.duration_ns(END_TO_END))
    if not _is_in_order(start_ns, first_ns, last_ns, latest_ns if done_ns is None else done_ns):
        values.doubtful_count += 1
        first_ns = last_ns = None
    scheduled_ns = _scheduled_ns(first_ns, last_ns, prefill_ns, decode_ns)
    if not _is_in_order(start_ns, scheduled_ns, first_ns, last_ns):
        values.doubtful_count += 1
        scheduled_ns = None
    queued_ns = _earlier(scheduled_ns, values.duration_ns(QUEUE))
    if not _is_in_order(start_ns, queued_ns, scheduled_ns):
        values.doubtful_count += 1
        queued_ns = None
    row = {
        "time_ns": start_ns,
        "request": client_request_id(raw_id)[:MAX_ID_CHARS],
        "source": OTLP,
        "status": ERROR if span.status.code == span.status.STATUS_CODE_ERROR else OK,
        "prompt_tokens": values.count(PROMPT_TOKENS),
        "output_tokens": values.count(OUTPUT_TOKENS),
        "queued_ns": queued_ns,
        "scheduled_ns": scheduled_ns,
        "first_token_ns": first_ns,
        "last_token_ns": last_ns,
        "done_ns": done_ns,
        "decode_duration_ns": decode_ns,
    }
    return row, values.doubtful_count


def _scheduled_ns(
    first_ns: int | None, last_ns: int | None, prefill_ns: int | None, decode_ns: int | None
) -> int | None:
    """When the engine scheduled it, counted back from when its outputs were received.

    An output is received a little after the engine stamped it, so both outputs give a bound from
    above and the lower one is closer. Counting forward (start + queue) would be wrong by template,
    tokenizer and the way to the engine, which all lie between the start and the queue.
    """
    if prefill_ns is None:
        return None
    bounds = [] if first_ns is None else [first_ns]
    if last_ns is not None and decode_ns is not None:
        bounds.append(last_ns - decode_ns)
    return min(bounds) - prefill_ns if bounds else None


def _later(start_ns: int, duration_ns: int | None) -> int | None:
    return None if duration_ns is None else start_ns + duration_ns


def _earlier(instant_ns: int | None, duration_ns: int | None) -> int | None:
    return None if instant_ns is None or duration_ns is None else instant_ns - duration_ns


def _is_in_order(*instants_ns: int | None) -> bool:
    known = [instant_ns for instant_ns in instants_ns if instant_ns is not None]
    return known == sorted(known)


class _Values:
    """The attributes of one span that we know, each checked when it is asked for."""

    def __init__(self, span: Span) -> None:
        self._values: dict[str, Any] = {}
        for attribute in islice(span.attributes, MAX_ATTRIBUTES):
            if attribute.key in _WANTED:
                kind = attribute.value.WhichOneof("value")
                self._values[attribute.key] = getattr(attribute.value, kind) if kind else None
        self.doubtful_count = 0

    def text(self, name: str) -> str | None:
        value = self._values.get(name)
        return value if isinstance(value, str) and value else None

    def duration_ns(self, name: str) -> int | None:
        value = self._number(name)
        # A comparison with NaN is false, so that is doubtful too.
        if value is not None and 0 <= value <= LONGEST_S:
            return round(value * 1e9)
        self.doubtful_count += name in self._values
        return None

    def count(self, name: str) -> int | None:
        value = self._number(name)
        if isinstance(value, int) and 0 <= value < 1 << 31:  # the column's type
            return value
        self.doubtful_count += name in self._values
        return None

    def _number(self, name: str) -> int | float | None:
        value = self._values.get(name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return value if is_number else None


_WANTED = frozenset(
    {REQUEST_ID, TO_FIRST_TOKEN, END_TO_END, QUEUE, PREFILL, DECODE, PROMPT_TOKENS, OUTPUT_TOKENS}
)
