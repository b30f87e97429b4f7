"""What a streamed chunk says, from servers of several kinds."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.load.chunks import Chunk, read_chunk
from profiler.load.failures import Failure, RequestFailed


def chunk(**fields: object) -> bytes:
    return json.dumps({"choices": [], **fields}).encode()


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"delta": {"content": "a"}, "finish_reason": None}, Chunk(True, False)),
        ({"delta": {"role": "assistant", "content": ""}}, Chunk(False, False)),
        ({"delta": {"reasoning_content": "hm"}}, Chunk(True, False)),
        ({"delta": {"tool_calls": [{"index": 0}]}}, Chunk(True, False)),
        ({"delta": {}, "finish_reason": "length"}, Chunk(False, True)),
        ({"delta": {"content": "a"}, "finish_reason": "stop"}, Chunk(True, True)),
        ({"text": "a", "finish_reason": None}, Chunk(True, False)),
        ({"text": "", "finish_reason": "length"}, Chunk(False, True)),
        ({}, Chunk(False, False)),
    ],
)
def test_text_and_the_end_are_found(choice, expected):
    assert read_chunk(chunk(choices=[choice])) == expected


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 3}, (7, 3)),
        ({"prompt_tokens": 7}, (7, None)),
        ({"prompt_tokens": "7", "completion_tokens": -1}, (None, None)),
        (None, (None, None)),
    ],
)
def test_token_counts_are_the_servers_or_unknown(usage, counts):
    found = read_chunk(chunk(usage=usage))

    assert (found.prompt_tokens, found.output_tokens) == counts


@pytest.mark.parametrize(
    "data",
    [b"{not json", b"", b"\xff", b"[]", b"3", b"{}", b'{"choices": 3}', b'{"choices": [1]}',
     b"[" * 100_000],
)  # fmt: skip
def test_what_is_no_chunk_is_malformed(data):
    with pytest.raises(RequestFailed) as failed:
        read_chunk(data)

    assert failed.value.kind == Failure.MALFORMED


def test_an_error_of_the_server_keeps_its_words():
    with pytest.raises(RequestFailed) as failed:
        read_chunk(chunk(error={"message": "engine died"}))

    assert failed.value.kind == Failure.ERROR_EVENT
    assert "engine died" in failed.value.detail


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "delta", "text", "content", "usage", "error"]), inner
        )
    ),
    max_leaves=8,
)


@given(json_values)
def test_no_json_breaks_the_reader(value):
    with suppress(RequestFailed):
        read_chunk(json.dumps(value).encode())
