"""Threads, memory and affinity against the GPU's node: faults are found, health has none."""

from __future__ import annotations

import pytest
from sched_captures import BLOCKED, PREEMPTED, SchedBuilder

from analyzers.numa import ANALYZER, run
from analyzers.sched.machine import read_machine
from analyzers.sched.residency import measure_residency
from analyzers.timeline import Timeline
from collectors.host_counters import NUMA_PAGES

NODES = {0: [0, 1], 1: [2, 3], 2: [4, 5], 3: [6, 7]}
GPU = "0000:c1:00.0"


def made_server(
    *, cpu: int = 4, cpus: list[int] | None = None, far_pages: int = 40, distance: int = 20,
    role: str = "engine_core", gpu_node: int | None = 2, by_looks: bool = False,
) -> SchedBuilder:  # fmt: skip
    """A process whose GPU is on node 2 of 4, and whose thread runs all the time on one CPU."""
    made = SchedBuilder(seconds=1)
    process = made.process(role, pid=1)
    thread = made.thread(process, tid=1)
    if by_looks:
        for ms in (0, 500, 1000):
            made._add(
                "thread_counters", time_ns=made.at(ms), track=thread, run_ns=ms * 900_000,
                wait_ns=0, timeslice_count=ms, cpu=cpu,
            )  # fmt: skip
    else:
        made.stay(thread, 0, 900, BLOCKED, cpu=cpu)
        made.stay(thread, 950, 1000, BLOCKED, cpu=4, woken=940)
    made.level(process, 10, NUMA_PAGES, "node=2", 1000 - far_pages)
    made.level(process, 10, NUMA_PAGES, "node=0", far_pages)
    made.machine(
        nodes=NODES,
        gpus={GPU: gpu_node, "0000:01:00.0": 0},
        processes={1: {"cpus": list(range(8)) if cpus is None else cpus, "gpus": [GPU]}},
        distance=distance,
    )
    return made


def slugs(made: SchedBuilder) -> list[str]:
    return [one.slug for one in run(Timeline(made.build())).findings]


def test_a_healthy_server_gives_no_finding() -> None:
    assert slugs(made_server()) == []


@pytest.mark.parametrize("by_looks", [False, True], ids=["switches", "looks"])
def test_a_thread_off_its_gpus_node_is_found(by_looks: bool) -> None:
    outcome = run(Timeline(made_server(cpu=1, by_looks=by_looks).build()))

    (finding,) = outcome.findings
    assert finding.slug == "cpu-off-gpu-node"
    assert finding.quantity is not None
    assert finding.quantity.value == pytest.approx(1.0 if by_looks else 900 / 950)
    assert "node 2" in finding.statement
    assert "CPUs 4-5" in str(finding.remedy)


def test_memory_off_the_gpus_node_is_found_with_its_interval() -> None:
    (finding,) = run(Timeline(made_server(far_pages=400).build())).findings

    assert finding.slug == "memory-off-gpu-node"
    assert finding.quantity is not None
    assert finding.quantity.value == pytest.approx(0.4)
    # Wilson, n = 1000: 0.3701 to 0.4307.
    assert finding.quantity.low == pytest.approx(0.3701, abs=2e-4)
    assert finding.quantity.high == pytest.approx(0.4307, abs=2e-4)


def test_a_few_pages_do_not_prove_that_memory_is_far() -> None:
    made = SchedBuilder(seconds=1)
    process = made.process("worker", pid=1)
    made.level(process, 0, NUMA_PAGES, "node=0", 3)
    made.level(process, 0, NUMA_PAGES, "node=2", 5)
    made.machine(nodes=NODES, gpus={GPU: 2}, processes={1: {"gpus": [GPU]}})

    assert slugs(made) == []


def test_affinity_that_excludes_the_gpus_node_is_found() -> None:
    outcome = run(Timeline(made_server(cpu=0, cpus=[0, 1]).build()))

    assert [one.slug for one in outcome.findings] == ["affinity-off-gpu-node", "cpu-off-gpu-node"]


def test_a_node_of_the_same_socket_is_not_far() -> None:
    assert slugs(made_server(cpu=1, far_pages=900, distance=12)) == []


def test_a_frontend_may_run_anywhere() -> None:
    assert slugs(made_server(cpu=1, cpus=[0, 1], far_pages=900, role="api_server")) == []


def test_a_gpu_whose_node_is_not_known_leaves_those_of_the_others() -> None:
    # The process's own GPU says nothing of its node; another one is on node 0.
    timeline = Timeline(made_server(cpu=1, gpu_node=None, far_pages=960).build())

    (process,) = timeline.processes.values()
    assert read_machine(timeline).home_nodes(process) == {0}
    assert run(timeline).findings == []


def test_without_the_host_probe_nothing_is_said_of_nodes() -> None:
    made = SchedBuilder(seconds=1)
    thread = made.thread(made.process("worker", pid=1), tid=1)
    made.stay(thread, 0, 1000, cpu=3)

    outcome = run(Timeline(made.build()))

    assert outcome.findings == []
    (row,) = outcome.sections["residency"]
    assert row["nodes"] == []
    assert row["cpus"] == [{"cpu": 3, "ratio": 1.0}]


def test_moves_and_crossings_are_counted_per_thread() -> None:
    made = SchedBuilder(seconds=1)
    process = made.process("worker", pid=1)
    first, second = made.thread(process, tid=1), made.thread(process, tid=2)
    for number, cpu in enumerate((0, 1, 1, 2, 4, 0)):  # nodes 0, 0, 0, 1, 2, 0
        made.stay(first, 10 * number, 10 * number + 5, PREEMPTED, cpu=cpu)
    made.stay(second, 0, 5, cpu=7)
    made.machine(nodes=NODES, gpus={}, processes={})

    timeline = Timeline(made.build())
    found = {one.thread.tid: one for one in measure_residency(timeline)}

    assert (found[1].migration_count, found[1].crossing_count) == (4, 3)
    assert (found[2].migration_count, found[2].crossing_count) == (0, 0)
    row = next(row for row in ANALYZER.run(timeline).sections["residency"] if row["tid"] == 1)
    assert row["cpu_count"] == 4
    assert {one["node"]: one["ratio"] for one in row["nodes"]} == {
        0: pytest.approx(4 / 6), 1: pytest.approx(1 / 6), 2: pytest.approx(1 / 6),
    }  # fmt: skip
