"""The least that can time a streamed chat: a window must not measure its own client.

It knows one shape of answer, chunked events as vLLM and the oracle send them.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(slots=True)
class Answer:
    """One request: when it was due, and how many ns later its answer was whole; 0: never."""

    due_ns: int
    done_ns: int = 0


class ServerError(Exception):
    """The server answered, but not with a stream of events; the message is the status line."""


class Connection:
    """A keep-alive connection of one user; opens itself when needed."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or "127.0.0.1"
        self._port = parts.port or 80
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, body: bytes, answer: Answer) -> None:
        """Send one chat completion and read its stream into ``answer``.

        Raises `ServerError`, OSError or asyncio.IncompleteReadError; the connection is then closed.
        """
        try:
            await self._ask(body, answer)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close without waiting."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _ask(self, body: bytes, answer: Answer) -> None:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        status = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n", 1)[0].decode()
        if status.split(" ")[1:2] != ["200"]:
            raise ServerError(status)
        while chunk_bytes := int(await reader.readline(), 16):
            await reader.readexactly(chunk_bytes + 2)
        await reader.readexactly(2)
        answer.done_ns = time.monotonic_ns() - answer.due_ns
