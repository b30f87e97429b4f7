"""Waiting for the GIL, and having it without a CPU, are told apart."""

from __future__ import annotations

import pytest
from captures import SCHEDULE
from sched_captures import BLOCKED, PREEMPTED, YIELDED, SchedBuilder

from analyzers.sched.gil_cpu import findings, rows
from analyzers.timeline import Timeline


class Core:
    """An engine core with two threads; the first has the GIL, the second wants it."""

    def __init__(self) -> None:
        self.made = SchedBuilder(seconds=1)
        self.process = self.made.process("engine_core", pid=7)
        self.first = self.made.thread(self.process, tid=71)
        self.second = self.made.thread(self.process, tid=72)

    def looks(
        self, start: int, end: int, holder: int | None, *, switch_count: int = 0, every: int = 1
    ) -> None:
        for ms in range(start, end, every):
            self.made.gil(
                self.process, ms, holder=holder, waiter_count=1, waiters=[self.second],
                switch_count=switch_count,
            )  # fmt: skip

    def row(self) -> dict[str, float]:
        (row,) = rows(Timeline(self.made.build()))
        return row


def test_a_holder_that_is_pushed_off_has_the_gil_and_no_cpu() -> None:
    core = Core()
    core.looks(0, 1000, core.first)
    core.made.run(core.first, 0, 1000, SCHEDULE)
    core.made.stay(core.first, 0, 300.5, PREEMPTED)
    core.made.stay(core.first, 400.5, 1000, BLOCKED)  # 100 ms without a CPU
    core.made.stay(core.second, 0, 1, BLOCKED)

    row = core.row()

    assert row["without_cpu_seconds"] == pytest.approx(0.1)
    assert row["without_cpu_low_seconds"] == row["without_cpu_high_seconds"] == pytest.approx(0.1)
    assert row["waited_seconds"] == pytest.approx(0.999)
    assert row["stalled_waiter_seconds"] == pytest.approx(0.1)
    assert row["threads"] == [{"tid": 71, "seconds": pytest.approx(0.1)}]
    assert row["stages"] == [{"stage": "schedule", "seconds": pytest.approx(0.1)}]
    (claim,) = findings(Timeline(core.made.build()))
    assert "had no CPU for 0.10 s (10% of the time), mostly in schedule" in claim.statement
    assert "of the 1.00 s that threads waited for the GIL 0.10 s" in claim.statement


def test_a_waiter_that_is_pushed_off_does_not_count() -> None:
    core = Core()
    core.looks(0, 1000, core.first)
    core.made.stay(core.first, 0, 1000, BLOCKED)
    core.made.stay(core.second, 0, 300, PREEMPTED)
    core.made.stay(core.second, 500, 1000, BLOCKED)

    row = core.row()

    assert row["without_cpu_seconds"] == row["without_cpu_high_seconds"] == 0
    assert findings(Timeline(core.made.build())) == []


def test_a_holder_that_gives_way_or_blocks_is_told_from_one_that_is_pushed_off() -> None:
    core = Core()
    core.looks(0, 1000, core.first)
    core.made.stay(core.first, 0, 99.5, YIELDED)
    core.made.stay(core.first, 109.5, 199.5, BLOCKED)
    core.made.stay(core.first, 249.5, 1000, BLOCKED, woken=239.5)

    row = core.row()

    assert row["yielded_holding_seconds"] == pytest.approx(0.010)
    assert row["blocked_holding_seconds"] == pytest.approx(0.050)
    assert row["without_cpu_seconds"] == 0


def test_a_short_gap_between_looks_is_the_holders_when_the_gil_did_not_change_hands() -> None:
    core = Core()
    core.looks(0, 500, core.first, every=2)
    core.looks(500, 1000, core.first, every=2, switch_count=8)
    core.made.stay(core.first, 0, 100.5, PREEMPTED)
    core.made.stay(core.first, 101.5, 498.5, PREEMPTED)  # 1 ms, surely without a CPU
    core.made.stay(core.first, 499.5, 1000, BLOCKED)  # 1 ms in which the GIL may have been away

    row = core.row()

    assert row["without_cpu_low_seconds"] == pytest.approx(0.001)
    assert row["without_cpu_high_seconds"] == pytest.approx(0.002)
    # Of what could be told, all was the holder's.
    assert row["without_cpu_seconds"] == pytest.approx(0.002)


def test_a_look_inside_a_gap_tells_of_the_whole_gap_and_costs_nothing_more() -> None:
    # A sampler that takes the holder's CPU each time it looks sees it without a CPU at every look,
    # though that is only so for 0.1 ms of each 10 ms.
    core = Core()
    core.looks(0, 1000, core.first, every=10)
    for ms in range(0, 1000, 10):
        core.made.stay(core.first, ms + 0.05, ms + 9.95, PREEMPTED)

    assert core.row()["without_cpu_seconds"] == pytest.approx(0.0099)


def test_a_process_whose_gil_was_not_looked_at_has_no_row() -> None:
    made = SchedBuilder(seconds=1)
    thread = made.thread(made.process("worker"), tid=1)
    made.stay(thread, 0, 10)

    assert rows(Timeline(made.build())) == []


def test_where_nobody_wanted_the_gil_it_stalled_nobody() -> None:
    made = SchedBuilder(seconds=1)
    process = made.process("worker")
    thread = made.thread(process, tid=1)
    for ms in range(1000):
        made.gil(process, ms, holder=thread, waiter_count=0)
    made.stay(thread, 0, 300.5, PREEMPTED)
    made.stay(thread, 400.5, 1000, BLOCKED)

    timeline = Timeline(made.build())

    assert rows(timeline)[0]["without_cpu_seconds"] == pytest.approx(0.1)
    assert rows(timeline)[0]["stalled_waiter_seconds"] == 0
    assert findings(timeline) == []


@pytest.mark.parametrize(
    ("around", "low", "high"),
    [("nobody", 0.0, 0.001), ("the other", 0.0, 0.0)],
    ids=["nobody had it, so it may have been taken between looks", "the other kept it"],
)
def test_a_short_gap_between_looks_at_which_it_had_not_the_gil(
    around: str, low: float, high: float
) -> None:
    core = Core()
    core.looks(0, 1000, None if around == "nobody" else core.second, every=2)
    core.made.stay(core.first, 0, 100.5, PREEMPTED)
    core.made.stay(core.first, 101.5, 1000, BLOCKED)

    row = core.row()

    assert row["without_cpu_low_seconds"] == pytest.approx(low)
    assert row["without_cpu_high_seconds"] == pytest.approx(high)
