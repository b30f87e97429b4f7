"""Whole cores to hand out: the hyperthreads of one stay together, and nodes have distances."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from probes.host.topology import LOCAL_DISTANCE, Topology
from profiler.pin.affinity import Mask


@dataclass(frozen=True, slots=True)
class Core:
    """A core's CPUs, as far as they may be used; ``node`` None where the kernel shows none."""

    cpus: tuple[int, ...]
    node: int | None


class Cores:
    """The cores of a machine that are still free."""

    def __init__(self, topology: Topology, usable: Iterable[int]) -> None:
        self._topology = topology
        allowed = frozenset(usable)
        cores = {
            Core(tuple(sorted(allowed.intersection(cpu.siblings))), cpu.node)
            for cpu in topology.cpus
            if cpu.cpu in allowed
        }
        self.free = sorted(cores, key=lambda core: core.cpus)

    def take(self, near: int | None) -> Core:
        """Hand out the free core nearest to a node, or of the roomiest node if ``near`` is None.

        There must be one.
        """
        room = Counter(core.node for core in self.free)

        def rank(core: Core) -> tuple[int, int, tuple[int, ...]]:
            return self._distance(near, core.node), -room[core.node], core.cpus

        best = min(self.free, key=rank)
        self.free.remove(best)
        return best

    def take_all_of(self, node: int | None) -> list[Core]:
        """Hand out all free cores of a node."""
        taken = self.on(node)
        self.free = [core for core in self.free if core.node != node]
        return taken

    def on(self, node: int | None) -> list[Core]:
        """Return the free cores of a node."""
        return [core for core in self.free if core.node == node]

    def _distance(self, first: int | None, second: int | None) -> int:
        if first is None or second is None:
            return 0
        far = self._topology.distance(first, second)
        return far if far is not None else LOCAL_DISTANCE + (first != second)


def mask_of(cores: Sequence[Core]) -> Mask:
    """Return the CPUs of some cores."""
    return frozenset(cpu for core in cores for cpu in core.cpus)


def main_node(cores: Iterable[Core]) -> int | None:
    """Return the node that most of the cores are on; None for no cores."""
    counts = Counter(core.node for core in cores)
    return counts.most_common(1)[0][0] if counts else None
