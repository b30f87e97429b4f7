"""Waits for a CPU by the stage that a thread was in, and over time."""

from __future__ import annotations

import pytest
from captures import DETOKENIZE, LOOP_IDLE, TOKENIZE
from sched_captures import BLOCKED, PREEMPTED, YIELDED, SchedBuilder

from analyzers.sched.stage_waits import stage_rows
from analyzers.sched.wait_series import measure_series
from analyzers.timeline import Timeline


def test_waits_go_to_the_stage_that_the_stack_showed_then() -> None:
    made = SchedBuilder()
    process = made.process("api_server")
    thread, native = made.thread(process, tid=1), made.thread(process, tid=2, name="rayon")
    made.run(thread, 0, 100, TOKENIZE)
    made.run(thread, 100, 200, DETOKENIZE)
    made.run(thread, 200, 300, LOOP_IDLE)
    made.stay(thread, 0, 90, PREEMPTED)
    made.stay(thread, 120, 150, YIELDED)  # 10 ms of the wait in tokenize, 20 in detokenize
    made.stay(thread, 155, 210, BLOCKED)  # 5 ms after having given way, in detokenize
    made.stay(thread, 280, 300, BLOCKED, woken=250)  # 30 ms, still showing what it had waited for
    made.stay(thread, 330, 340, BLOCKED, woken=325)  # 5 ms in which no stack was seen
    made.stay(native, 0, 10, PREEMPTED)
    made.stay(native, 14, 20, BLOCKED)

    rows = {row["stage"]: row for row in stage_rows(Timeline(made.build()))}

    assert {stage: row["wait_seconds"] for stage, row in rows.items()} == {
        "idle": pytest.approx(0.030),
        "detokenize": pytest.approx(0.020),
        "tokenize": pytest.approx(0.010),
        "unattributed": pytest.approx(0.005),
        "native": pytest.approx(0.004),
    }
    assert rows["detokenize"]["yielded_seconds"] == pytest.approx(0.005)
    assert rows["idle"]["waking_seconds"] == pytest.approx(0.030)
    assert rows["tokenize"]["preempted_seconds"] == pytest.approx(0.010)


def test_waits_over_time_add_up_to_the_whole() -> None:
    made = SchedBuilder()
    thread = made.thread(made.process("api_server"), tid=1)
    made.run(thread, 0, 10_000, TOKENIZE)
    made.stay(thread, 0, 1_000, PREEMPTED)
    made.stay(thread, 1_130, 9_000, PREEMPTED)
    made.stay(thread, 9_500, 10_000, BLOCKED)

    series = measure_series(Timeline(made.build()))

    assert series is not None
    assert (series["source"], series["bin_count"]) == ("switches", 200)
    (row,), (stage,) = series["threads"], series["stages"]
    assert sum(row["wait_seconds"]) == pytest.approx(0.63)
    assert sum(row["cpu_seconds"]) == pytest.approx(9.37)
    assert row["wait_seconds"][20:23] == pytest.approx([0.05, 0.05, 0.03])
    assert (stage["stage"], sum(stage["wait_seconds"])) == ("tokenize", pytest.approx(0.63))


def test_without_switches_the_counters_tell_waits_over_time() -> None:
    made = SchedBuilder()
    thread = made.thread(made.process("api_server"), tid=1)
    for ms, wait in ((0, 0), (1_000, 0), (2_000, 500)):
        made.look(thread, ms, run=0, wait=wait)

    series = measure_series(Timeline(made.build()))

    assert series is not None
    assert (series["source"], series["stages"]) == ("counters", [])
    (row,) = series["threads"]
    half = series["bin_count"] // 2
    assert sum(row["wait_seconds"][:half]) == pytest.approx(0, abs=0.02)
    assert sum(row["wait_seconds"][half:]) == pytest.approx(0.5, abs=0.02)


def test_where_nothing_was_recorded_there_is_no_series() -> None:
    assert measure_series(Timeline(SchedBuilder().build())) is None
