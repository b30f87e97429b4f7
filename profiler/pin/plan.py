"""Which process should run where: a plan made of the machine, the server's processes and its GPUs.

Pure: nothing is read or changed here. The rules:

* Only CPUs that the server may use now are handed out, and whole cores: two busy threads on the two
  hyperthreads of one core slow each other down.
* One core is left to the rest of the machine where there are enough: the lowest one, which takes
  most interrupts unless somebody moved them. Tools go there, and to what nobody else needs.
* Every worker and every engine core gets a core of its own near its GPU, and a second one where
  there are enough: each has a thread that polls shared memory without a break, and threads beside
  it that would stand behind that one.
* The API servers share what is left of that node, `API_CORES` at least where there are so many: the
  tokenizer's pool is only as fast as it has CPUs.
* A worker without a GPU that has bound itself to some CPUs keeps them, and the others keep off.
* Where there is no core for each, nothing is moved but off such a worker's CPUs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from collectors.cpu_lists import format_list
from probes import roles
from probes.host.topology import Topology
from profiler.pin.affinity import Mask
from profiler.pin.cores import Core, Cores, main_node, mask_of

TOOL: Final = "tool"
API_CORES: Final = 2  # the event loop and a tokenizer

_FRONT: Final = frozenset({roles.API_SERVER, roles.LAUNCHER, roles.DP_COORDINATOR})
_ENGINES: Final = frozenset({roles.ENGINE_CORE, roles.WORKER})


@dataclass(frozen=True, slots=True)
class Member:
    """A process of the server, as the plan sees it.

    ``mask`` is that of most of its threads, ``tids``; ``bound_count`` others were bound on purpose,
    to the CPUs ``bound``, and no plan moves them.
    """

    pid: int
    parent_pid: int
    role: str
    name: str
    mask: Mask
    tids: tuple[int, ...]
    bound: Mask = frozenset()
    bound_count: int = 0
    device: str | None = None  # its GPU's address; None: it has none, or nobody says
    device_node: int | None = None


@dataclass(frozen=True, slots=True)
class Placement:
    """What a plan says of one process; ``proposed`` None leaves it where it is."""

    member: Member
    proposed: Mask | None
    why: str

    @property
    def is_move(self) -> bool:
        """Whether the process is to run elsewhere than now."""
        return self.proposed is not None and self.proposed != self.member.mask


@dataclass(frozen=True, slots=True)
class Plan:
    """A placement of each process; ``notes`` say what the plan cannot mend, or why it is none."""

    placements: tuple[Placement, ...]
    notes: tuple[str, ...] = ()

    @property
    def moves(self) -> list[Placement]:
        """The placements that change something."""
        return [placement for placement in self.placements if placement.is_move]


def propose(topology: Topology, members: Sequence[Member], allowed: Mask) -> Plan:
    """Make a plan.

    Args:
        topology: the machine's CPUs and nodes.
        members: the processes to place, each with a role of `probes.roles` or `TOOL`.
        allowed: the CPUs that the server may use.
    """
    own = {one.pid: _bound_by_itself(one, allowed) for one in members}
    taken = frozenset().union(*own.values())
    engines = [one for one in members if one.role in _ENGINES and not own[one.pid]]
    cores = Cores(topology, allowed - taken)
    has_front = any(one.role in _FRONT for one in members)
    needed_count = len(engines) + has_front
    if len(cores.free) < needed_count or len(allowed) < 2:
        return _scarce(members, own, allowed)
    house = cores.free.pop(0) if len(cores.free) > needed_count else None
    given = _give_to_engines(engines, members, cores)
    home = main_node([core for some in given.values() for core in some] or cores.free)
    front = [cores.take(home) for _ in range(min(API_CORES * has_front, len(cores.free)))]
    for some in given.values():
        if cores.on(some[0].node):
            some.append(cores.take(some[0].node))
    front += cores.take_all_of(home) if has_front else []
    rest = [house, *cores.free] if house else []
    placements = []
    for one in members:
        if own[one.pid]:
            placements.append(_kept(one, own[one.pid]))
        elif one.pid in given:
            placements.append(Placement(one, mask_of(given[one.pid]), _why(one, given[one.pid])))
        elif one.role in _FRONT:
            placements.append(Placement(one, mask_of(front), _why_front(front)))
        else:
            why = "off the server's cores" if rest else "no core is left to send it to"
            placements.append(Placement(one, mask_of(rest) or None, why))
    notes = _notes(topology, members, allowed)
    if house is None:
        notes.append("no core is left for the rest of the machine")
    return Plan(tuple(placements), tuple(notes))


def _bound_by_itself(member: Member, allowed: Mask) -> Mask:
    """Return the CPUs that a worker without a GPU has bound itself to, as vLLM's CPU backend does.

    None for one that may run anywhere.
    """
    if member.role != roles.WORKER or member.device is not None:
        return frozenset()
    return member.bound | (member.mask if member.mask < allowed else frozenset())


def _give_to_engines(
    engines: Sequence[Member], members: Sequence[Member], cores: Cores
) -> dict[int, list[Core]]:
    """Hand out a core to each worker and engine core: near its GPU, or near the others."""
    given: dict[int, list[Core]] = {}

    def near(engine: Member) -> int | None:
        if engine.device_node is not None:
            return engine.device_node
        workers = [one.pid for one in members if one.parent_pid == engine.pid]
        beside = [core for pid in workers for core in given.get(pid, [])]
        return main_node(beside or [core for some in given.values() for core in some])

    # Who must be near a GPU chooses first, then engine cores follow their workers.
    for engine in sorted(
        engines, key=lambda one: (one.device_node is None, one.role != roles.WORKER)
    ):
        given[engine.pid] = [cores.take(near(engine))]
    return given


def _scarce(members: Sequence[Member], own: dict[int, Mask], allowed: Mask) -> Plan:
    """Return the plan where there is no core for each: keep off a bound worker's CPUs, or none."""
    taken = frozenset().union(*own.values())
    others = allowed - taken
    if taken and others:
        why = f"off CPU {format_list(taken)}, which the worker keeps to"
        placements = [
            _kept(one, own[one.pid]) if own[one.pid] else Placement(one, others, why)
            for one in members
        ]
        return Plan(tuple(placements), (f"{len(allowed)} CPUs: this is all that can be tried",))
    if len(allowed) < 2:
        note = "nothing to pin: the server may use one CPU"
    else:
        note = (
            f"nothing to pin: {len(allowed)} CPUs are too few to give each busy process a core of "
            "its own, and the kernel shares them out better than fixed masks would"
        )
    return Plan(tuple(Placement(one, None, "as it is") for one in members), (note,))


def _kept(member: Member, own: Mask) -> Placement:
    return Placement(member, None, f"bound to CPU {format_list(own)} already; no GPU is seen")


def _why(member: Member, cores: Sequence[Core]) -> str:
    node, what = cores[0].node, "one core" if len(cores) == 1 else f"{len(cores)} cores"
    own = f"{what} of its own"
    if member.device_node is None:
        if member.device is not None:
            return f"{own}; the node of its GPU is not known"
        beside = "by its workers" if member.role == roles.ENGINE_CORE else "by the others"
        return own if node is None else f"{own} {beside}, node {node}"
    if node != member.device_node:
        return f"{own}; its GPU's node {member.device_node} is full, node {node} is nearest"
    return f"{own} by its GPU, node {node}"


def _why_front(cores: Sequence[Core]) -> str:
    nodes = sorted({core.node for core in cores if core.node is not None})
    where = f", node {format_list(nodes)}" if nodes else ""
    return f"{len(cores)} cores for event loop and tokenizers{where}"


def _notes(topology: Topology, members: Sequence[Member], allowed: Mask) -> list[str]:
    return [
        f"GPU {one.device} is on node {one.device_node}, where the server may use no CPU"
        for one in members
        if one.device_node is not None
        and allowed.isdisjoint(topology.cpus_of(one.device_node))
    ]  # fmt: skip
