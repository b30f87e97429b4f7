"""The captured machine of four nodes: what it is made of, and where a server on it may be."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from collectors import host_counters as names
from collectors.capture import open_capture
from probes.cgroups import Cgroups
from probes.host.devices import read_devices, used_devices
from probes.host.facts import read_host_facts, read_process_facts
from probes.host.topology import read_topology
from tests import hosts


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    return hosts.healthy(tmp_path_factory.mktemp("host"))


def test_nodes_sockets_and_threads_of_a_core(host):
    topology = read_topology(host.root)

    assert [node.cpus for node in topology.nodes] == [(0, 1), (2, 3), (4, 5), (6, 7)]
    assert [cpu.package for cpu in topology.cpus] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert [cpu.siblings for cpu in topology.cpus[:3]] == [(0, 1), (0, 1), (2, 3)]
    assert [cpu.cache for cpu in topology.cpus] == [0] * 4 + [4] * 4
    assert [cpu.node for cpu in topology.cpus] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert (topology.isolated, topology.nohz_full) == ((), ())  # "(null)"
    assert topology.has_smt
    assert not topology.has_one_node


def test_distances_are_the_firmware_s(host):
    topology = read_topology(host.root)

    assert topology.distance(2, 2) == 10
    assert topology.distance(2, 3) == 12
    assert topology.distance(3, 0) == 32
    assert topology.distance(0, 9) is None
    assert topology.nodes[1].memory_total_bytes == 212_116 * 1024


def test_devices_know_their_node_and_a_management_console_is_no_gpu(host):
    devices = {one.address: one for one in read_devices(host.root)}

    gpu, nvme, network = devices[hosts.GPU], devices[hosts.NVME], devices[hosts.NETWORK]
    assert (gpu.kind, gpu.node, gpu.cpus) == ("gpu", 2, (4, 5))
    assert (gpu.vendor, gpu.driver, gpu.names) == (0x1002, "amdgpu", ("renderD128",))
    assert (nvme.kind, nvme.node, nvme.driver, nvme.names) == ("storage", 1, "nvme", ("nvme0",))
    assert (network.kind, network.node, network.names) == ("network", 3, ("eth0",))
    assert len(devices) == 3


def test_a_process_s_gpu_is_told_by_the_device_file_it_has_open(host):
    devices = read_devices(host.root)

    assert [one.address for one in used_devices(host.root, hosts.WORKER, devices)] == [hosts.GPU]
    assert used_devices(host.root, hosts.CORE, devices) == []


def test_facts_serialise_to_json_and_back(host):
    facts = read_host_facts(host.root)

    document = json.loads(json.dumps(asdict(facts)))

    assert document["cpu_model"] == "QEMU TCG CPU version 2.5+"
    assert document["governors"] == {"performance": list(range(8))}
    assert document["huge_pages"] == "always"
    assert document["swap_total_bytes"] == 0
    assert document["has_boost"] is None  # not told, and not "no"


def test_the_captured_process_is_where_it_was(host):
    # Given the process of the virtual machine itself: held to node 0, in a throttled group
    (host.root / "proc/175").symlink_to("serving")

    facts = read_process_facts(host.root, 175, [], Cgroups(host.root))

    assert (facts.cpus, facts.nodes) == ((0, 1), (0, 1, 2, 3))
    assert facts.memory_policy == "default"
    assert facts.cpuset is not None
    assert facts.cpuset.cpus == tuple(range(8))
    assert facts.gpus is None  # its descriptors were not captured
    serving, pod = facts.limits
    assert (serving.path, serving.quota_cpus, serving.period_s) == ("/pod.slice/serving", 0.5, 0.1)
    assert (serving.period_count, serving.throttled_period_count) == (90, 89)
    assert serving.throttled_s == pytest.approx(4.400969)
    assert (pod.quota_cpus, pod.throttled_s) == (None, 0.0)


@pytest.mark.parametrize("name", hosts.CASES)
def test_each_case_records_where_everything_is(name, tmp_path):
    # Given
    host = hosts.CASES[name](tmp_path / "host")

    # When
    recorder, tracks = hosts.record_host(host, tmp_path / "capture")
    recorder.close()

    # Then the processes' places stand in the manifest
    capture = open_capture(tmp_path / "capture")
    records = {record.name: record for record in capture.manifest.probes}
    places = records["host"].detail["processes"]
    core, worker = places[str(hosts.CORE)], places[str(hosts.WORKER)]
    assert core["cpus"] == (list(range(8)) if name == "scheduler_off_node" else [4, 5, 6, 7])
    assert worker["cpus"] == ([0, 1, 2, 3] if name == "affinity_off_node" else [4, 5, 6, 7])
    assert worker["gpus"] == [hosts.GPU]
    # and their pages and throttling in the counters
    kinds = {one["counter"]: one for one in capture.table("counter_types").to_pylist()}
    values = {
        (row["track"], kinds[row["counter"]]["name"], kinds[row["counter"]]["labels"]): row["value"]
        for row in capture.table("counters").to_pylist()
    }
    track = tracks[hosts.WORKER]
    near, far = (values[track, names.NUMA_PAGES, f"node={node}"] for node in (2, 0))
    assert (far > 4 * near) == (name == "memory_off_node")
    key = (track, names.CGROUP_THROTTLED, f"cgroup={hosts.THROTTLED_GROUP}")
    assert values.get(key) == (4.400969 if name == "throttled" else None)
