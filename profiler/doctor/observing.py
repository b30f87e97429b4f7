"""Reads the server's processes: files they have mapped, where they may run, what they use."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from collectors.cpu_lists import parse_list
from probes.environment import read_variables
from probes.host.devices import GPU, Device, read_devices, used_devices
from probes.host.files import in_bytes, read_rows, read_text
from probes.target import Process, Target
from profiler.doctor.evidence import Missing, ProcessEvidence
from profiler.doctor.variables import SHOWN

LOOKS: Final = 10
LOOK_INTERVAL_S: Final = 0.1
_PRIVILEGE: Final = "run cputax as the server's user or as root"
_MAPPED = re.compile(r"(?:\S+\s+){5}(/.*)")  # address, permissions, offset, device, inode, path
_DELETED: Final = " (deleted)"


def read_processes(target: Target, root: Path) -> tuple[ProcessEvidence, ...]:
    """Read every process of the tree once, as far as it lets us."""
    gpus = [device for device in read_devices(root) if device.kind == GPU]
    return tuple(read_process(target, process, root, gpus) for process in target.python_processes)


def read_process(
    target: Target, process: Process, root: Path, gpus: Sequence[Device]
) -> ProcessEvidence:
    """Read one process."""
    directory = root / "proc" / str(process.pid)
    status = read_rows(directory / "status") or {}
    allowed = status.get("Cpus_allowed_list")
    tracer_pid = int(status.get("TracerPid", "0"))
    return ProcessEvidence(
        pid=process.pid,
        role=process.role,
        name=f"{_said(process)} ({process.pid})",
        libraries=_read_libraries(directory),
        variables=read_variables(target.procfs, process.pid, SHOWN),
        allowed_cpus=Missing("its status cannot be read", _PRIVILEGE)
        if allowed is None
        else frozenset(parse_list(allowed)),
        swap_bytes=in_bytes(status.get("VmSwap")),
        tracer=_program(root, tracer_pid) if tracer_pid else None,
        gpus=tuple(used_devices(root, process.pid, gpus)),
    )


def watch(
    target: Target,
    processes: Sequence[ProcessEvidence],
    *,
    looks: int = LOOKS,
    pause: Callable[[float], None] = time.sleep,
) -> tuple[ProcessEvidence, ...]:
    """Look where each main thread last ran, ``looks`` times."""
    seen: dict[int, list[int]] = {process.pid: [] for process in processes}
    for number in range(looks):
        if number:
            pause(LOOK_INTERVAL_S)
        for process in processes:
            try:
                seen[process.pid].append(target.procfs.stat(process.pid).last_cpu)
            except OSError:  # it ended, or is not ours to see
                continue
    return tuple(replace(process, seen_cpus=tuple(seen[process.pid])) for process in processes)


def _said(process: Process) -> str:
    """Return vLLM's own title of a process, else its role."""
    return process.name if "::" in process.name else process.role.replace("_", " ")


def _read_libraries(directory: Path) -> frozenset[str] | Missing:
    text = read_text(directory / "maps")
    if not text:
        return Missing("the files that it has mapped cannot be read", _PRIVILEGE)
    found = (_MAPPED.match(line) for line in text.splitlines())
    return frozenset(one[1].removesuffix(_DELETED) for one in found if one)


def _program(root: Path, pid: int) -> str:
    return f"{read_text(root / 'proc' / str(pid) / 'comm') or 'a process'} ({pid})"
