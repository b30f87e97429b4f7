"""Server-sent events: whatever the chunks, the same events come out."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.load import sse
from profiler.load.failures import Failure, RequestFailed
from profiler.load.sse import EventStream


def events_of(chunks: list[bytes]) -> list[bytes]:
    stream = EventStream()
    return [event for chunk in chunks for event in stream.feed(chunk)] + stream.close()


def cut(text: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[start:end] for start, end in pairwise(edges)]


line = st.sampled_from([b"data: one", b"data:two", b"data:", b"data", b": comment", b"id: 7", b""])
ending = st.sampled_from([b"\n", b"\r\n", b"\r"])


@given(st.lists(st.tuples(line, ending)), st.lists(st.integers(min_value=0)))
def test_chunks_do_not_change_the_events(lines, places):
    text = b"".join(content + end for content, end in lines)

    assert events_of(cut(text, places)) == events_of([text])


@given(st.binary(max_size=200), st.lists(st.integers(min_value=0)))
def test_any_bytes_give_the_same_events_in_any_chunks(text, places):
    assert events_of(cut(text, places)) == events_of([text])


@given(st.lists(st.text(alphabet="ab: {}", min_size=1)), ending, st.lists(st.integers(min_value=0)))
def test_what_was_sent_arrives(messages, end, places):
    text = b"".join(b"data: " + message.encode() + end + end for message in messages)

    assert events_of(cut(text, places)) == [message.encode() for message in messages]


@pytest.mark.parametrize(
    ("text", "events"),
    [
        (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
        (b"data: a\rdata: b\r\r", [b"a\nb"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"data:  a\n\n", [b" a"]),
        (b"data\n\n", [b""]),
        (b": keep-alive\n\n\n\ndata: a\n\n", [b"a"]),
        (b"event: x\nid: 3\nretry: 5\ndata: a\n\n", [b"a"]),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"data: never ended\n", []),
        (b"data: never ended", []),
        (b"", []),
    ],
)
def test_the_rules_of_the_format(text, events):
    assert events_of([text]) == events
    assert events_of([bytes([byte]) for byte in text]) == events


@pytest.mark.parametrize("piece", [b"x" * 10, b"data: x\n"])
def test_an_event_without_end_does_not_fill_the_memory(monkeypatch, piece):
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 100)

    with pytest.raises(RequestFailed) as failed:
        events_of([piece] * 100)

    assert failed.value.kind == Failure.MALFORMED
