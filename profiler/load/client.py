"""A small load client: streaming completions, closed loop (N users) or open loop (fixed rate).

``python -m profiler.load.client --url http://127.0.0.1:8000 --users 32 --seconds 15`` prints JSON.
In the open loop requests start on a Poisson schedule that never waits for answers, and latency
counts from the scheduled instant, so a slow server cannot hide its own queue.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from profiler.load.prompts import make_prompt

_DRAIN_S: Final = 30.0  # requests in flight at the end may take this long before they are cut off
_EMPTY_TEXTS: Final = ("", None)


@dataclass(frozen=True, slots=True)
class Plan:
    """What load to make; ``rate_hz`` None means a closed loop of ``users``."""

    url: str
    model: str | None
    users: int
    rate_hz: float | None
    prompt_chars: int
    shares_prompt: bool
    max_tokens: int
    seconds: float
    seed: int


@dataclass(slots=True)
class Answer:
    """What the client saw of one request; ns since it was due, 0: never seen."""

    due_ns: int
    headers_ns: int = 0
    first_text_ns: int = 0
    done_ns: int = 0
    chunk_count: int = 0


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
        answer.headers_ns = time.monotonic_ns() - answer.due_ns
        if status.split(" ")[1:2] != ["200"]:
            raise ServerError(status)
        while chunk_bytes := int(await reader.readline(), 16):
            chunk = await reader.readexactly(chunk_bytes + 2)
            answer.chunk_count += 1
            if not answer.first_text_ns and _has_text(chunk):
                answer.first_text_ns = time.monotonic_ns() - answer.due_ns
        await reader.readexactly(2)
        answer.done_ns = time.monotonic_ns() - answer.due_ns


def _has_text(chunk: bytes) -> bool:
    """Whether a chunk of server-sent events carries generated text."""
    for line in chunk.split(b"\n"):
        if line.startswith(b"data: {"):
            choices = json.loads(line[6:])["choices"]
            if any(choice["delta"].get("content") not in _EMPTY_TEXTS for choice in choices):
                return True
    return False


class Load:
    """One run of a plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._answers: list[Answer] = []
        self._errors: Counter[str] = Counter()
        self._request_count = 0
        self._shared = make_prompt(plan.prompt_chars, f"{plan.seed}") if plan.shares_prompt else ""

    async def run(self) -> dict[str, Any]:
        """Make the load and report on it."""
        started_ns = time.monotonic_ns()
        end_ns = started_ns + round(self._plan.seconds * 1e9)
        users = self._start_users(started_ns, end_ns)
        _, late = await asyncio.wait(users, timeout=self._plan.seconds + _DRAIN_S)
        for user in late:
            user.cancel()
        self._errors["not finished in time"] += len(late)
        return self._report((time.monotonic_ns() - started_ns) / 1e9)

    def _start_users(self, started_ns: int, end_ns: int) -> list[asyncio.Task[None]]:
        if self._plan.rate_hz is None:
            return [asyncio.create_task(self._closed(end_ns)) for _ in range(self._plan.users)]
        chooser = random.Random(self._plan.seed)
        tasks = []
        due_ns = started_ns
        while (due_ns := due_ns + round(chooser.expovariate(self._plan.rate_hz) * 1e9)) < end_ns:
            tasks.append(asyncio.create_task(self._once(due_ns)))
        return tasks or [asyncio.create_task(asyncio.sleep(0))]

    async def _closed(self, end_ns: int) -> None:
        connection = Connection(self._plan.url)
        while time.monotonic_ns() < end_ns:
            if not await self._ask(connection, time.monotonic_ns()):
                await asyncio.sleep(0.1)  # a server that refuses is not hammered
        connection.close()

    async def _once(self, due_ns: int) -> None:
        await asyncio.sleep((due_ns - time.monotonic_ns()) / 1e9)
        connection = Connection(self._plan.url)
        await self._ask(connection, due_ns)
        connection.close()

    async def _ask(self, connection: Connection, due_ns: int) -> bool:
        body = self._body()
        answer = Answer(due_ns)
        try:
            await connection.ask(body, answer)
        except (ServerError, OSError, EOFError, ValueError) as error:
            self._errors[
                str(error) if isinstance(error, ServerError) else type(error).__name__
            ] += 1
            return False
        self._answers.append(answer)
        return True

    def _body(self) -> bytes:
        self._request_count += 1
        seed = f"{self._plan.seed}-{self._request_count}"
        prompt = self._shared or make_prompt(self._plan.prompt_chars, seed)
        fields: dict[str, Any] = {
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": self._plan.max_tokens,
            "stream": True,
            "temperature": 0.0,
        }
        if self._plan.model is not None:
            fields["model"] = self._plan.model
        return json.dumps(fields).encode()

    def _report(self, wall_s: float) -> dict[str, Any]:
        answers = self._answers
        return {
            "request_count": len(answers),
            "error_count": sum(self._errors.values()),
            "errors": {name: count for name, count in self._errors.items() if count},
            "wall_seconds": wall_s,
            "requests_per_second": len(answers) / wall_s,
            "headers_seconds": _percentiles([answer.headers_ns for answer in answers]),
            "ttft_seconds": _percentiles(
                [answer.first_text_ns for answer in answers if answer.first_text_ns]
            ),
            "latency_seconds": _percentiles([answer.done_ns for answer in answers]),
            "client_cpu_seconds": time.process_time(),
        }


def _percentiles(values_ns: list[int]) -> dict[str, float] | None:
    """Mean and nearest-rank percentiles in seconds; None when there is nothing to rank."""
    if not values_ns:
        return None
    ranked = sorted(values_ns)
    found = {"mean": sum(ranked) / len(ranked) / 1e9}
    for percent in (50, 95, 99):
        rank = -(-percent * len(ranked) // 100)
        found[f"p{percent}"] = ranked[rank - 1] / 1e9
    return found


def parse_plan(arguments: list[str] | None = None) -> Plan:
    """The command line as a plan."""
    parser = argparse.ArgumentParser(prog="profiler.load.client", description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", help="sent with each request; by default none is")
    parser.add_argument("--users", type=int, default=32, help="closed loop")
    parser.add_argument("--rate-hz", type=float, help="open loop: requests per second")
    parser.add_argument("--prompt-chars", type=int, default=32_000)
    parser.add_argument("--shared-prompt", action="store_true", help="one prompt for all")
    parser.add_argument("--max-tokens", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="the only format; for clarity")
    options = parser.parse_args(arguments)
    return Plan(
        url=options.url,
        model=options.model,
        users=options.users,
        rate_hz=options.rate_hz,
        prompt_chars=options.prompt_chars,
        shares_prompt=options.shared_prompt,
        max_tokens=options.max_tokens,
        seconds=options.seconds,
        seed=options.seed,
    )


def main() -> None:
    """Run the plan of the command line and print its report."""
    print(json.dumps(asyncio.run(Load(parse_plan()).run())))


if __name__ == "__main__":
    main()
