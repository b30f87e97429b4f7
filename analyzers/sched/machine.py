"""The machine as the host probe described it: memory nodes, GPUs, and where processes may run.

This is the only place that reads that description (``detail`` of the probe's record in the
manifest: ``host.topology``, ``host.devices``, ``processes``). What it lacks is None or empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from analyzers.timeline import Process, Thread, Timeline

PROBE: Final = "host"
GPU: Final = "gpu"
UNKNOWN_NODE: Final = -1
LOCAL_DISTANCE: Final = 10
# What the firmware says of two sockets; 10 is local. Below it two nodes are parts of one socket.
FAR_DISTANCE: Final = 20


@dataclass(frozen=True, slots=True)
class Place:
    """Where one process may run, and which GPUs it has open (PCI addresses); None: not known."""

    cpus: frozenset[int] | None = None
    thread_cpus: Mapping[int, frozenset[int]] = field(default_factory=dict)  # where they differ
    gpus: tuple[str, ...] | None = None
    quota_cpus: float | None = None  # the smallest of its groups'


@dataclass(frozen=True, slots=True)
class Machine:
    """Nodes of memory with their CPUs and distances, and the node of each GPU."""

    node_cpus: Mapping[int, frozenset[int]] = field(default_factory=dict)
    distances: Mapping[tuple[int, int], int] = field(default_factory=dict)
    gpu_nodes: Mapping[str, int] = field(default_factory=dict)  # only of those that are known
    places: Mapping[int, Place] = field(default_factory=dict)  # by PID
    host_cpu_count: int | None = None  # where nothing better is known: what cputax may use

    @property
    def has_nodes(self) -> bool:
        """Whether memory can be remote at all."""
        return len(self.node_cpus) > 1

    def node_of(self, cpu: NDArray[np.int16]) -> NDArray[np.int16]:
        """Return the node of each CPU; `UNKNOWN_NODE` where it is not known."""
        highest = max((max(cpus, default=0) for cpus in self.node_cpus.values()), default=0)
        node = np.full(max(highest, int(cpu.max(initial=0))) + 1, UNKNOWN_NODE, np.int16)
        for one, cpus in self.node_cpus.items():
            node[list(cpus)] = one
        return node[cpu]

    def distance(self, one: int, other: int) -> int:
        """Return the firmware's distance; `FAR_DISTANCE` where it does not say."""
        if one == other:
            return LOCAL_DISTANCE
        return self.distances.get((one, other), FAR_DISTANCE)

    def home_nodes(self, process: Process) -> frozenset[int]:
        """Return the nodes of the GPUs that the process has open, else of all GPUs; maybe none."""
        place = self.places.get(process.pid)
        own = [] if place is None or place.gpus is None else place.gpus
        nodes = frozenset(self.gpu_nodes[one] for one in own if one in self.gpu_nodes)
        return nodes or frozenset(self.gpu_nodes.values())

    def is_far(self, node: int, homes: frozenset[int]) -> bool:
        """Whether a node is off all of these, and not in the same socket as one."""
        return all(self.distance(home, node) >= FAR_DISTANCE for home in homes)

    def allowed_cpus(self, thread: Thread) -> frozenset[int] | None:
        """Return where a thread may run; None: not known."""
        place = self.places.get(thread.process.pid)
        return None if place is None else place.thread_cpus.get(thread.tid, place.cpus)

    @property
    def allowed_cpu_count(self) -> int | None:
        """How many CPUs the target may use, all its processes together."""
        known = [one for one in self.places.values() if one.cpus is not None]
        allowed = frozenset[int]().union(
            *(one.cpus or () for one in known),
            *(cpus for one in known for cpus in one.thread_cpus.values()),
        )
        return len(allowed) or self.host_cpu_count

    @property
    def allowed_source(self) -> str | None:
        """Who said so: the target's affinity, or, without the host probe, cputax's own."""
        if any(one.cpus for one in self.places.values()):
            return "affinity"
        return None if self.host_cpu_count is None else "host"

    @property
    def quota_cpus(self) -> float | None:
        """The quota over the target, the largest of its processes'; None: not all have one."""
        quotas = [one.quota_cpus for one in self.places.values()]
        known = [one for one in quotas if one is not None]
        return max(known) if known and len(known) == len(quotas) else None

    @property
    def usable_cpu_count(self) -> float | None:
        """How many CPUs' worth of time the target can get."""
        limits = [one for one in (self.allowed_cpu_count, self.quota_cpus) if one]
        return min(limits) if limits else None


def read_machine(timeline: Timeline) -> Machine:
    """Return the machine of a capture; an empty one where no host probe described it."""
    manifest = timeline.capture.manifest
    count = manifest.host.get("allowed_cpu_count")
    details = [record.detail for record in manifest.probes if record.name == PROBE]
    detail = details[0] if details else {}
    host = detail.get("host") or {}
    nodes = (host.get("topology") or {}).get("nodes") or []
    numbers = [node["node"] for node in nodes]
    return Machine(
        {node["node"]: frozenset(node["cpus"]) for node in nodes},
        {
            (node["node"], other): distance
            for node in nodes
            for other, distance in zip(numbers, node.get("distances") or (), strict=False)
        },
        {
            device["address"]: device["node"]
            for device in host.get("devices") or []
            if device["kind"] == GPU and device["node"] is not None
        },
        {int(pid): _place(one) for pid, one in (detail.get("processes") or {}).items()},
        count if isinstance(count, int) else None,
    )


def _place(row: Mapping[str, Any]) -> Place:
    quotas = [one["quota_cpus"] for one in row.get("limits") or () if one["quota_cpus"] is not None]
    cpus, gpus = row.get("cpus"), row.get("gpus")
    return Place(
        None if cpus is None else frozenset(cpus),
        {int(tid): frozenset(one) for tid, one in (row.get("thread_cpus") or {}).items()},
        None if gpus is None else tuple(gpus),
        min(quotas, default=None),
    )
