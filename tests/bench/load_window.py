"""The load of one window: chat completions over one shared prompt, timed from outside."""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import dataclass
from typing import Final, Protocol

from light_client import Answer, Connection

from profiler.load.prompts import make_prompt

WARM_UP_S: Final = 4.0  # twice the time the governor needs to see that the host is saturated
DRAIN_S: Final = 30.0
PROMPT_CHARS: Final = 32_000
MAX_TOKENS: Final = 16
USER_COUNT: Final = 32


class Reader(Protocol):
    """Something that is read at both ends of a window."""

    def begin(self) -> None:
        """Read at the beginning."""

    def end(self) -> None:
        """Read at the end."""


@dataclass(frozen=True)
class Situation:
    """How the server is loaded; ``rate_hz`` None is a closed loop of 32 users."""

    name: str
    rate_hz: float | None


class LoadWindow:
    """Chat completions over one shared prompt, from this process, timed per request."""

    def __init__(
        self, url: str, situation: Situation, seed: int, seconds: float,
        warm_up_s: float = WARM_UP_S,
    ) -> None:  # fmt: skip
        self._url = url
        self._warm_up_s = warm_up_s
        self._situation = situation
        self._seed = seed
        self._seconds = seconds
        self._answers: list[Answer] = []
        self.error_count = 0
        self._body = json.dumps(
            {
                "model": "tiny",
                "messages": [{"role": "user", "content": make_prompt(PROMPT_CHARS, "bench")}],
                "max_tokens": MAX_TOKENS,
                "ignore_eos": True,
                "stream": True,
                "temperature": 0.0,
            }
        ).encode()

    async def run(self, meter: Reader) -> None:
        """Load the server, and read ``meter`` when the warm-up ends and when the window ends."""
        began_ns = time.monotonic_ns()
        self.begin_ns = began_ns + round(self._warm_up_s * 1e9)
        self.end_ns = self.begin_ns + round(self._seconds * 1e9)
        if self._situation.rate_hz is None:
            users = [asyncio.create_task(self._chat()) for _ in range(USER_COUNT)]
        else:
            users = [asyncio.create_task(self._once(due)) for due in self._schedule(began_ns)]
        await asyncio.sleep(_seconds_until(self.begin_ns))
        meter.begin()
        await asyncio.sleep(_seconds_until(self.end_ns))
        meter.end()
        done, late = await asyncio.wait(users, timeout=DRAIN_S)
        # A user whose request failed asks no more, which the count must not hide.
        self.error_count += len(late) + sum(user.exception() is not None for user in done)
        for user in late:
            user.cancel()

    @property
    def latencies_s(self) -> list[float]:
        """How long the requests took that were due in the window."""
        return self.latencies_between_s(self.begin_ns, self.end_ns)

    def latencies_between_s(self, start_ns: int, end_ns: int) -> list[float]:
        """How long the requests took that were due then."""
        return [
            answer.done_ns / 1e9 for answer in self._answers if start_ns <= answer.due_ns < end_ns
        ]

    @property
    def finished_count(self) -> int:
        """How many requests were finished in the window."""
        ends_ns = (answer.due_ns + answer.done_ns for answer in self._answers)
        return sum(self.begin_ns <= end_ns < self.end_ns for end_ns in ends_ns)

    def _schedule(self, began_ns: int) -> list[int]:
        """Return arrivals that rarely meet, so that a latency is that of one request."""
        chooser = random.Random(self._seed)
        assert self._situation.rate_hz is not None
        period_ns = 1e9 / self._situation.rate_hz
        count = int((self.end_ns - began_ns) / period_ns)
        return [
            began_ns + round((number + chooser.uniform(0.0, 0.6)) * period_ns)
            for number in range(count)
        ]

    async def _chat(self) -> None:
        connection = Connection(self._url)
        while time.monotonic_ns() < self.end_ns:
            await self._ask(connection, time.monotonic_ns())
        connection.close()

    async def _once(self, due_ns: int) -> None:
        await asyncio.sleep(_seconds_until(due_ns))
        connection = Connection(self._url)
        await self._ask(connection, due_ns)
        connection.close()

    async def _ask(self, connection: Connection, due_ns: int) -> None:
        answer = Answer(due_ns)
        await connection.ask(self._body, answer)
        self._answers.append(answer)


def _seconds_until(time_ns: int) -> float:
    return max(0.0, (time_ns - time.monotonic_ns()) / 1e9)
