"""The thread in each process that keeps its history and answers questions about it.

It also ends its process when the server has outlived its time, so that nothing stays behind even
when the main thread hangs.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import select
import socket
import threading
import time
from typing import Any, Final

from profiler.oracle.stages import Stage
from profiler.oracle.truth.history import TICK_NS, History
from profiler.oracle.truth.ledger import staged
from profiler.oracle.truth.timed import wait_readable

_QUESTION_BYTES_MAX: Final = 4096
_ANSWER_BYTES: Final = 1 << 16
_ANSWER_TIMEOUT_S: Final = 5.0


def start_control(history: History, control: socket.socket | None, deadline_ns: int) -> None:
    """Start the thread; ``control`` carries one JSON question and one answer per line."""
    threading.Thread(
        target=_run, args=(history, control, deadline_ns), name="truth", daemon=True
    ).start()


def answer(history: History, question: dict[str, Any]) -> dict[str, Any]:
    """Answer ``{"cut": true}`` or ``{"window": [start_ns, end_ns]}``; errors are answers too."""
    if "window" not in question:
        return {"time_ns": history.take()}
    start_ns, end_ns = question["window"]
    try:
        return {"truth": history.window(start_ns, end_ns)}
    except ValueError as error:
        return {"error": str(error)}


def _run(history: History, control: socket.socket | None, deadline_ns: int) -> None:
    poller = select.poll()
    if control is not None:
        poller.register(control, select.POLLIN)
    next_tick_ns = time.monotonic_ns()
    while True:
        now_ns = time.monotonic_ns()
        if now_ns >= deadline_ns:
            os._exit(0)
        if now_ns >= next_tick_ns:
            history.take()
            next_tick_ns = max(next_tick_ns + TICK_NS, now_ns)
        wait_ms = max(0, next_tick_ns - time.monotonic_ns()) // 1_000_000 + 1
        if wait_readable(poller, wait_ms) and control is not None:
            serve_truth(history, control)


@staged(Stage.TRUTH)
def serve_truth(history: History, control: socket.socket) -> None:
    """Answer one question; the asker waits for the answer before it asks again."""
    received = control.recv(_QUESTION_BYTES_MAX)
    if not received:
        os._exit(0)  # the server is gone
    question = json.loads(received)
    reply = answer(history, question) | {"number": question["number"]}
    control.sendall(json.dumps(reply).encode() + b"\n")


class Asker:
    """The API server's end of another process's control socket; one question at a time."""

    def __init__(self, control: socket.socket) -> None:
        control.setblocking(False)
        self._control = control
        self._numbers = itertools.count(1)
        self._received = bytearray()
        self._turn = asyncio.Lock()

    async def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Return the answer (see `answer`).

        Raises TimeoutError when the process does not answer, ConnectionError when it is gone. An
        answer that comes after its question was given up is dropped.
        """
        loop = asyncio.get_running_loop()
        number = next(self._numbers)
        async with self._turn, asyncio.timeout(_ANSWER_TIMEOUT_S):
            text = json.dumps(question | {"number": number})
            await loop.sock_sendall(self._control, text.encode())
            while True:
                reply: dict[str, Any] = json.loads(await self._line(loop))
                if reply["number"] == number:
                    return reply

    async def _line(self, loop: asyncio.AbstractEventLoop) -> bytes:
        while (end := self._received.find(b"\n")) < 0:
            received = await loop.sock_recv(self._control, _ANSWER_BYTES)
            if not received:
                raise ConnectionError("the process has closed its control socket")
            self._received += received
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line
