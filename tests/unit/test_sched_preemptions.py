"""Who pushed whom off, and who had the CPU while a thread waited for it."""

from __future__ import annotations

import pytest
from sched_captures import BLOCKED, PREEMPTED, YIELDED, SchedBuilder

from analyzers.sched.occupants import occupant_rows
from analyzers.sched.preemptions import finding, section
from analyzers.timeline import Timeline


def made_fight() -> SchedBuilder:
    """The server's thread is pushed off by the worker (twice), by cron, and by a quota."""
    made = SchedBuilder(seconds=1)
    server, worker = made.process("api_server", pid=1), made.process("worker", pid=2)
    thread, other = made.thread(server, tid=11), made.thread(worker, tid=21, name="omp")
    cron, idle = made.outsider(999, "cron"), made.idle()
    made.stay(thread, 0, 100, PREEMPTED, to=other)
    made.stay(other, 100, 140, PREEMPTED, to=thread)
    made.stay(thread, 140, 200, PREEMPTED, to=other)
    made.stay(other, 200, 210, BLOCKED, to=thread)
    made.stay(thread, 210, 300, PREEMPTED, to=cron)
    made.stay(thread, 303, 400, PREEMPTED, to=idle)
    made.stay(thread, 420, 500, YIELDED, to=other)
    made.stay(thread, 501, 1000, PREEMPTED, to=None)
    return made


def test_each_pair_is_counted_with_what_the_victim_lost() -> None:
    found = section(Timeline(made_fight().build()))

    pairs = {(row["role"], row["by"]["role"]): row for row in found["pairs"]}
    by_worker = pairs["api_server", "worker"]
    assert (by_worker["count"], by_worker["lost_seconds"]) == (2, pytest.approx(0.050))
    assert by_worker["by"] == {"kind": "thread", "role": "worker", "name": "omp", "pid": 2}
    assert pairs["api_server", "idle"]["lost_seconds"] == pytest.approx(0.020)
    assert pairs["api_server", "outsider"]["by"]["name"] == "cron"
    assert pairs["worker", "api_server"]["lost_seconds"] == pytest.approx(0.060)
    # Giving way is none, and neither is the last one, from which it did not come back.
    assert found["count"] == sum(row["count"] for row in found["pairs"]) == 5
    assert found["roles"][0] == {
        "role": "worker", "by_role": "api_server", "count": 1,
        "lost_seconds": pytest.approx(0.060),
    }  # fmt: skip


def test_a_thread_that_lost_notable_time_is_a_finding_that_names_who_took_it() -> None:
    claim = finding(Timeline(made_fight().build()))

    assert claim is not None
    assert claim.quantity is not None
    assert claim.quantity.value == pytest.approx(0.133)
    assert "4 times, 0.07 s, most of it to omp of the worker (PID 2)" in claim.statement


def test_little_preemption_is_no_finding() -> None:
    made = SchedBuilder(seconds=1)
    thread = made.thread(made.process("worker"), tid=1)
    made.stay(thread, 0, 500, PREEMPTED)
    made.stay(thread, 510, 1000, BLOCKED)

    assert finding(Timeline(made.build())) is None


def test_who_had_the_cpu_meanwhile_is_told_as_far_as_it_was_the_target() -> None:
    made = SchedBuilder(seconds=1)
    server, worker = made.process("api_server", pid=1), made.process("worker", pid=2)
    thread, other = made.thread(server, tid=11), made.thread(worker, tid=21)
    made.stay(thread, 0, 100, PREEMPTED, to=other, cpu=1)
    made.stay(other, 100, 130, BLOCKED, cpu=1)
    made.stay(other, 130, 140, BLOCKED, cpu=0)  # on another CPU
    made.stay(thread, 150, 200, BLOCKED, cpu=1)  # waited 50 ms, 30 of them for the worker

    rows = occupant_rows(Timeline(made.build()))

    assert [(row["pid"], row["by_pid"], row["seconds"]) for row in rows] == [
        (1, 2, pytest.approx(0.030)),
        (1, None, pytest.approx(0.020)),
    ]
