"""How many threads wanted a CPU at once, against the CPUs there are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sched_captures import BLOCKED, PREEMPTED, SchedBuilder

from analyzers.sched.demand import demand_of, finding, pool_name, section
from analyzers.timeline import Timeline


def made_crowd(cpu_count: int = 2) -> SchedBuilder:
    """Three threads of a pool want 2 CPUs for 600 ms of 1000; then one is left."""
    made = SchedBuilder(seconds=1)
    process = made.process("worker", pid=1)
    threads = [made.thread(process, tid=10 + one, name=f"omp-{one}") for one in range(3)]
    for cpu in (0, 1):
        made.stay(threads[cpu], 0, 300, PREEMPTED, cpu=cpu)
    made.stay(threads[2], 300, 600, BLOCKED, woken=0)  # waited 300 ms
    made.stay(threads[0], 600, 1000, BLOCKED, cpu=0)  # waited 300 ms
    made.stay(threads[1], 300, 600, BLOCKED, cpu=1)
    made.machine(nodes={0: [0, 1, 2, 3]}, gpus={}, processes={1: {"cpus": list(range(cpu_count))}})
    return made


def test_the_share_of_time_above_the_cpus_and_its_distribution() -> None:
    found = section(Timeline(made_crowd().build()))

    assert found is not None
    assert (found["source"], found["is_lower_bound"]) == ("switches", False)
    assert (found["allowed_cpu_count"], found["allowed_source"]) == (2, "affinity")
    assert found["above_ratio"] == pytest.approx(0.6)
    assert found["mean_count"] == pytest.approx(0.6 * 3 + 0.4)
    assert (found["p50_count"], found["p95_count"], found["max_count"]) == (3, 3, 3)
    assert found["mean_above_count"] == pytest.approx(0.6)
    assert found["levels"] == [
        {"count": 1, "ratio": pytest.approx(0.4)},
        {"count": 3, "ratio": pytest.approx(0.6)},
    ]
    (pool,) = found["pools"]
    assert (pool["pool"], pool["thread_count"], pool["max_count"]) == ("omp", 3, 3)
    assert pool["wait_seconds"] == pytest.approx(0.6)


def test_more_threads_than_cpus_is_a_finding_and_enough_cpus_is_none() -> None:
    claim = finding(Timeline(made_crowd().build()))

    assert claim is not None
    assert "than the 2 it may use for 60% of the time" in claim.statement
    assert "omp of the worker, 3 threads" in claim.statement
    assert finding(Timeline(made_crowd(cpu_count=4).build())) is None


def test_a_quota_limits_what_the_target_can_use() -> None:
    made = SchedBuilder(seconds=1)
    thread = made.thread(made.process("worker", pid=1), tid=1)
    made.stay(thread, 0, 1000)
    limits = [{"quota_cpus": None}, {"quota_cpus": 0.5}]
    made.machine(nodes={}, gpus={}, processes={1: {"cpus": [0, 1], "limits": limits}})

    found = section(Timeline(made.build()))

    assert found is not None
    assert (found["quota_cpu_count"], found["above_ratio"]) == (0.5, 1.0)


def test_counters_tell_means_where_no_switches_were_recorded() -> None:
    made = SchedBuilder()
    process = made.process("worker")
    threads = [made.thread(process, tid=one) for one in range(4)]
    for thread in threads:
        for ms in (0, 5_000, 10_000):
            made.look(thread, ms, run=ms * 0.25 if ms < 6_000 else 3_750, wait=0.25 * ms)
    made.manifest.host["allowed_cpu_count"] = 2

    found = section(Timeline(made.build()))

    assert found is not None
    assert (found["source"], found["allowed_source"], found["pools"]) == ("counters", "host", [])
    # Four times (0.25 + 0.25), then four times (0.5 + 0.25).
    assert found["mean_count"] == pytest.approx(2.5)
    assert found["above_ratio"] == pytest.approx(0.5, abs=0.02)


def test_threads_of_one_pool_share_a_name() -> None:
    assert pool_name("ThreadPoolExecutor-0_12") == "ThreadPoolExecutor"
    assert pool_name("Thread-1 (process_input_sockets)") == "Thread (process_input_sockets)"
    assert pool_name("VLLM::EngineCor") == "VLLM::EngineCor"
    assert pool_name("42") == "42"


@settings(deadline=None)  # the machine may be full
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), max_size=12))
def test_demand_is_the_count_of_open_intervals_at_each_instant(
    parts: list[tuple[int, int]],
) -> None:
    start = np.array([one for one, _ in parts], np.int64)
    end = start + np.array([length for _, length in parts], np.int64)

    demand = demand_of(start, end, (0, 100))

    open_at = [int(((start <= at) & (at < end)).sum()) for at in range(100)]
    assert demand.ns.sum() == 100
    assert demand.mean == pytest.approx(sum(open_at) / 100)
    assert demand.quantile(0.95) == sorted(open_at)[94]
    assert demand.ratio_above(2) == pytest.approx(sum(one > 2 for one in open_at) / 100)
