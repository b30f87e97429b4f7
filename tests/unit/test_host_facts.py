"""The machine where files are missing or lie, and processes that end while they are read."""

from __future__ import annotations

import ctypes
import os
import platform

import pytest

from probes.cgroups import Cgroups
from probes.host import devices, facts
from probes.host.devices import open_device_files, read_devices, used_devices
from probes.host.facts import read_host_facts, read_process_facts
from probes.host.topology import read_topology
from tests import hosts
from tests.fakeproc import PYTHON, FakeProc
from tests.hosts import FakeHost

_SET_MEMPOLICY = {"x86_64": 238, "aarch64": 237}
_BIND = 2


@pytest.fixture
def host(tmp_path) -> FakeHost:
    return hosts.healthy(tmp_path)


def test_an_empty_tree_is_unknown_all_over(tmp_path):
    found = read_host_facts(tmp_path)

    assert found.topology.nodes == found.topology.cpus == found.devices == ()
    unknown = (found.cpu_model, found.has_boost, found.huge_pages, found.swap_total_bytes)
    assert unknown == (None,) * 4
    assert found.topology.has_one_node


def test_garbage_is_unknown_too(host):
    node = "sys/devices/system/node/node1"
    host.write(f"{node}/distance", "10 x")
    host.write(f"{node}/meminfo", "Node 1 MemTotal: many kB")
    host.write(f"{node}/cpulist", "2-three")
    host.write("sys/devices/system/cpu/cpu4/topology/physical_package_id", "-1")
    host.write(f"sys/bus/pci/devices/{hosts.GPU}/numa_node", "-1")
    host.write(f"sys/bus/pci/devices/{hosts.NVME}/class", "nonsense")

    topology = read_topology(host.root)

    damaged = topology.nodes[1]
    assert (damaged.cpus, damaged.distances, damaged.memory_total_bytes) == ((), (), None)
    assert topology.distance(1, 0) is None
    assert topology.distance(0, 1) == 12
    assert topology.cpus[4].package is None
    found = {one.address: one.node for one in read_devices(host.root)}
    assert found == {hosts.GPU: None, hosts.NETWORK: 3}


def test_nodes_and_cpus_are_counted_where_no_list_names_them(host):
    for path in ("node/online", "cpu/online"):
        (host.root / "sys/devices/system" / path).unlink()

    topology = read_topology(host.root)

    assert [node.node for node in topology.nodes] == [0, 1, 2, 3]
    assert [cpu.cpu for cpu in topology.cpus] == list(range(8))


def test_a_node_of_memory_alone_is_a_node(host):
    host.write("sys/devices/system/node/node3/cpulist", "")

    topology = read_topology(host.root)

    assert topology.nodes[3].cpus == ()
    assert topology.nodes[3].memory_total_bytes is not None
    assert topology.node_of(7) is None
    assert topology.cpus_of(3) == topology.cpus_of(99) == ()


@pytest.mark.parametrize(
    ("code", "vendor", "kind"),
    [
        ("0x030200", "0x10de", devices.GPU),  # a data centre GPU of NVIDIA
        ("0x120000", "0x1002", devices.GPU),  # of AMD
        ("0x038000", "0x1002", devices.GPU),
        ("0x030000", "0x10de", devices.GPU),
        ("0x030000", "0x1a03", None),  # a server's management console
        ("0x020700", "0x15b3", devices.NETWORK),  # InfiniBand
        ("0x010802", "0x144d", devices.STORAGE),
        ("0x010601", "0x8086", None),  # SATA
    ],
)
def test_kinds_of_devices_by_class_and_vendor(tmp_path, code, vendor, kind):
    host = FakeHost(tmp_path)
    host.write("sys/bus/pci/devices/0000:ff:00.0/class", code)
    host.write("sys/bus/pci/devices/0000:ff:00.0/vendor", vendor)

    found = {one.address: one.kind for one in read_devices(tmp_path)}

    assert found.get("0000:ff:00.0") == kind


def test_the_nvidia_driver_numbers_its_device_files_by_itself(host):
    # Given a GPU of NVIDIA that a process has open
    address = "0000:1A:00.0"
    host.write(f"sys/bus/pci/devices/{address.lower()}/class", "0x030200")
    host.write(
        f"proc/driver/nvidia/gpus/{address}/information", "Model: \t H200\nDevice Minor: \t 3"
    )
    (host.root / f"proc/{hosts.CORE}/fd/9").symlink_to("/dev/nvidia3")

    used = used_devices(host.root, hosts.CORE, read_devices(host.root))

    assert [one.address for one in used] == [address.lower()]


def test_virtio_network_cards_hang_one_level_further_down(host):
    address = "0000:00:05.0"
    host.write(f"sys/bus/pci/devices/{address}/class", "0x020000")
    host.write(f"sys/bus/pci/devices/{address}/virtio2/net/ens5/operstate", "up")

    found = {one.address: one.names for one in read_devices(host.root)}

    assert found[address] == ("ens5",)


def test_descriptors_that_are_not_ours_to_see_are_not_taken_for_none(host):
    (host.root / f"proc/{hosts.WORKER}/fd").rename(host.root / "elsewhere")

    assert open_device_files(host.root, hosts.WORKER) is None
    found = read_process_facts(host.root, hosts.WORKER, read_devices(host.root), Cgroups(host.root))
    assert found.gpus is None


def test_threads_with_another_affinity_are_named(host):
    host.add_thread(hosts.WORKER, 200, cpus="0-1")
    host.add_thread(hosts.WORKER, 201, cpus="4-7")

    found = read_process_facts(host.root, hosts.WORKER, [], Cgroups(host.root))

    assert found.cpus == (4, 5, 6, 7)
    assert found.thread_cpus == {200: (0, 1)}


@pytest.mark.parametrize(
    ("line", "policy"),
    [
        ("55d0c0000000 bind:0-1 anon=3 dirty=3 N0=3", "bind:0-1"),
        ("55d0c0000000 interleave:0-3 heap anon=1", "interleave:0-3"),
        ("55d0c0000000 prefer (many):1 anon=1", "prefer (many):1"),
        ("55d0c0000000 interleave:" + ",".join(map(str, range(0, 99, 2))), None),  # cut off
        ("", None),
    ],
)
def test_the_memory_policy_is_the_first_mapping_s(host, line, policy):
    host.write(f"proc/{hosts.WORKER}/numa_maps", line)

    found = read_process_facts(host.root, hosts.WORKER, [], Cgroups(host.root))

    assert found.memory_policy == policy


def test_a_real_process_s_policy_is_read_without_walking_its_memory(program):
    found = read_process_facts(facts.ROOT, program.pid, [], Cgroups())

    assert found.memory_policy in {None, "default"}  # None: this kernel has no NUMA
    assert found.cpus == tuple(sorted(os.sched_getaffinity(program.pid)))


@pytest.mark.skipif(not os.path.exists("/proc/self/numa_maps"), reason="a kernel without NUMA")
def test_a_real_policy_of_our_own_shows():
    # Given a child that binds its memory to node 0
    ready, begun = os.pipe()
    done, over = os.pipe()
    child = os.fork()
    if child == 0:
        mask = ctypes.c_ulong(1)
        call = _SET_MEMPOLICY[platform.machine()]
        ctypes.CDLL(None).syscall(call, _BIND, ctypes.byref(mask), 64)
        os.write(begun, b"x")
        os.read(done, 1)
        os._exit(0)
    os.read(ready, 1)

    found = read_process_facts(facts.ROOT, child, [], Cgroups())

    os.write(over, b"x")
    os.waitpid(child, 0)
    assert found.memory_policy == "bind:0"


def test_a_process_that_is_gone_is_told_by_type(host):
    with pytest.raises(ProcessLookupError):
        read_process_facts(host.root, 999, [], Cgroups(host.root))


def test_a_process_that_ends_half_way_is_gone_as_well(tmp_path):
    proc = FakeProc(tmp_path / "proc")
    proc.add(7, [PYTHON])  # it has a status, and no cgroup file any more

    with pytest.raises(ProcessLookupError):
        read_process_facts(tmp_path, 7, [], Cgroups(tmp_path))


@pytest.mark.parametrize(
    ("path", "text", "has_boost"),
    [
        ("cpufreq/boost", "1", True),
        ("cpufreq/boost", "0", False),
        ("intel_pstate/no_turbo", "1", False),
        ("intel_pstate/no_turbo", "0", True),
    ],
)
def test_boost_is_said_in_one_way_by_each_driver(host, path, text, has_boost):
    host.write(f"sys/devices/system/cpu/{path}", text)

    assert read_host_facts(host.root).has_boost is has_boost


def test_isolated_cpus_and_those_without_a_tick(host):
    host.write("sys/devices/system/cpu/isolated", "6-7")
    host.write("sys/devices/system/cpu/nohz_full", "7")

    topology = read_topology(host.root)

    assert (topology.isolated, topology.nohz_full) == ((6, 7), (7,))
