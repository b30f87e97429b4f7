"""The governor: a rate that the idle CPU pays for, down fast and up slowly."""

from __future__ import annotations

import pytest

from probes.governor import (
    EASE_NS,
    FIRST_WINDOW_NS,
    FLOOR_SHARE,
    LOWEST_HZ,
    SPARE_SHARE,
    Governor,
    WakeGovernor,
)

MS = 1_000_000
SECOND = 1_000 * MS
CPUS = 2


class FakeHost:
    """Counts idle time as it is told."""

    def __init__(self) -> None:
        self.idle = 0

    def idle_ns(self) -> tuple[int, int]:
        return self.idle, 0


class Watch:
    """A governor at 100 Hz that looks five times a second at a host with so many idle CPUs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, round_ns: float) -> None:
        monkeypatch.setattr("probes.governor.os.cpu_count", lambda: CPUS)
        self.host = FakeHost()
        self.governor = Governor(100, self.host)
        self.round_ns = round_ns
        self.now_ns = 77 * SECOND
        self.recorder_ns = 0

    def run(self, seconds: float, *, idle_cpus: float, recorder_cpus: float = 0.0) -> int:
        for _ in range(round(seconds * 5)):
            self.governor.look(self.now_ns, self.recorder_ns, self.round_ns)
            self.now_ns += 200 * MS
            self.host.idle += round(200 * MS * idle_cpus)
            self.recorder_ns += round(200 * MS * recorder_cpus)
        self.governor.look(self.now_ns, self.recorder_ns, self.round_ns)
        return self.governor.rate_hz


@pytest.fixture
def watch(monkeypatch):
    return Watch(monkeypatch, round_ns=1_000_000)


def test_an_idle_host_is_sampled_as_asked(watch):
    assert watch.run(5, idle_cpus=2.0) == 100


def test_the_first_look_settles_nothing(watch):
    watch.governor.look(watch.now_ns, 0, 1e12)
    watch.governor.look(watch.now_ns + FIRST_WINDOW_NS - 1, 0, 1e12)

    assert watch.governor.rate_hz == 100


def test_a_saturated_host_leaves_the_floor(watch):
    # 2 % of two CPUs at 1 ms a round are 40 Hz: of the steps 100, 50, 20, 10 it buys 20
    assert FLOOR_SHARE * CPUS * 1e9 / watch.round_ns == 40
    assert watch.run(3, idle_cpus=0.0) == 20


def test_a_dear_sample_lowers_the_rate_to_what_a_share_of_the_idle_time_buys(watch):
    # a quarter of one CPU at 4 ms a round is 62 Hz
    watch.round_ns = 4_000_000
    assert SPARE_SHARE * 1e9 / watch.round_ns == 62.5

    assert watch.run(3, idle_cpus=1.0) == 50


def test_it_never_stops_looking(watch):
    watch.round_ns = 1e12

    assert watch.run(3, idle_cpus=0.0) == LOWEST_HZ


def test_what_the_recorders_use_is_theirs_to_use_again(watch):
    watch.round_ns = 4_000_000

    assert watch.run(3, idle_cpus=0.7, recorder_cpus=0.3) == 50


def test_it_goes_down_within_two_seconds_and_up_only_after_ten_with_room(watch):
    watch.run(5, idle_cpus=2.0)

    assert watch.run(2.2, idle_cpus=0.0) == 20
    assert watch.run(EASE_NS / SECOND - 1, idle_cpus=2.0) == 20
    assert watch.run(5, idle_cpus=2.0) == 100


def test_a_rate_below_the_lowest_stays_what_was_asked(monkeypatch):
    governor = Governor(3, FakeHost())

    for second in range(4):
        governor.look(second * SECOND, 0, 1e12)

    assert governor.rate_hz == 3


@pytest.mark.parametrize(("idle_cores", "rate_hz"), [(1.5, 1000.0), (0.8, 200.0), (0.0, 200.0)])
def test_a_light_sampler_wakes_less_where_little_is_spare(idle_cores, rate_hz):
    host = FakeHost()
    governor = WakeGovernor(1000.0, host, 5.0)  # type: ignore[arg-type]
    governor.look(0)

    host.idle += int(idle_cores * SECOND)

    assert governor.look(SECOND) == rate_hz


def test_a_light_sampler_speeds_up_only_after_a_quiet_while():
    host = FakeHost()
    governor = WakeGovernor(1000.0, host, 5.0)  # type: ignore[arg-type]
    governor.look(0)
    assert governor.look(SECOND) == 200.0

    seconds = 1 + EASE_NS // SECOND
    for second in range(2, seconds + 1):
        host.idle += 2 * SECOND
        assert governor.look(second * SECOND) == 200.0
    host.idle += 2 * SECOND

    assert governor.look((seconds + 1) * SECOND) == 1000.0
