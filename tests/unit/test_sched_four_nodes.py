"""A machine of four nodes, from its captured files to findings: each fault, and none in health."""

from __future__ import annotations

from pathlib import Path

import pytest

from analyzers import numa
from analyzers.sched import host_load
from analyzers.sched.machine import read_machine
from analyzers.timeline import Timeline
from collectors.capture import finalise
from tests.hosts import API, CASES, CORE, GPU, GPU_NODE, WORKER, record_host

ROLES = {API: "api_server", CORE: "engine_core", WORKER: "worker"}
SECOND = 1_000_000_000


def recorded(case: str, directory: Path, *, with_switches: bool) -> Timeline:
    """Return the capture of a server whose main threads ran all the time where they ran last."""
    host = CASES[case](directory / "root")
    recorder, processes = record_host(host, directory / "made.capture")
    start_ns = recorder.manifest.started_ns
    for pid, process in processes.items():
        cpu = host.procfs.stat(pid).last_cpu
        thread = recorder.thread_track(process, pid, pid, name="MainThread", role=ROLES[pid])
        if with_switches:
            columns = {"duration_ns": [SECOND], "cpu": [cpu], "leave": [2]}
            recorder.append("cpu_slices", {"time_ns": [start_ns], "track": [thread], **columns})
        else:
            looks = [start_ns + one * SECOND // 2 for one in range(3)]
            zeros = [0, 0, 0]
            recorder.append(
                "thread_counters",
                {
                    "time_ns": looks, "track": [thread] * 3, "run_ns": [0, SECOND // 2, SECOND],
                    "wait_ns": zeros, "timeslice_count": zeros, "cpu": [cpu] * 3,
                },
            )  # fmt: skip
    recorder.manifest.stopped_ns = start_ns + SECOND
    recorder.close()
    return Timeline(finalise(recorder.directory, recorder.manifest))


@pytest.mark.parametrize(
    ("case", "slugs", "with_switches"),
    [
        ("healthy", [], True),
        ("scheduler_off_node", ["cpu-off-gpu-node"], True),
        ("scheduler_off_node", ["cpu-off-gpu-node"], False),
        ("memory_off_node", ["memory-off-gpu-node"], True),
        ("affinity_off_node", ["affinity-off-gpu-node", "cpu-off-gpu-node"], True),
        ("throttled", [], True),
    ],
)
def test_each_fault_is_found_and_nothing_else(
    case: str, slugs: list[str], with_switches: bool, tmp_path: Path
) -> None:
    timeline = recorded(case, tmp_path, with_switches=with_switches)

    found = numa.run(timeline).findings

    assert [one.slug for one in found] == slugs
    pid = CORE if case == "scheduler_off_node" else WORKER
    assert all(f"PID {pid}" in one.statement for one in found)


def test_the_machine_is_read_from_what_the_probe_wrote(tmp_path: Path) -> None:
    machine = read_machine(recorded("throttled", tmp_path, with_switches=True))

    assert machine.gpu_nodes[GPU] == GPU_NODE
    assert machine.node_cpus[GPU_NODE] == {4, 5}
    assert machine.distance(0, GPU_NODE) >= 20 > machine.distance(3, GPU_NODE)
    assert machine.places[WORKER].gpus == (GPU,)
    assert (machine.allowed_cpu_count, machine.quota_cpus) == (4, 0.5)


def test_the_groups_counters_are_read_as_the_probe_writes_them(tmp_path: Path) -> None:
    outcome = host_load.run(recorded("throttled", tmp_path, with_switches=True))

    (quota,) = outcome.sections["quotas"]
    assert quota["quota_cpu_count"] == 0.5
    assert quota["pids"] == [API, CORE, WORKER]
