"""Who sends when: users wait for their answers, the clock waits for nobody."""

from __future__ import annotations

import asyncio
import time

import pytest

from collectors.schema import OK
from profiler.load.answer import Answer
from profiler.load.arrivals import Arrivals
from profiler.load.driver import drive
from profiler.load.failures import Failure
from profiler.load.scenario import Scenario

DEADLINE_S = 20.0


class FakeServer:
    """Answers when it is told to, or at once."""

    def __init__(self, *, is_open: bool = True, statuses: list[str] | None = None) -> None:
        self.asked: list[tuple[int, int | None]] = []
        self.asked_ns: list[int] = []
        self.in_flight_counts: list[int] = []
        self.in_flight_count = 0
        self.may_answer = asyncio.Event()
        self.changed = asyncio.Event()
        self._statuses = statuses or []
        if is_open:
            self.may_answer.set()

    async def ask(self, number: int, due_ns: int | None) -> Answer:
        self.asked.append((number, due_ns))
        self.asked_ns.append(time.monotonic_ns())
        self.in_flight_count += 1
        self.in_flight_counts.append(self.in_flight_count)
        self.changed.set()
        await self.may_answer.wait()
        await asyncio.sleep(0)
        self.in_flight_count -= 1
        status = self._statuses[number] if number < len(self._statuses) else OK
        return Answer("id", "scenario", due_ns or 0, status=status)

    async def until_asked(self, count: int) -> None:
        while len(self.asked) < count:
            self.changed.clear()
            await self.changed.wait()


def scenario(**fields: object) -> Scenario:
    return Scenario("test", prompt_chars=1, **fields)  # type: ignore[arg-type]


def run(test):
    return asyncio.run(asyncio.wait_for(test(), DEADLINE_S))


@pytest.mark.parametrize("arrivals", Arrivals)
def test_the_clock_sends_all_requests_while_none_is_answered(arrivals):
    async def test():
        # Given a server that answers nothing
        server = FakeServer(is_open=False)
        load = scenario(rate_hz=2_000.0, arrivals=arrivals, requests=100)

        # When the load is driven
        driving = asyncio.create_task(drive(load, server.ask))
        await server.until_asked(100)

        # Then every request was sent, none before it was due, and only then answers come
        assert server.in_flight_count == 100
        assert not driving.done()
        server.may_answer.set()
        await driving
        assert [number for number, _ in server.asked] == list(range(100))
        for (_, due_ns), asked_ns in zip(server.asked, server.asked_ns, strict=True):
            assert due_ns is not None
            assert due_ns <= asked_ns

    run(test)


def test_the_schedule_is_the_same_for_a_slow_server_and_a_fast_one():
    async def offsets(*, is_open: bool) -> list[int]:
        server = FakeServer(is_open=is_open)
        driving = asyncio.create_task(drive(scenario(rate_hz=5_000.0, requests=50), server.ask))
        await server.until_asked(50)
        server.may_answer.set()
        await driving
        dues = [due_ns for _, due_ns in server.asked if due_ns is not None]
        return [due_ns - dues[0] for due_ns in dues]

    async def test():
        assert await offsets(is_open=True) == await offsets(is_open=False)

    run(test)


def test_the_clock_stops_when_the_time_is_over():
    async def test():
        server = FakeServer()
        load = scenario(rate_hz=1_000.0, arrivals=Arrivals.UNIFORM, seconds=0.05)
        await drive(load, server.ask)
        assert len(server.asked) == 50

    run(test)


@pytest.mark.parametrize(("users", "requests"), [(1, 5), (4, 20), (8, 3)])
def test_users_wait_for_their_answers(users, requests):
    async def test():
        server = FakeServer()
        await drive(scenario(users=users, requests=requests), server.ask)
        assert sorted(number for number, _ in server.asked) == list(range(requests))
        assert max(server.in_flight_counts) == min(users, requests)

    run(test)


def test_users_ask_until_the_time_is_over():
    async def test():
        server = FakeServer()
        started_ns = time.monotonic_ns()
        await drive(scenario(users=2, seconds=0.05), server.ask)
        assert len(server.asked) > 2
        assert max(server.asked_ns) - started_ns < DEADLINE_S * 1e9

    run(test)


def test_a_batch_begins_when_the_one_before_is_over():
    async def test():
        server = FakeServer()
        await drive(scenario(users=4, batches=3), server.ask)
        assert server.in_flight_counts == [1, 2, 3, 4] * 3
        assert [number for number, _ in server.asked] == list(range(12))

    run(test)


def test_a_user_whose_request_failed_waits_before_the_next(monkeypatch):
    async def test():
        # Given a clock of our own
        waits_s: list[float] = []
        sleep = asyncio.sleep

        async def note(delay_s: float) -> None:
            waits_s.append(delay_s)
            await sleep(0)

        monkeypatch.setattr(asyncio, "sleep", note)
        failures: list[str] = [*[Failure.REFUSED] * 5, OK, Failure.RESET]
        server = FakeServer(statuses=failures)

        # When one user asks on
        await drive(scenario(users=1, requests=8), server.ask)

        # Then the waits grow to a second, and begin anew after an answer
        assert [wait_s for wait_s in waits_s if wait_s] == [0.1, 0.2, 0.4, 0.8, 1.0, 0.1]

    run(test)


@pytest.mark.parametrize(
    "load",
    [scenario(users=3, requests=9), scenario(users=3, batches=2), scenario(rate_hz=1e4, seconds=9)],
    ids=["users", "batches", "clock"],
)
def test_cancelling_takes_the_requests_in_flight_along(load):
    async def test():
        others = asyncio.all_tasks()
        server = FakeServer(is_open=False)
        driving = asyncio.create_task(drive(load, server.ask))
        await server.until_asked(3)
        driving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await driving
        assert asyncio.all_tasks() == others

    run(test)
