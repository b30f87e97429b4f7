"""One request and its streamed answer over HTTP, by aiohttp, with the instant of each boundary.

Instants are taken when this process gets to see something: what happened on the wire while its
event loop was busy is seen late, by the loop's lag (`profiler.load.meter`).
"""

from __future__ import annotations

import asyncio
import errno
import time
from types import SimpleNamespace
from typing import Final

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import StreamWriter

from profiler.load.answer import Answer
from profiler.load.chunks import DONE, read_chunk
from profiler.load.endpoint import Endpoint
from profiler.load.failures import Failure, RequestFailed, http_failure
from profiler.load.sse import EventStream

# uvicorn, under vLLM, closes a connection that was idle for 5 s. One that is used in that moment
# fails for no fault of the server's, so idle connections are given up before.
_KEEP_ALIVE_S: Final = 4.0
_EVENT_STREAM: Final = "text/event-stream"
_ERROR_BYTES: Final = 500  # of an error's body, for the user to read

_KINDS: Final = {
    errno.ECONNREFUSED: Failure.REFUSED,
    errno.ECONNRESET: Failure.RESET,
    errno.EPIPE: Failure.RESET,
    errno.EMFILE: Failure.NO_DESCRIPTOR,
    errno.ENFILE: Failure.NO_DESCRIPTOR,
    errno.EHOSTUNREACH: Failure.UNREACHABLE,
    errno.ENETUNREACH: Failure.UNREACHABLE,
    errno.ETIMEDOUT: Failure.UNREACHABLE,
    errno.EADDRNOTAVAIL: Failure.UNREACHABLE,
}


class Client:
    """Asks one path of one server; connections are kept and reused. Use ``async with``."""

    def __init__(self, endpoint: Endpoint, path: str) -> None:
        self._url = endpoint.at(path)
        self._headers = endpoint.headers()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Client:
        trace = aiohttp.TraceConfig()
        trace.on_connection_create_end.append(_connected)
        trace.on_connection_reuseconn.append(_connected)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # see `ask`
            headers=self._headers,
            trace_configs=[trace],
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(self, *_error: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def ask(self, body: bytes, answer: Answer, timeout_s: float) -> None:
        """Send ``body`` and follow the stream it gets, into ``answer``.

        A failure is noted in ``answer.status``. All is over ``timeout_s`` after the request was
        due. When cancelled, the answer so far is kept and the status is `Failure.INTERRUPTED`.
        """
        answer.request_bytes = len(body)
        try:
            async with asyncio.timeout_at(answer.time_ns / 1e9 + timeout_s):
                await self._exchange(body, answer)
        except TimeoutError:
            answer.status = Failure.TIMEOUT
        except asyncio.CancelledError:
            answer.status = Failure.INTERRUPTED
            raise
        except RequestFailed as failed:
            answer.status, answer.detail = failed.kind, failed.detail
        except (aiohttp.ClientError, OSError) as error:
            answer.status, answer.detail = _kind(error, answer), str(error)

    async def _exchange(self, body: bytes, answer: Answer) -> None:
        assert self._session is not None, "use the client inside `async with`"
        async with self._session.post(
            self._url,
            data=_Body(body, answer),
            headers={"X-Request-Id": answer.request},
            allow_redirects=False,
            trace_request_ctx=answer,
        ) as response:
            answer.headers_ns = time.monotonic_ns()
            if response.status != 200:
                text = await response.content.read(_ERROR_BYTES)
                raise RequestFailed(http_failure(response.status), text.decode("utf-8", "replace"))
            if response.content_type != _EVENT_STREAM:
                raise RequestFailed(Failure.MALFORMED, f"a {response.content_type}, no events")
            await _follow(response.content, answer)


async def _follow(content: aiohttp.StreamReader, answer: Answer) -> None:
    """Read a stream of events to its end.

    Raises:
        RequestFailed: it is malformed, reports an error, or ended before the answer did.
    """
    events = EventStream()
    is_whole = False
    answer.response_bytes = 0
    while chunk := await content.readany():
        now_ns = time.monotonic_ns()
        if answer.first_byte_ns is None:
            answer.first_byte_ns = now_ns
        if content.is_eof():  # the end came together with these bytes
            answer.done_ns = now_ns
        answer.response_bytes += len(chunk)
        for data in events.feed(chunk):
            is_whole |= _take(data, now_ns, answer)
    if answer.done_ns is None:
        answer.done_ns = time.monotonic_ns()
    for data in events.close():
        is_whole |= _take(data, answer.done_ns, answer)
    answer.parsed_ns = time.monotonic_ns()
    if not is_whole:
        raise RequestFailed(Failure.CLOSED_MID_STREAM, "no end of the answer, but of the stream")


def _take(data: bytes, now_ns: int, answer: Answer) -> bool:
    """Note one event; True if the answer is whole with it."""
    if data == DONE:
        return True
    chunk = read_chunk(data)
    if chunk.has_text:
        answer.token_ns.append(now_ns)
    if chunk.prompt_tokens is not None:
        answer.prompt_tokens = chunk.prompt_tokens
    if chunk.output_tokens is not None:
        answer.output_tokens = chunk.output_tokens
    return chunk.is_last


class _Body(aiohttp.payload.Payload):
    """A body that knows when its last byte was handed to the kernel."""

    def __init__(self, body: bytes, answer: Answer) -> None:
        super().__init__(body, content_type="application/json")
        self._size = len(body)
        self._body = body
        self._answer = answer

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return the body as text; aiohttp's debug output asks for it."""
        return self._body.decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send the body; aiohttp calls it once the connection is open."""
        assert isinstance(writer, StreamWriter)
        if writer.transport is not None:
            # Without it, "drained" means that up to 64 KiB are still in this process.
            writer.transport.set_write_buffer_limits(high=0)
        await writer.write(self._body, drain=False)
        await writer.drain()
        self._answer.sent_ns = time.monotonic_ns()


async def _connected(_session: object, context: SimpleNamespace, _parameters: object) -> None:
    answer: Answer = context.trace_request_ctx
    answer.connected_ns = time.monotonic_ns()


def _kind(error: aiohttp.ClientError | OSError, answer: Answer) -> str:
    """Tell failures apart by type and errno, never by their words."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return Failure.DNS
    if isinstance(error, aiohttp.ClientSSLError):
        return Failure.TLS
    if answer.headers_ns is not None:
        return Failure.CLOSED_MID_STREAM
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return Failure.CLOSED_EARLY
    if isinstance(error, aiohttp.ClientResponseError):
        return Failure.BAD_HTTP
    # aiohttp's own for a connection that is closing has no errno, and may come wrapped.
    if isinstance(error, ConnectionResetError) or isinstance(error.__cause__, ConnectionResetError):
        return Failure.RESET
    if isinstance(error, OSError):
        return _KINDS.get(error.errno or 0, Failure.OTHER)
    return Failure.OTHER
