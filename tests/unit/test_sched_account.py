"""Rows of threads and roles, and whether switches agree with the kernel's own accounts."""

from __future__ import annotations

import pytest
from sched_captures import BLOCKED, PREEMPTED, YIELDED, SchedBuilder

from analyzers.sched.account import role_rows, thread_rows
from analyzers.sched.agreement import disagreement, measure_agreement
from analyzers.scheduling import ANALYZER as RUN_QUEUE
from analyzers.timeline import Timeline
from collectors.host_counters import CPU_TIME


def two_threads(*, run_of_first_ms: float = 9000.0) -> SchedBuilder:
    """The first runs 90 ms of each 100 and is pushed off for 10; the second waits 40 of each."""
    made = SchedBuilder()
    process = made.process("engine_core", pid=7)
    first, second = made.thread(process, tid=71), made.thread(process, tid=72, name="zmq")
    for turn in range(100):
        begun = 100 * turn
        made.stay(first, begun, begun + 90, PREEMPTED, to=second)
        made.stay(second, begun + 90, begun + 100, BLOCKED, cpu=1, woken=begun + 50)
    for look in range(0, 101, 10):
        done = look / 100
        made.look(first, 100 * look, run=run_of_first_ms * done, wait=10 * look, involuntary=look)
        made.look(second, 100 * look, run=1000 * done, wait=40 * look)
    return made


def test_rows_carry_the_sums_and_how_they_compare_with_the_kernels() -> None:
    timeline = Timeline(two_threads().build())

    zmq, main = thread_rows(timeline)

    assert (zmq["tid"], zmq["name"]) == (72, "zmq")
    assert zmq["waking_seconds"] == pytest.approx(4.0)  # 100 times 40 ms
    assert (zmq["wake"], zmq["wake_p50_seconds"]) == ("measured", pytest.approx(0.04))
    assert main["preempted_seconds"] == pytest.approx(0.99)  # the last time it did not come back
    assert (main["preempted_count"], main["yielded_count"]) == (99, 0)
    assert main["agreement"]["cpu_ratio"] == pytest.approx(1.0)
    assert zmq["agreement"]["wait_ratio"] == pytest.approx(1.0, rel=0.02)
    (role,) = role_rows(timeline)
    assert (role["role"], role["pids"], role["thread_count"]) == ("engine_core", [7], 2)
    assert role["wait_seconds"] == pytest.approx(4.99)
    assert role["slice_to_run_ratio"] == pytest.approx(1.0)
    assert role["wait_to_run_delay_ratio"] == pytest.approx(1.0, rel=0.02)


def test_switches_that_agree_are_not_doubted() -> None:
    assert disagreement(Timeline(two_threads().build())) is None


def test_slices_that_lack_a_part_of_the_run_time_are_a_finding() -> None:
    timeline = Timeline(two_threads(run_of_first_ms=9800.0).build())

    finding = disagreement(timeline)

    assert finding is not None
    assert finding.quantity is not None
    assert finding.quantity.value == pytest.approx(1 - 9.0 / 9.8, rel=0.01)
    assert "PID 7" in finding.statement


def test_looks_in_which_switches_were_lost_are_not_compared() -> None:
    made = two_threads(run_of_first_ms=9000.0)
    made.gap("switches", 2050, 2060)

    agreement = measure_agreement(Timeline(made.build()))

    # Of ten seconds between looks one is left out: that from 2000 to 3000.
    assert [one.compared_ns for one in agreement.values()] == [9_000_000_000, 9_000_000_000]
    assert [one.run_ns for one in agreement.values()] == [8_100_000_000, 900_000_000]


def test_inferred_waits_are_not_compared_with_what_they_were_inferred_from() -> None:
    made = SchedBuilder()
    thread = made.thread(made.process("worker"), tid=1)
    for turn in range(100):
        made.stay(thread, 100 * turn, 100 * turn + 60, BLOCKED)
    for look in range(0, 100, 5):
        made.look(thread, 100 * look, run=60 * look, wait=20 * look)

    (row,) = thread_rows(Timeline(made.build()))

    assert row["wake"] == "inferred"
    # 99 times 40 ms off the CPU, of which the kernel says half was waiting, up to its last look.
    assert row["waking_seconds"] == pytest.approx(1.9, rel=0.01)
    assert row["agreement"]["wait_ratio"] is None
    assert row["agreement"]["cpu_ratio"] == pytest.approx(1.0)


def test_the_run_queue_says_how_many_involuntary_switches_were_none() -> None:
    made = SchedBuilder()
    thread = made.thread(made.process("worker"), tid=1)
    made.stay(thread, 0, 1, YIELDED)
    made.stay(thread, 2, 3, YIELDED)
    made.stay(thread, 3, 4, PREEMPTED)
    made.stay(thread, 9, 10, BLOCKED)
    for ms in (0, 1000):
        made.look(thread, ms, run=ms / 250, wait=ms * 0.006, involuntary=3 * ms // 1000)

    (row,) = RUN_QUEUE.run(Timeline(made.build())).sections["run_queue"]

    assert row["involuntary_count"] == 3
    assert (row["preempted_count"], row["yielded_count"]) == (1, 2)
    assert row["preempted_seconds"] == pytest.approx(0.005)


def test_without_switches_the_run_queue_does_not_guess_what_was_preemption() -> None:
    made = SchedBuilder()
    thread = made.thread(made.process("worker"), tid=1)
    for ms in (0, 1000):
        made.look(thread, ms, run=ms / 2, wait=ms / 4, involuntary=ms)

    (row,) = RUN_QUEUE.run(Timeline(made.build())).sections["run_queue"]

    assert row["preempted_count"] is row["yielded_count"] is row["waking_seconds"] is None


def test_the_run_queue_tells_polling_from_want_of_cpus() -> None:
    made = SchedBuilder(seconds=1)
    thread = made.thread(made.process("worker"), tid=1)
    for ms in range(0, 1000, 10):
        made.stay(thread, ms, ms + 5, YIELDED)
    for ms in (0, 1000):
        made.look(thread, ms, run=0.5 * ms, wait=0.5 * ms)

    (finding,) = RUN_QUEUE.run(Timeline(made.build())).findings

    # 99 gaps of 5 ms, none after the last stay.
    assert "0.49 s was after giving way by sched_yield(2)" in finding.statement


def test_stolen_time_is_in_slices_and_not_in_run_time_and_that_is_no_disagreement() -> None:
    # Of the 9 s that it was on CPU 0 the hypervisor took a tenth.
    made = two_threads(run_of_first_ms=8100.0)
    host = made.host()
    for mode, seconds in (("user", 9.0), ("steal", 1.0), ("idle", 5.0)):
        made.total(host, CPU_TIME, f"cpu=0,mode={mode}", 0, seconds)

    timeline = Timeline(made.build())

    (first,) = [one for one in thread_rows(timeline) if one["tid"] == 71]
    assert first["agreement"]["stolen_seconds"] == pytest.approx(0.9)
    assert first["agreement"]["cpu_ratio"] == pytest.approx(1.0)
    assert disagreement(timeline) is None
    assert disagreement(Timeline(two_threads(run_of_first_ms=8100.0).build())) is not None
