"""Busy waiting by giving way: counted apart from preemption."""

from __future__ import annotations

import pytest
from captures import SCHEDULE, SPIN
from sched_captures import BLOCKED, PREEMPTED, YIELDED, SchedBuilder

from analyzers.sched.yields import finding, yield_rows
from analyzers.timeline import Timeline


def made_storm(rate_hz: int = 2_000) -> SchedBuilder:
    """A thread that runs 0.3 ms, gives way for 0.1 ms, and so on for a second; then works 1 s."""
    made = SchedBuilder(seconds=2)
    thread = made.thread(made.process("worker", pid=5), tid=1)
    made.run(thread, 0, 1000, SPIN)
    made.run(thread, 1000, 2000, SCHEDULE)
    for number in range(rate_hz):
        begun = number * 1000 / rate_hz
        made.stay(thread, begun, begun + 0.3, YIELDED)
    made.stay(thread, 1000, 1500, PREEMPTED)
    made.stay(thread, 1600, 2000, BLOCKED)
    for ms in (0, 1000, 2000):
        made.look(thread, ms, run=0.6 * ms, wait=0)
    return made


def test_yields_are_counted_with_what_they_burnt() -> None:
    (row,) = yield_rows(Timeline(made_storm().build()))

    assert (row["pid"], row["role"]) == (5, "worker")
    assert row["yield_count"] == 2000
    assert row["yield_rate_hz"] == pytest.approx(1000)  # over two seconds
    assert row["preempted_count"] == 1
    assert row["cpu_seconds"] == pytest.approx(0.6)
    assert row["away_seconds"] == pytest.approx(0.4)
    assert row["spin_wait_seconds"] == pytest.approx(0.6)


def test_a_storm_is_a_finding_that_says_it_is_no_preemption() -> None:
    claim = finding(Timeline(made_storm().build()))

    assert claim is not None
    assert "1,000 times a second in the worker (PID 5): 0.60 s" in claim.statement
    assert "no preemptions" in claim.statement


def test_a_few_yields_are_none() -> None:
    assert finding(Timeline(made_storm(rate_hz=100).build())) is None
