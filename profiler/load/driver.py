"""Sends a scenario's requests: by users who wait for their answers, or by a clock that never does.

In the open loop a request's latency counts from when it was due, so neither a slow server nor a
late client can hide a queue (coordinated omission).
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from collectors.schema import OK
from profiler.load.alarm import Alarm
from profiler.load.answer import Answer
from profiler.load.arrivals import offsets_ns
from profiler.load.scenario import Scenario

# Sends request number ... that is due at ... (ns; None: when it is its turn) to the end.
Ask = Callable[[int, int | None], Awaitable[Answer]]

_BACK_OFF_S: Final = 0.1  # of a user whose request failed, doubled with each failure in a row
_BACK_OFF_MAX_S: Final = 1.0


async def drive(scenario: Scenario, ask: Ask) -> None:
    """Send all requests of ``scenario`` and return when the last one is over.

    When cancelled, so are the requests in flight.
    """
    if scenario.rate_hz is not None:
        await _by_the_clock(scenario, scenario.rate_hz, ask)
    elif scenario.batches is not None:
        await _in_batches(scenario.users or 1, scenario.batches, ask)
    else:
        await _by_users(scenario, ask)


async def _by_users(scenario: Scenario, ask: Ask) -> None:
    numbers = iter(_numbers(scenario))
    end_ns = _end_ns(scenario, time.monotonic_ns())

    async def use() -> None:
        back_off_s = _BACK_OFF_S
        for number in numbers:  # shared: each user takes the next one
            if time.monotonic_ns() >= end_ns:
                return
            answer = await ask(number, None)
            if answer.status == OK:
                back_off_s = _BACK_OFF_S
            else:
                await asyncio.sleep(back_off_s)
                back_off_s = min(2 * back_off_s, _BACK_OFF_MAX_S)

    async with asyncio.TaskGroup() as group:
        for _ in range(scenario.users or 1):
            group.create_task(use())


async def _in_batches(users: int, batches: int, ask: Ask) -> None:
    for batch in range(batches):
        async with asyncio.TaskGroup() as group:
            for user in range(users):
                group.create_task(_only(ask(batch * users + user, None)))


async def _by_the_clock(scenario: Scenario, rate_hz: float, ask: Ask) -> None:
    offsets = offsets_ns(
        scenario.arrivals, rate_hz, burst_count=scenario.burst_count, seed=scenario.seed
    )
    start_ns = time.monotonic_ns()
    end_ns = _end_ns(scenario, start_ns)
    dues_ns = (start_ns + offset_ns for offset_ns in offsets)
    schedule = zip(
        _numbers(scenario),
        itertools.takewhile(lambda due_ns: due_ns < end_ns, dues_ns),
        strict=False,
    )
    coming = next(schedule, None)
    all_sent = asyncio.Event()

    def send_due() -> None:
        nonlocal coming
        while coming is not None and coming[1] <= time.monotonic_ns():
            group.create_task(_only(ask(*coming)))
            coming = next(schedule, None)
        if coming is None:
            all_sent.set()
        else:
            alarm.set(coming[1])

    async with asyncio.TaskGroup() as group:
        with Alarm(send_due) as alarm:
            send_due()
            await all_sent.wait()


async def _only(asking: Awaitable[Answer]) -> None:
    await asking


def _numbers(scenario: Scenario) -> Iterator[int]:
    count = scenario.request_count
    return itertools.count() if count is None else iter(range(count))


def _end_ns(scenario: Scenario, start_ns: int) -> float:
    """When the last request may begin, CLOCK_MONOTONIC ns."""
    return float("inf") if scenario.seconds is None else start_ns + scenario.seconds * 1e9
