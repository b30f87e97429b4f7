"""The thread in each process that keeps its history and answers questions about it.

It also ends its process when the server has outlived its time, so that nothing stays behind even
when the main thread hangs.
"""

from __future__ import annotations

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
    question = control.recv(_QUESTION_BYTES_MAX)
    if not question:
        os._exit(0)  # the server is gone
    reply = answer(history, json.loads(question))
    control.sendall(json.dumps(reply).encode() + b"\n")
