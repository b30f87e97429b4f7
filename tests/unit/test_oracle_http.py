"""The oracle's HTTP and OpenAI surface, without a server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from profiler.oracle.http import BadHttp, parse_request
from profiler.oracle.protocol import InvalidRequest, apply_chat_template, validate


def test_a_request_is_taken_off_the_buffer_when_it_is_whole() -> None:
    whole = b"POST /v1/completions?a=1 HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody"
    buffer = bytearray()
    for byte in whole[:-1]:
        buffer.append(byte)
        assert parse_request(buffer, 0) is None
    buffer += whole[-1:] + b"GET /"

    request = parse_request(buffer, 5)

    assert request is not None
    assert (request.method, request.path, request.query) == ("POST", "/v1/completions", {"a": "1"})
    assert (request.body, request.arrived_ns) == (b"body", 5)
    assert buffer == b"GET /"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (b"x" * (65 << 10), 413),
    ],
)
def test_what_cannot_be_served_is_refused(head: bytes, status: int) -> None:
    with pytest.raises(BadHttp) as refused:
        parse_request(bytearray(head), 0)
    assert refused.value.status == status


def test_a_chat_request_becomes_the_models_text() -> None:
    body = {
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "hello"},
        ],
        "max_tokens": 3,
        "stream": True,
        "temperature": 0.5,  # fields that the oracle does not know are let through
    }

    request = validate(json.dumps(body).encode(), is_chat=True)

    assert (request.max_tokens, request.is_streaming) == (3, True)
    assert apply_chat_template(request) == "<|system|>\nbe brief\n<|user|>\nhello\n<|assistant|>\n"


def test_a_plain_prompt_has_no_template() -> None:
    request = validate(b'{"prompt": "def f():"}', is_chat=False)

    assert apply_chat_template(request) == "def f():"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "JSON"),
        (b"[]", "object"),
        ({"messages": []}, "messages"),
        ({"messages": ["hi"]}, "role"),
        ({"messages": [{"role": "user", "content": None}]}, "content"),
        ({"messages": [{"role": "user", "content": "x"}], "max_tokens": 0}, "max_tokens"),
        ({"messages": [{"role": "user", "content": "x"}], "max_tokens": True}, "max_tokens"),
        ({"messages": [{"role": "user", "content": "x"}], "stream": "yes"}, "stream"),
        ({"messages": [{"role": "user", "content": "x"}], "model": "gpt"}, "model"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(body: bytes | dict[str, Any], says: str) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(InvalidRequest, match=says):
        validate(raw, is_chat=True)
