"""What a plan is made from, read from a running server: its processes, masks and GPUs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from collectors.errors import TargetExited, TargetNotFound
from probes import roles
from probes.gpu_counters.devices import Search
from probes.gpu_counters.probe import SEARCH_LIMIT_S, find_gpus, within
from probes.gpu_counters.visible import choose
from probes.host.devices import GPU, Device, read_devices, used_devices
from probes.host.topology import Topology, read_topology
from probes.target import Process, Target
from profiler.pin.affinity import Kernel, Mask, common_mask, read_masks
from profiler.pin.plan import TOOL, Member

# It does next to nothing, and belongs to Python and not to the server.
_LEFT_ALONE = frozenset({roles.RESOURCE_TRACKER})


@dataclass(frozen=True, slots=True)
class Survey:
    """The machine, the server's processes, and the CPUs that the server may use.

    Those are the CPUs that any of its threads may run on now: what its container's cpuset lets it
    have, or whoever started it. A plan never goes beyond.
    """

    topology: Topology
    members: tuple[Member, ...]
    allowed: Mask


def survey(
    target: Target,
    kernel: Kernel,
    tools: Sequence[int] = (),
    *,
    root: Path = Path("/"),
    find: Callable[[], Sequence[Search]] = find_gpus,
) -> Survey:
    """Look at a server from outside.

    Args:
        target: the server.
        kernel: tells the masks.
        tools: PIDs of other processes that work for it, such as an agent's tools.
        root: where ``/sys`` and ``/proc`` are.
        find: looks for GPUs as their drivers number them.

    Raises:
        TargetExited: none of the server's processes is left.
        TargetNotFound: there is no tool with such a PID.
    """
    devices = _devices(target, root, find)
    members = []
    for process in target.processes.values():
        if process.role not in _LEFT_ALONE:
            role = process.role if process.role in roles.SERVER_ROLES else TOOL
            member = _member(kernel, process, role, devices.get(process.pid))
            members += [member] if member is not None else []
    allowed = frozenset().union(*(one.mask | one.bound for one in members))
    if not allowed:
        raise TargetExited("the server has exited", "find a live one: cputax ps")
    members += [_tool(target, kernel, pid) for pid in tools]
    return Survey(read_topology(root), tuple(members), allowed)


def _tool(target: Target, kernel: Kernel, pid: int) -> Member:
    try:
        stat = target.procfs.stat(pid)
    except ProcessLookupError:
        stat = None
    if stat is not None:
        process = Process(pid, stat.start_ticks, stat.parent_pid, TOOL, TOOL, stat.comm, ())
        member = _member(kernel, process, TOOL, None)
        if member is not None:
            return member
    raise TargetNotFound(f"no process has PID {pid}", "check the PID that --tool gives")


def _member(kernel: Kernel, process: Process, role: str, device: Device | None) -> Member | None:
    """Describe a process; None when it is gone."""
    threads = read_masks(kernel, process.pid)
    if not threads:
        return None
    mask = common_mask(threads.values())
    tids = tuple(tid for tid, thread in threads.items() if thread.mask == mask)
    others = [thread.mask for thread in threads.values() if thread.mask != mask]
    return Member(
        process.pid, process.parent_pid, role, process.name, mask, tids,
        frozenset().union(*others), len(others),
        device.address if device else None, device.node if device else None,
    )  # fmt: skip


def _devices(target: Target, root: Path, find: Callable[[], Sequence[Search]]) -> dict[int, Device]:
    """Return the GPU of each process that computes on one, by PID.

    A process that has opened one GPU uses that. CUDA and HIP open all that they are shown: then the
    worker's rank tells, among those that the server is shown.
    """
    gpus = [device for device in read_devices(root) if device.kind == GPU]
    if not gpus:
        return {}
    searches = within(SEARCH_LIMIT_S, lambda: list(find())) or []
    choice = choose(target, [gpu for search in searches for gpu in search.gpus])
    by_address = {gpu.address: gpu for gpu in gpus}
    shown = [by_address[one.bus] for one in choice.gpus if one.bus in by_address]
    found = {}
    for rank, process in enumerate(_computing(target)):
        opened = used_devices(root, process.pid, gpus)
        place = process.rank if process.rank is not None else rank
        if len(opened) == 1:
            found[process.pid] = opened[0]
        elif place < len(shown):
            found[process.pid] = shown[place]
        elif place < len(opened):
            found[process.pid] = opened[place]
    return found


def _computing(target: Target) -> list[Process]:
    """Return the workers by rank; without any, the engine cores that do their work themselves."""
    workers = sorted(target.of_role(roles.WORKER), key=lambda worker: worker.rank or 0)
    return workers or target.of_role(roles.ENGINE_CORE)
