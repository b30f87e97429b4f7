"""What does not change while one looks: the machine, its settings, and where each process may be.

A process's own facts are those of the moment at which it was taken up.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from collectors.cpu_lists import parse_list
from probes.cgroups import CgroupLimit, Cgroups, Cpuset
from probes.host.devices import GPU, Device, open_device_files, read_devices, used_devices
from probes.host.files import ROOT, in_bytes, names_in, read_int, read_rows, read_text
from probes.host.topology import Topology, read_topology

_CHOSEN = re.compile(r"\[(\w[\w+-]*)\]")  # of "always [madvise] never"
_MODEL = re.compile(r"^(?:model name|Model)\s*:\s*(.+)$", re.MULTILINE)
# One of its policies has a space in its name. Something must follow: the last word may be cut off.
_POLICY = re.compile(r"[0-9a-f]+ (prefer \(many\)\S*|\S+)\s")
# The first mapping's line of numa_maps begins with its address and the policy. The kernel walks no
# more mappings than fill the read, so a short one costs a walk of the first mapping alone; reading
# the file whole walks every page of the process and stalls it.
_POLICY_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class HostFacts:
    """The machine and those of its settings that cost time; None: not to be read here."""

    topology: Topology
    devices: tuple[Device, ...]
    cpu_model: str | None
    governors: dict[str, tuple[int, ...]]  # frequency governor: its CPUs; empty: no cpufreq
    has_boost: bool | None
    huge_pages: str | None  # transparent ones: always, madvise, never
    huge_page_defrag: str | None
    numa_balancing: int | None  # the kernel moves pages after their users: 0 is off
    swap_total_bytes: int | None
    swap_free_bytes: int | None
    swappiness: int | None


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """Where one process may run and allocate; None: not to be read, or it is gone."""

    cpus: tuple[int, ...] | None  # its main thread may run on
    thread_cpus: dict[int, tuple[int, ...]]  # by tid, of the threads that differ from that
    nodes: tuple[int, ...] | None  # it may allocate on
    memory_policy: str | None  # of the main thread: default, bind:0, interleave:0-3, ...
    swapped_bytes: int | None
    gpus: tuple[str, ...] | None  # PCI addresses of those whose device files it has open
    cpuset: Cpuset | None
    limits: tuple[CgroupLimit, ...]


def read_host_facts(root: Path = ROOT) -> HostFacts:
    """Read the machine below ``root``."""
    system, vm = root / "sys/devices/system/cpu", root / "proc/sys/vm"
    huge = root / "sys/kernel/mm/transparent_hugepage"
    memory = read_rows(root / "proc/meminfo") or {}
    boost = read_int(system / "cpufreq/boost")
    no_turbo = read_int(system / "intel_pstate/no_turbo")
    model = _MODEL.search(read_text(root / "proc/cpuinfo") or "")
    return HostFacts(
        topology=read_topology(root),
        devices=tuple(read_devices(root)),
        cpu_model=model[1].strip() if model else None,
        governors=_governors(system),
        has_boost=bool(boost) if boost is not None else None if no_turbo is None else not no_turbo,
        huge_pages=_chosen(huge / "enabled"),
        huge_page_defrag=_chosen(huge / "defrag"),
        numa_balancing=read_int(root / "proc/sys/kernel/numa_balancing"),
        swap_total_bytes=in_bytes(memory.get("SwapTotal")),
        swap_free_bytes=in_bytes(memory.get("SwapFree")),
        swappiness=read_int(vm / "swappiness"),
    )


def read_process_facts(
    root: Path, pid: int, devices: Sequence[Device], cgroups: Cgroups
) -> ProcessFacts:
    """Read one process below ``root``.

    Raises:
        ProcessLookupError: it is gone.
    """
    directory = root / "proc" / str(pid)
    status = _Status.read(directory / "status")
    if status is None:
        raise ProcessLookupError(f"gone: {pid}")
    gpus = [device for device in devices if device.kind == GPU]
    is_visible = open_device_files(root, pid) is not None
    return ProcessFacts(
        cpus=status.cpus,
        thread_cpus=_thread_cpus(directory, status.cpus),
        nodes=status.nodes,
        memory_policy=_memory_policy(directory / "numa_maps"),
        swapped_bytes=status.swapped_bytes,
        gpus=tuple(gpu.address for gpu in used_devices(root, pid, gpus)) if is_visible else None,
        cpuset=cgroups.cpuset(pid),
        limits=tuple(cgroups.limits(pid)),
    )


@dataclass(frozen=True, slots=True)
class _Status:
    """The lines of /proc/PID/status that say where; layout: proc(5)."""

    cpus: tuple[int, ...] | None
    nodes: tuple[int, ...] | None
    swapped_bytes: int | None

    @classmethod
    def read(cls, path: Path) -> _Status | None:
        rows = read_rows(path)
        if rows is None:
            return None
        return cls(
            _listed(rows.get("Cpus_allowed_list")),
            _listed(rows.get("Mems_allowed_list")),
            in_bytes(rows.get("VmSwap")),
        )


def _listed(text: str | None) -> tuple[int, ...] | None:
    try:
        return None if text is None else parse_list(text)
    except ValueError:
        return None


def _thread_cpus(directory: Path, main_cpus: tuple[int, ...] | None) -> dict[int, tuple[int, ...]]:
    found = {}
    for name in names_in(directory / "task"):
        status = _Status.read(directory / "task" / name / "status")
        if name.isdecimal() and status and status.cpus not in (None, main_cpus):
            found[int(name)] = status.cpus or ()
    return found


def _memory_policy(path: Path) -> str | None:
    """Return the policy of the first mapping: the process's own, as hardly any has another."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # refused, or a kernel without NUMA
        return None
    try:
        text = os.read(descriptor, _POLICY_BYTES).decode("ascii", "replace")
    except OSError:
        return None
    finally:
        os.close(descriptor)
    policy = _POLICY.match(text)
    return policy[1] if policy else None


def _governors(system: Path) -> dict[str, tuple[int, ...]]:
    found: dict[str, list[int]] = {}
    for name in names_in(system):
        number = name.removeprefix("cpu")
        if number.isdecimal() and number != name:
            governor = read_text(system / name / "cpufreq/scaling_governor")
            if governor:
                found.setdefault(governor, []).append(int(number))
    return {governor: tuple(sorted(cpus)) for governor, cpus in found.items()}


def _chosen(path: Path) -> str | None:
    chosen = _CHOSEN.search(read_text(path) or "")
    return chosen[1] if chosen else None
