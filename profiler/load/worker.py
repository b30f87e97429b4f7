"""``python -m profiler.load.worker``: the process that makes the load, started by `runner`.

It reads a plan on its standard input, warms the server up, says ``ready``, waits for ``go``, and
writes a line of JSON on its standard output now and then. It stops early at the line ``stop`` and
when its input ends, so it does not outlive who started it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Final

from collectors.schema import OK, REQUESTS, WARM_UP
from collectors.stream import StreamWriter
from probes.descriptors import allow_many_descriptors
from profiler.load.answer import Answer, to_batch
from profiler.load.bodies import Bodies
from profiler.load.driver import drive
from profiler.load.http_client import Client
from profiler.load.meter import Meter
from profiler.load.plan import Plan, read_plan
from profiler.load.scenario import WarmUp

_PROGRESS_NS: Final = 250_000_000
# A quarter of a millisecond's work in the loop that also sends requests.
_ROWS_AT_ONCE: Final = 64
_INPUT_BYTES: Final = 1 << 16


class Orders:
    """What is told on the standard input after the plan."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.stop = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sys.stdin.fileno(), self._read)

    def _read(self) -> None:
        words = os.read(sys.stdin.fileno(), _INPUT_BYTES)
        if b"go" in words:
            self.go.set()
        if b"stop" in words or not words:
            self.stop.set()
            self._loop.remove_reader(sys.stdin.fileno())


class Worker:
    """One run of a plan, in this process; create it in its event loop."""

    def __init__(self, plan: Plan, client: Client, orders: Orders) -> None:
        self._plan = plan
        self._client = client
        self._orders = orders
        self._bodies = Bodies(plan)
        self._rows = StreamWriter(plan.rows_path, REQUESTS)
        self._write_errno: int | None = None
        self._pending: list[Answer] = []
        self._statuses: Counter[str] = Counter()
        self._details: dict[str, str] = {}
        self._begun_count = 0
        self._progress_ns = 0

    async def run(self) -> None:
        """Warm up, wait for the word, make the load, and report."""
        stop = self._orders.stop
        if await _unless(stop, self._warm_up()):
            _say({"event": "ready"})
            await _unless(stop, self._orders.go.wait())
        # What lives until now lives to the end: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        meter = Meter(self._tick)
        meter.start()
        is_whole = await _unless(stop, drive(self._plan.scenario, self._ask))
        client_load = meter.stop()
        self._flush()
        self._rows.close()
        _say(
            {
                "event": "end",
                "is_whole": is_whole,
                "client": asdict(client_load),
                "details": self._details,
                "write_errno": self._write_errno,
            }
        )

    async def _warm_up(self) -> None:
        warm_up = self._plan.scenario.warm_up
        for number in range(warm_up.requests):
            key = f"{WARM_UP}-{number}"
            answer = Answer(f"{self._plan.run}-{key}", WARM_UP, time.monotonic_ns())
            await self._send(answer, key, warm_up)

    async def _ask(self, number: int, due_ns: int | None) -> Answer:
        """Send request ``number``; `driver.Ask`."""
        self._begun_count += 1
        answer = Answer(
            f"{self._plan.run}-{number:06d}",
            self._plan.scenario.name,
            time.monotonic_ns() if due_ns is None else due_ns,
        )
        try:
            await self._send(answer, str(number))
        finally:
            self._statuses[answer.status] += 1
        return answer

    async def _send(self, answer: Answer, key: str, warm_up: WarmUp | None = None) -> None:
        answer.begun_ns = time.monotonic_ns()
        fields = self._bodies.make(key, warm_up)
        answer.built_ns = time.monotonic_ns()
        body = json.dumps(fields).encode()
        answer.serialised_ns = time.monotonic_ns()
        try:
            await self._client.ask(body, answer, self._plan.scenario.timeout_s)
        finally:
            self._keep(answer)

    def _keep(self, answer: Answer) -> None:
        if answer.status != OK:
            self._details.setdefault(answer.status, answer.detail)
        self._pending.append(answer)
        if len(self._pending) >= _ROWS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        try:
            self._rows.write(to_batch(self._pending))
        except OSError as error:  # a full disk: what is written is kept, and more is no use
            self._write_errno = error.errno
            self._orders.stop.set()
        self._pending = []

    def _tick(self) -> None:
        now_ns = time.monotonic_ns()
        if now_ns < self._progress_ns:
            return
        self._progress_ns = now_ns + _PROGRESS_NS
        self._flush()
        statuses = dict(self._statuses)
        _say({"event": "progress", "begun_count": self._begun_count, "statuses": statuses})


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, object]) -> bool:
    """Do ``work`` to its end, which is True; leave it, cancelled, once ``stop`` is set."""
    if stop.is_set():
        work.close()
        return False
    task = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait([task, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if task.done():
        await task  # for what it raised
        return True
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return False


def _say(message: dict[str, Any]) -> None:
    with suppress(BrokenPipeError):
        os.write(sys.stdout.fileno(), json.dumps(message).encode() + b"\n")


def _read_plan() -> Plan:
    """Read the first line and no byte more; the orders come behind it."""
    line = bytearray()
    while not line.endswith(b"\n") and (byte := os.read(sys.stdin.fileno(), 1)):
        line += byte
    return read_plan(bytes(line))


async def _work(plan: Plan) -> None:
    async with Client(plan.endpoint, plan.scenario.kind.path) as client:
        await Worker(plan, client, Orders()).run()


def main() -> None:
    """Read the plan and carry it out."""
    allow_many_descriptors()
    asyncio.run(_work(_read_plan()))


if __name__ == "__main__":
    main()
