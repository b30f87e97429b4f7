"""A GPU's idle gaps with context switches: what had no CPU is told, whatever it seemed to be in."""

from __future__ import annotations

import pytest
from captures import MS
from sched_captures import BLOCKED, PREEMPTED, YIELDED, SchedBuilder

from analyzers.gpu.gaps import Gaps, measure_gaps
from analyzers.gpu.labels import Cause
from analyzers.timeline import Timeline


def made_gap() -> tuple[SchedBuilder, int]:
    """The GPU is idle from 10 to 30 ms; its thread is in a call that waits for it until 28."""
    made = SchedBuilder(seconds=1)
    process = made.process("worker")
    thread = made.thread(process, tid=1)
    stream = made.stream(made.device(0), process=process)
    made.call(thread, 0, 1, correlation=1)
    made.call(thread, 2, 28, "hipStreamSynchronize")
    made.call(thread, 29.9, 30, correlation=2)
    made.slice(stream, 1, 10, correlation=1)
    made.slice(stream, 30, 40, correlation=2)
    return made, thread


def causes(gaps: Gaps) -> dict[Cause, float]:
    found: dict[Cause, float] = {}
    shares = gaps.shares
    for label, ns in zip(shares.label.tolist(), shares.ns.tolist(), strict=True):
        cause = gaps.labels[label].cause
        found[cause] = found.get(cause, 0.0) + ns / MS
    return found


def test_a_thread_that_was_woken_and_had_no_cpu_waited_for_one_and_not_for_the_gpu() -> None:
    made, thread = made_gap()
    made.stay(thread, 0, 3, BLOCKED)
    made.stay(thread, 25, 100, BLOCKED, woken=10.5)

    (gaps,) = measure_gaps(Timeline(made.build())).values()

    found = causes(gaps)
    assert found[Cause.RUN_QUEUE] == pytest.approx(14.5)
    assert found[Cause.SYNC] == pytest.approx(3.5)  # 10 to 10.5 and 25 to 28
    assert gaps.accounts.run_queue_low_ns == gaps.accounts.run_queue_high_ns == 14.5 * MS


def test_a_thread_that_gives_way_while_it_polls_does_not_wait_for_a_cpu() -> None:
    made, thread = made_gap()
    made.stay(thread, 0, 12, YIELDED)
    made.stay(thread, 17, 20, PREEMPTED)
    made.stay(thread, 24, 100, BLOCKED)

    (gaps,) = measure_gaps(Timeline(made.build())).values()

    assert causes(gaps)[Cause.RUN_QUEUE] == pytest.approx(4.0)


def test_without_wake_events_the_counters_are_asked_as_before() -> None:
    made, thread = made_gap()
    made.stay(thread, 0, 3, BLOCKED)
    made.stay(thread, 25, 100, BLOCKED)
    for ms, wait in ((0, 0.0), (50, 1.5)):
        made.look(thread, ms, run=0, wait=wait, timeslice_count=round(wait))

    (gaps,) = measure_gaps(Timeline(made.build())).values()

    accounts = gaps.accounts
    assert accounts.run_queue_low_ns < accounts.run_queue_high_ns
