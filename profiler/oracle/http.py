"""HTTP/1.1 on asyncio: keep-alive, one request at a time per connection, server-sent events."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from profiler.oracle.stages import Stage
from profiler.oracle.truth.ledger import staged

_HEAD_BYTES_MAX: Final = 64 << 10
_BODY_BYTES_MAX: Final = 16 << 20
_REASONS: Final = {200: "OK", 400: "Bad Request", 404: "Not Found", 413: "Content Too Large"}


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request; ``arrived_ns`` is when its first bytes were read.

    ``client_id`` is the client's own name for it (X-Request-Id), empty when it gives none.
    """

    method: str
    path: str
    query: dict[str, str]
    body: bytes
    arrived_ns: int
    parsed_ns: int
    client_id: str


class BadHttp(Exception):
    """What arrived cannot be answered on this connection any more; ``status`` says why."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@staged(Stage.HTTP_PARSE)
def parse_request(buffer: bytearray, arrived_ns: int) -> HttpRequest | None:
    """Take one whole request off the front of ``buffer``; None while it is incomplete.

    Raises `BadHttp`.
    """
    head_bytes = buffer.find(b"\r\n\r\n")
    if head_bytes < 0:
        if len(buffer) > _HEAD_BYTES_MAX:
            raise BadHttp(413)
        return None
    lines = buffer[:head_bytes].decode("latin-1").split("\r\n")
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    length_text = headers.get("content-length", "0")
    words = lines[0].split(" ")
    if len(words) != 3 or not length_text.isdecimal() or "transfer-encoding" in headers:
        raise BadHttp(400)
    body_bytes = int(length_text)
    if body_bytes > _BODY_BYTES_MAX:
        raise BadHttp(413)
    end = head_bytes + 4 + body_bytes
    if len(buffer) < end:
        return None
    body = bytes(buffer[head_bytes + 4 : end])
    del buffer[:end]
    url = urlsplit(words[1])
    query = dict(parse_qsl(url.query))
    client_id = headers.get("x-request-id", "")
    parsed_ns = time.monotonic_ns()
    return HttpRequest(words[0], url.path, query, body, arrived_ns, parsed_ns, client_id)


@staged(Stage.SSE_WRITE)
def write_head(transport: asyncio.WriteTransport) -> None:
    """Begin a stream of events."""
    transport.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
        b"Cache-Control: no-store\r\nTransfer-Encoding: chunked\r\n\r\n"
    )


@staged(Stage.SSE_WRITE)
def write_event(
    transport: asyncio.WriteTransport, event: dict[str, Any], *, last: bool = False
) -> None:
    """Send one event; the last one ends the stream."""
    data = b"data: %b\n\n" % json.dumps(event).encode()
    if last:
        data += b"data: [DONE]\n\n"
    transport.write(b"%x\r\n%b\r\n%b" % (len(data), data, b"0\r\n\r\n" if last else b""))


@staged(Stage.SSE_WRITE)
def write_whole(
    transport: asyncio.WriteTransport,
    status: int,
    body: bytes,
    content_type: str = "application/json",
) -> None:
    """Send a whole response."""
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    transport.write(head.encode() + body)


Handler = Callable[[HttpRequest, asyncio.WriteTransport], Awaitable[None]]


class HttpConnection(asyncio.Protocol):
    """One connection; the handler of a request is cancelled when its client goes away."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._buffer = bytearray()
        self._arrived_ns = 0
        self._transport: asyncio.WriteTransport | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        if not self._buffer:
            self._arrived_ns = time.monotonic_ns()
        self._buffer += data
        if self._task is None:
            self._next_request()

    def connection_lost(self, _error: Exception | None) -> None:
        """Called by asyncio."""
        if self._task is not None:
            self._task.cancel()

    def _next_request(self) -> None:
        assert self._transport is not None
        try:
            request = parse_request(self._buffer, self._arrived_ns)
        except BadHttp as error:
            write_whole(self._transport, error.status, b"")
            self._transport.close()
            return
        if request is not None:
            self._task = asyncio.ensure_future(self._serve(request, self._transport))

    async def _serve(self, request: HttpRequest, transport: asyncio.WriteTransport) -> None:
        try:
            await self._handler(request, transport)
        except Exception:
            transport.abort()  # half an answer may be out already
            raise
        self._task = None
        if self._buffer and not transport.is_closing():
            self._next_request()
