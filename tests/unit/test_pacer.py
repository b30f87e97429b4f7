"""A pacer ticks until it is stopped, whatever a tick meets."""

from __future__ import annotations

import errno
import threading
from itertools import pairwise

import pytest

from probes.pacer import Pacer


def refuse(error: OSError) -> None:
    raise AssertionError(f"unexpected: {error}")


def test_it_ticks_at_once_and_again_until_stopped():
    # Given
    ticks: list[int] = []
    third = threading.Event()

    def tick(now_ns: int) -> None:
        ticks.append(now_ns)
        if len(ticks) == 3:
            third.set()

    pacer = Pacer("test", 1000.0, tick, refuse)

    # When
    pacer.start()
    assert third.wait(20)
    pacer.stop()

    # Then
    assert ticks == sorted(set(ticks))
    assert pacer.tick_count == len(ticks)
    assert (pacer.first_ns, pacer.last_ns) == (ticks[0], ticks[-1])
    gaps_ns = [after - before for before, after in pairwise(ticks)]
    assert pacer.largest_gap_ns == max(gaps_ns)
    expected_hz = (len(ticks) - 1) * 1e9 / (ticks[-1] - ticks[0])
    assert pacer.achieved_hz == pytest.approx(expected_hz)


def test_one_tick_is_no_rate():
    ticked = threading.Event()
    pacer = Pacer("test", 0.001, lambda _now_ns: ticked.set(), refuse)

    pacer.start()
    assert ticked.wait(20)
    pacer.stop()

    assert pacer.tick_count == 1
    assert pacer.achieved_hz is None


def test_what_the_system_refuses_is_handed_on_and_the_next_tick_tries_again():
    # Given a tick that fails at first
    met: list[OSError] = []
    recovered = threading.Event()

    def tick(_now_ns: int) -> None:
        if not met:
            raise OSError(errno.EMFILE, "")
        recovered.set()

    pacer = Pacer("test", 1000.0, tick, met.append)

    # When
    pacer.start()
    assert recovered.wait(20)
    pacer.stop()

    # Then
    assert [error.errno for error in met] == [errno.EMFILE]


def test_ticks_that_were_missed_are_not_made_up_for(monkeypatch):
    # Given a clock under our control, and a tick that takes three periods and a half
    clock = FakeClock(period_ns=10_000_000)
    monkeypatch.setattr("probes.pacer.time", clock)
    pacer = Pacer("test", 100.0, clock.slow_tick, refuse)
    monkeypatch.setattr(pacer, "_stopping", clock)

    # When
    pacer.start()
    pacer._thread.join(20)

    # Then the ticks fall on the grid, at each fourth point of it
    assert [at // clock.period_ns for at in clock.ticks] == [0, 4, 8]
    assert all(at % clock.period_ns == 0 for at in clock.ticks)


class FakeClock:
    """Time passes only in a tick and while waiting; the wait after the third tick ends it."""

    def __init__(self, period_ns: int) -> None:
        self.period_ns = period_ns
        self.now_ns = 0
        self.ticks: list[int] = []

    def monotonic_ns(self) -> int:
        return self.now_ns

    def slow_tick(self, now_ns: int) -> None:
        self.ticks.append(now_ns)
        self.now_ns += self.period_ns * 7 // 2

    def wait(self, seconds: float) -> bool:
        self.now_ns += round(seconds * 1e9)
        return len(self.ticks) == 3
