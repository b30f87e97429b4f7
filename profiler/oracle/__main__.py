"""``python -m profiler.oracle``: start all three roles and serve until told to stop.

Prints one line of JSON when the server is ready: its URL and the PIDs by role.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any, Final

from profiler.oracle.api_server import ApiServer
from profiler.oracle.engine_client import EngineClient
from profiler.oracle.frames import Channel
from profiler.oracle.http import HttpConnection
from profiler.oracle.lifetime import die_with_parent, end_child, spawn
from profiler.oracle.spans import DELAY_MS, Receiver, SpanExporter
from profiler.oracle.tokenizer import TokenizerThread, encode_releases_gil, load_tokenizer
from profiler.oracle.truth.control import Asker, start_control
from profiler.oracle.truth.history import History
from profiler.oracle.truth.ledger import own_the_gil
from profiler.oracle.truth.timed import TimedSelector, time_sockets

# The children and the truth thread give up this long after the server should have stopped.
_OVERTIME_NS: Final = 10_000_000_000


def main() -> int:
    """Run the server; the exit code is 1 when the engine was lost."""
    parser = argparse.ArgumentParser(prog="profiler.oracle", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--truth", type=Path, help="write the truth here when the server stops")
    parser.add_argument("--max-seconds", type=float, default=600.0, help="stop by then")
    parser.add_argument("--device-ms", type=float, default=12.0, help="least duration of a step")
    parser.add_argument("--ghosts", type=int, default=0, help="pretended sequences in each step")
    parser.add_argument(
        "--otlp-endpoint",
        type=Receiver.parse,
        help="send a span per request: http://HOST:PORT/PATH",
    )
    parser.add_argument(
        "--otlp-delay-ms", type=int, default=DELAY_MS, help="for so long spans gather"
    )
    parser.add_argument("--die-with-parent", action="store_true")
    options = parser.parse_args()
    if options.ghosts < 0:
        parser.error("--ghosts: must not be negative")
    if options.die_with_parent:
        die_with_parent(os.getppid(), signal.SIGTERM)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # all of a prompt's work on its own thread
    time_sockets()
    own_the_gil()
    with asyncio.Runner(loop_factory=_make_loop) as runner:
        return runner.run(_serve(options))


def _make_loop() -> asyncio.AbstractEventLoop:
    return asyncio.SelectorEventLoop(TimedSelector())


async def _serve(options: argparse.Namespace) -> int:
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[int] = loop.create_future()

    def stop_with(code: int) -> None:
        if not stop.done():
            stop.set_result(code)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop_with, 0)
    loop.call_later(options.max_seconds, stop_with, 0)
    deadline_ns = time.monotonic_ns() + round(options.max_seconds * 1e9) + _OVERTIME_NS

    pairs = {
        name: socket.socketpair() for name in ("requests", "outputs", "control", "worker-control")
    }
    arguments = [f"--{name}-fd={theirs.fileno()}" for name, (_, theirs) in pairs.items()]
    child = spawn(
        "profiler.oracle.engine_core",
        [
            *arguments,
            f"--deadline-ns={deadline_ns}",
            f"--device-ns={round(options.device_ms * 1e6)}",
            f"--ghosts={options.ghosts}",
        ],
        [theirs.fileno() for _, theirs in pairs.values()],
    )
    for _, theirs in pairs.values():
        theirs.close()
    askers = [Asker(pairs[name][0]) for name in ("control", "worker-control")]
    tokenizer = load_tokenizer()
    releases_gil = encode_releases_gil(tokenizer)
    exporter = None
    if options.otlp_endpoint is not None:
        exporter = SpanExporter(options.otlp_endpoint, options.otlp_delay_ms)
        exporter.start()
    engine = EngineClient(
        Channel(pairs["requests"][0]),
        Channel(pairs["outputs"][0]),
        tokenizer,
        on_lost=lambda: stop_with(1),
        on_finished=None if exporter is None else exporter.export,
    )
    engine.start()
    try:
        waiting: list[asyncio.Future[Any]] = [engine.ready, stop]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if not engine.ready.done():
            return stop.result()
        history = History("api_server")
        start_control(history, None, deadline_ns)
        thread = TokenizerThread(tokenizer, releases_gil=releases_gil)
        thread.start()
        server = ApiServer(engine, thread, history, askers, {"encode_releases_gil": releases_gil})
        listener = socket.create_server((options.host, options.port))
        # asyncio sets it only on sockets that say they are TCP; without it tokens leave in bunches.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        http = await loop.create_server(lambda: HttpConnection(server.handle), sock=listener)
        host, port = listener.getsockname()[:2]
        pids = {"api_server": os.getpid(), **engine.ready.result()}
        print(json.dumps({"url": f"http://{host}:{port}", "pids": pids}), flush=True)
        code = await stop
        http.close()
        if options.truth is not None and code == 0:
            options.truth.write_text(json.dumps(await server.truth()))
        return code
    finally:
        engine.close()
        end_child(child)
        if exporter is not None:
            exporter.close()


if __name__ == "__main__":
    sys.exit(main())
