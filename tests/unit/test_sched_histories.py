"""Histories of threads: what lies between stays on a CPU, and that nothing of it is lost."""

from __future__ import annotations

import numpy as np
import pytest
from captures import MS
from hypothesis import given, settings
from hypothesis import strategies as st
from sched_captures import BLOCKED, PREEMPTED, READY, YIELDED, SchedBuilder

from analyzers.sched.histories import Histories, read_histories
from analyzers.sched.totals import ThreadTotals, Wake, measure_totals
from analyzers.timeline import Timeline


def totals_of(made: SchedBuilder) -> list[ThreadTotals]:
    return measure_totals(Timeline(made.build()))


def histories_of(made: SchedBuilder) -> Histories:
    return read_histories(Timeline(made.build()))


def test_each_kind_of_time_off_the_cpu_is_told_apart() -> None:
    made = SchedBuilder()
    thread = made.thread(made.process("worker"), tid=1)
    made.stay(thread, 10, 20, PREEMPTED, woken=8)  # 2 ms from its wake-up to its CPU
    made.stay(thread, 23, 30, YIELDED)  # after 3 ms pushed off
    made.stay(thread, 31, 40, BLOCKED)  # after 1 ms of having given way
    made.stay(thread, 100, 101, None, woken=90)  # blocked for 50 ms, then 10 ms without a CPU

    (one,) = totals_of(made)

    assert one.observed_ns == 93 * MS
    assert one.on_cpu_ns == 27 * MS
    assert one.waking_ns == 12 * MS
    assert one.preempted_ns == 3 * MS
    assert one.yielded_ns == 1 * MS
    assert one.blocked_ns == 50 * MS
    assert (one.preempted_count, one.yielded_count, one.blocked_count) == (1, 1, 2)
    assert one.wake is Wake.MEASURED
    assert one.longest_wait_ns == 10 * MS
    assert one.wait_ns == 16 * MS


def test_a_ready_thread_that_left_for_one_of_two_reasons_waited_all_the_same() -> None:
    made = SchedBuilder()
    thread = made.thread(made.process("worker"), tid=1)
    made.stay(thread, 0, 10, READY)
    made.stay(thread, 14, 20, BLOCKED)

    (one,) = totals_of(made)

    assert (one.untold_ns, one.preempted_ns, one.yielded_ns) == (4 * MS, 0, 0)
    assert one.wait_ns == 4 * MS
    assert one.preempted_count == 0


def test_threads_do_not_mix_and_rows_may_come_in_any_order() -> None:
    made = SchedBuilder()
    process = made.process("worker")
    first, second = made.thread(process, tid=1), made.thread(process, tid=2)
    made.stay(second, 30, 31, BLOCKED)
    made.stay(first, 0, 10, PREEMPTED)
    made.stay(first, 15, 20, BLOCKED)
    made.stay(second, 10, 15, PREEMPTED)

    one, other = totals_of(made)

    assert (one.thread.tid, one.preempted_ns, one.on_cpu_ns) == (1, 5 * MS, 15 * MS)
    assert (other.thread.tid, other.preempted_ns, other.on_cpu_ns) == (2, 15 * MS, 6 * MS)


def test_time_after_an_unseen_switch_is_claimed_for_nothing() -> None:
    made = SchedBuilder()
    thread = made.thread(made.process("worker"), tid=1)
    made.stay(thread, 0, 10, None)
    made.stay(thread, 60, 70, BLOCKED)

    (one,) = totals_of(made)

    assert one.unseen_ns == 50 * MS
    assert one.wait_ns == one.blocked_ns == 0


def test_a_thread_woken_before_it_was_off_its_cpu_waited_from_then_on() -> None:
    made = SchedBuilder()
    thread = made.thread(made.process("worker"), tid=1)
    made.stay(thread, 0, 10, BLOCKED)
    made.stay(thread, 14, 20, BLOCKED, woken=9)

    (one,) = totals_of(made)

    assert (one.blocked_ns, one.waking_ns) == (0, 4 * MS)


def test_rows_of_tracks_that_are_no_threads_are_left_out() -> None:
    made = SchedBuilder()
    thread = made.thread(made.process("worker"), tid=1)
    made.stay(made.outsider(9, "cron"), 0, 10)
    made.stay(thread, 10, 20)

    histories = histories_of(made)

    assert histories.threads == [thread]
    assert len(histories) == 1


@pytest.mark.parametrize(
    ("waited_ms", "waking_ms"),
    [(30, 18), (5, 0), (500, 80)],
    ids=["less what was seen", "not below zero", "not more than it was blocked"],
)
def test_without_wake_events_the_kernels_total_says_how_long_woken_threads_waited(
    waited_ms: float, waking_ms: float
) -> None:
    made = SchedBuilder()
    thread = made.thread(made.process("worker"), tid=1)
    made.look(thread, 0, run=0, wait=0)
    made.look(thread, 1000, run=908, wait=waited_ms)
    made.stay(thread, 0, 500, PREEMPTED)
    made.stay(thread, 512, 800, BLOCKED)  # 12 ms pushed off
    made.stay(thread, 880, 1000, BLOCKED)  # 80 ms blocked, or waiting after it was woken

    (one,) = totals_of(made)

    assert one.wake is Wake.INFERRED
    assert one.waking_ns == waking_ms * MS
    assert one.blocked_ns == (80 - waking_ms) * MS
    assert one.preempted_ns == 12 * MS


def test_without_events_and_counters_it_is_not_known_how_long_woken_threads_waited() -> None:
    made = SchedBuilder()
    thread = made.thread(made.process("worker"), tid=1)
    made.stay(thread, 0, 10, BLOCKED)
    made.stay(thread, 30, 40, BLOCKED)

    (one,) = totals_of(made)

    assert one.wake is Wake.UNKNOWN
    assert (one.blocked_ns, one.waking_ns) == (20 * MS, 0)


STAY = st.tuples(
    st.integers(0, 40),  # off the CPU before it
    st.integers(0, 40),  # on it
    st.sampled_from([PREEMPTED, BLOCKED, YIELDED, READY, None]),
    st.one_of(st.none(), st.integers(-50, 50)),  # woken, from its start
)


@settings(deadline=None)  # the machine may be full
@given(st.lists(st.lists(STAY, min_size=1, max_size=12), min_size=1, max_size=4))
def test_the_parts_of_any_history_add_up_to_what_was_observed(
    threads: list[list[tuple[int, int, int | None, int | None]]],
) -> None:
    made = SchedBuilder()
    process = made.process("worker")
    for tid, stays in enumerate(threads):
        thread, now = made.thread(process, tid=tid), 1000
        for off, on, leave, woken in stays:
            start = now + off
            now = start + on
            made.stay(thread, start, now, leave, woken=None if woken is None else start + woken)

    found, histories = totals_of(made), histories_of(made)

    assert len(found) == len(threads)
    for one, stays in zip(found, threads, strict=True):
        rows = histories.rows_of(one.place)
        ready = (one.waking_ns, one.preempted_ns, one.yielded_ns, one.untold_ns)
        parts = (one.blocked_ns, *ready, one.unseen_ns)
        assert one.wait_ns == sum(ready)
        assert min(parts) >= 0
        assert one.on_cpu_ns + sum(parts) == one.observed_ns
        assert one.observed_ns == histories.end[rows][-1] - histories.left[rows][0]
        assert one.on_cpu_ns == sum(on for _, on, _, _ in stays) * MS
        assert one.preempted_count == sum(leave == PREEMPTED for _, _, leave, _ in stays[:-1])
    assert (histories.left <= histories.ready).all()
    assert (histories.ready <= histories.start).all()


@settings(deadline=None)  # the machine may be full
@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 50)), min_size=1, max_size=9))
def test_rows_that_overlap_still_add_up(stays: list[tuple[int, int]]) -> None:
    made = SchedBuilder()
    thread = made.thread(made.process("worker"), tid=1)
    for start, length in stays:
        made.stay(thread, start, start + length, PREEMPTED)

    (one,) = totals_of(made)

    first = min(start for start, _ in stays)
    assert one.on_cpu_ns + one.preempted_ns == one.observed_ns
    assert one.observed_ns >= (max(start for start, _ in stays) - first) * MS
    histories = histories_of(made)
    assert bool(np.all(np.diff(histories.start) >= 0))
