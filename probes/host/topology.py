"""What the machine is made of: memory nodes, CPUs, sockets, SMT siblings, shared caches.

Layouts: Documentation/ABI/stable/sysfs-devices-node, sysfs-devices-system-cpu and
Documentation/admin-guide/cputopology.rst of the kernel.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from probes.host.files import ROOT, names_in, read_int, read_list, read_text

LOCAL_DISTANCE: Final = 10  # of a node to itself (ACPI 6.5, 5.2.17: System Locality Information)
# The highest cache index is the last level: L1 data, L1 instruction, L2, L3, rarely L4.
_CACHE_INDICES: Final = (4, 3, 2)
_MEMORY = re.compile(r"Node \d+ (MemTotal|MemFree):\s+(\d+) kB")


@dataclass(frozen=True, slots=True)
class Node:
    """A memory node. One without CPUs (CXL, HBM) or without memory is a node too."""

    node: int
    cpus: tuple[int, ...]  # online ones
    memory_total_bytes: int | None
    memory_free_bytes: int | None  # when it was read
    distances: tuple[int, ...]  # to each node of the topology, in its order; empty: unknown


@dataclass(frozen=True, slots=True)
class Cpu:
    """A CPU that is online, as the scheduler counts them."""

    cpu: int
    node: int | None
    package: int | None  # the socket
    siblings: tuple[int, ...]  # CPUs of the same core (SMT), itself included
    cache: int | None  # the lowest CPU that shares its last-level cache


@dataclass(frozen=True, slots=True)
class Topology:
    """The machine. ``nodes`` is empty where the kernel shows none (no NUMA, or hidden from us)."""

    nodes: tuple[Node, ...]
    cpus: tuple[Cpu, ...]
    isolated: tuple[int, ...]  # isolcpus=: the scheduler puts nobody there by itself
    nohz_full: tuple[int, ...]  # without the tick while one thread runs

    @property
    def has_one_node(self) -> bool:
        """Whether no memory can be remote, as far as the kernel shows."""
        return len(self.nodes) <= 1

    @property
    def has_smt(self) -> bool:
        """Whether some core shows as several CPUs."""
        return any(len(cpu.siblings) > 1 for cpu in self.cpus)

    def node_of(self, cpu: int) -> int | None:
        """Return the node of a CPU; None when nobody knows it."""
        return next((node.node for node in self.nodes if cpu in node.cpus), None)

    def cpus_of(self, node: int) -> tuple[int, ...]:
        """Return the online CPUs of a node."""
        return next((one.cpus for one in self.nodes if one.node == node), ())

    def distance(self, first: int, second: int) -> int | None:
        """Return the firmware's relative distance of two nodes; 10 is local, 20 twice as far."""
        order = [node.node for node in self.nodes]
        if first not in order or second not in order:
            return None
        distances = self.nodes[order.index(first)].distances
        return distances[order.index(second)] if distances else None


def read_topology(root: Path = ROOT) -> Topology:
    """Read the topology below ``root``; what cannot be read is None or empty."""
    system = root / "sys/devices/system"
    online = read_list(system / "cpu/online")
    if online is None:
        online = _numbered(system / "cpu", "cpu")
    nodes = read_list(system / "node/online")
    if nodes is None:
        nodes = _numbered(system / "node", "node")
    found = tuple(_read_node(system / f"node/node{node}", node, len(nodes)) for node in nodes)
    node_by_cpu = {cpu: node.node for node in found for cpu in node.cpus}
    return Topology(
        nodes=found,
        cpus=tuple(_read_cpu(f"{system}/cpu/cpu{cpu}", cpu, node_by_cpu) for cpu in online),
        isolated=read_list(system / "cpu/isolated") or (),
        nohz_full=read_list(system / "cpu/nohz_full") or (),
    )


def _read_node(directory: Path, node: int, count: int) -> Node:
    memory = dict(_MEMORY.findall(read_text(directory / "meminfo") or ""))
    words = (read_text(directory / "distance") or "").split()
    is_whole = len(words) == count and all(word.isdecimal() for word in words)
    return Node(
        node=node,
        cpus=read_list(directory / "cpulist") or (),
        memory_total_bytes=_bytes(memory.get("MemTotal")),
        memory_free_bytes=_bytes(memory.get("MemFree")),
        distances=tuple(map(int, words)) if is_whole else (),
    )


def _bytes(kibibytes: str | None) -> int | None:
    return None if kibibytes is None else int(kibibytes) * 1024


def _read_cpu(directory: str, cpu: int, node_by_cpu: dict[int, int]) -> Cpu:
    package = read_int(f"{directory}/topology/physical_package_id")
    caches = (read_list(f"{directory}/cache/index{i}/shared_cpu_list") for i in _CACHE_INDICES)
    return Cpu(
        cpu=cpu,
        node=node_by_cpu.get(cpu),
        package=None if package is None or package < 0 else package,  # -1: the firmware says none
        siblings=read_list(f"{directory}/topology/thread_siblings_list") or (cpu,),
        cache=next((min(cache) for cache in caches if cache), None),
    )


def _numbered(directory: Path, prefix: str) -> tuple[int, ...]:
    """Return the N of the ``prefixN`` in a directory."""
    rests = (name.removeprefix(prefix) for name in names_in(directory) if name.startswith(prefix))
    return tuple(sorted(int(rest) for rest in rests if rest.isdecimal()))
