"""Check of where the engine and the workers run: near their GPU, or across the machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from collectors.cpu_lists import format_list
from probes import roles
from probes.host.topology import Topology
from profiler.doctor import settings
from profiler.doctor.check import Answer, Check, Severity, fine, fires, not_applicable
from profiler.doctor.evidence import CannotTell, Evidence, ProcessEvidence, known

_MOSTLY: Final = 0.5  # of the looks: a thread that wanders is nearly never caught there
_SHOWN: Final = 3  # processes; the others are off in the same way
_FAR: Final = 20  # distance of a node across the socket's border (ACPI SLIT: 10 is local)


def _ask_nodes(evidence: Evidence) -> Answer:
    if settings.accelerator(evidence) == settings.CPU:
        return not_applicable("no GPU to be near to")
    topology = known(evidence.host.topology)
    if topology.has_one_node:
        return not_applicable("one memory node")
    watched = evidence.of_role(roles.ENGINE_CORE, roles.WORKER)
    off: list[str] = []
    near: list[str] = []
    unsure: list[str] = []
    for process in watched:
        nodes = _gpu_nodes(process, watched)
        if not nodes:
            unsure.append(process.name)
            continue
        seen = _is_off(process, nodes, topology)
        (near if seen is None else off).append(seen or process.name)
    if off:
        wanted = {node for process in watched for node in _gpu_nodes(process, watched)}
        cpus = format_list(cpu for node in wanted for cpu in topology.cpus_of(node))
        more = [f"and {len(off) - _SHOWN} more"] if len(off) > _SHOWN else []
        return fires(*off[:_SHOWN], *more, fix=f"{_FIX}\n# by hand: taskset -a -c -p {cpus} PID")
    if unsure:
        raise CannotTell(
            f"nothing tells the node of the GPU of {unsure[0]}",
            "run cputax as the server's user or as root, on the host",
        )
    return fine(f"{len(near)} processes on the nodes of their GPUs")


def _gpu_nodes(process: ProcessEvidence, watched: Sequence[ProcessEvidence]) -> set[int]:
    """Return the nodes of the GPUs that a process uses; the engine core's are its workers'."""
    users = [process] if process.gpus else list(watched)
    nodes = [gpu.node for user in users for gpu in user.gpus]
    return set() if None in nodes else {node for node in nodes if node is not None}


def _is_off(process: ProcessEvidence, nodes: set[int], topology: Topology) -> str | None:
    """Say how a process is off its GPU's nodes; None when it is not."""
    cpus = {cpu for node in nodes for cpu in topology.cpus_of(node)}
    allowed = known(process.allowed_cpus)
    wanted = f"its GPU is on node {format_list(nodes)}"
    if not allowed & cpus:
        return f"{process.name} may only use CPUs {format_list(allowed)}; {wanted}"
    away = [cpu for cpu in process.seen_cpus if cpu not in cpus]
    far = [cpu for cpu in away if _is_far(topology, cpu, nodes)]
    if far and len(far) > _MOSTLY * len(process.seen_cpus):
        said = f"{process.name} ran off its GPU's node at {len(far)} of {len(process.seen_cpus)}"
        return f"{said} looks (CPUs {format_list(far)}); {wanted}"
    return None


def _is_far(topology: Topology, cpu: int, nodes: set[int]) -> bool:
    here = topology.node_of(cpu)
    distances = [topology.distance(here, node) for node in nodes] if here is not None else []
    return not distances or any(one is None or one >= _FAR for one in distances)


_FIX: Final = "cputax pin --plan PID     # then --trial, which measures whether it gains anything"

CHECKS: Final = (
    Check(
        "off-gpu-node",
        "The engine or a worker runs on another memory node than its GPU",
        Severity.WARNING,
        "open device files, PCI numa_node, affinity, last CPU at each look, node distances",
        "its affinity leaves out the GPU's node, or it was seen at a distance of 20 or more at "
        "over half of the looks",
        "Each launch and each copy crosses the socket. The published study expects 1 to 2 %; it "
        "did not measure it, so measure before you keep it.",
        _FIX,
        _ask_nodes,
    ),
)
