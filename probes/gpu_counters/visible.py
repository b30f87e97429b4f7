"""Which of the machine's GPUs a server uses, as far as that can be told from outside.

Two signs: the device files that its processes have open, and the variables that narrow what the
vendor's runtime shows it. The variables count within what the server may open: a container that
was given one GPU calls it 0.

* AMD, ``ROCR_VISIBLE_DEVICES`` and then ``HIP_VISIBLE_DEVICES`` (else ``CUDA_VISIBLE_DEVICES``):
  https://rocm.docs.amd.com/en/latest/conceptual/gpu-isolation.html
* NVIDIA, ``CUDA_VISIBLE_DEVICES``:
  https://docs.nvidia.com/cuda/cuda-c-programming-guide/index.html#cuda-environment-variables
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from probes.environment import read_variables
from probes.gpu_counters import amd_sysfs
from probes.gpu_counters.devices import Gpu
from probes.procfs import Procfs
from probes.target import Target

_ROCR: Final = "ROCR_VISIBLE_DEVICES"
_HIP: Final = "HIP_VISIBLE_DEVICES"
_CUDA: Final = "CUDA_VISIBLE_DEVICES"
_NONE: Final = frozenset({"", "-1"})
_NODE = re.compile(r"/dev/(?:dri/renderD|nvidia)\d+")


@dataclass(frozen=True, slots=True)
class Choice:
    """The GPUs to read, each under the index by which the server knows it, and how that was told.

    ``told_by`` is empty when nothing tells, and all GPUs are read.
    """

    gpus: tuple[Gpu, ...]
    told_by: str


def choose(target: Target, gpus: Sequence[Gpu]) -> Choice:
    """Choose those of ``gpus`` that ``target`` uses."""
    variables = read_variables(target.procfs, target.root_pid, (_ROCR, _HIP, _CUDA))
    nodes = {node for pid in target.processes for node in _open_nodes(target.procfs, pid)}
    opened = [gpu for gpu in gpus if gpu.node in nodes]
    told_by = ["open device files"] if 0 < len(opened) < len(gpus) else []
    chosen: list[Gpu] = []
    for vendor in dict.fromkeys(gpu.vendor for gpu in gpus):
        everyone = [gpu for gpu in gpus if gpu.vendor == vendor]
        shown = [gpu for gpu in opened if gpu.vendor == vendor] or everyone
        for name in _heeded(vendor, variables):
            named = _named(variables[name], shown)
            if named is None:
                named = _named(variables[name], everyone)
            if named is not None:
                told_by.append(name)
                shown = everyone = [gpu.renumbered(place) for place, gpu in enumerate(named)]
        chosen += shown
    return Choice(tuple(chosen), ", ".join(dict.fromkeys(told_by)))


def _heeded(vendor: str, variables: dict[str, str]) -> list[str]:
    """Return the variables that narrow what this vendor's runtime shows, in their order."""
    if vendor == amd_sysfs.VENDOR:
        return [name for name in (_ROCR, _HIP if _HIP in variables else _CUDA) if name in variables]
    return [_CUDA] if _CUDA in variables else []


def _named(value: str, gpus: Sequence[Gpu]) -> list[Gpu] | None:
    """Return the GPUs that a variable's value names; None when it names one that is not there."""
    if value.strip() in _NONE:
        return []
    named = []
    for word in (part.strip() for part in value.split(",")):
        if word.isdecimal():
            matching = list(gpus[int(word) : int(word) + 1])
        else:
            matching = [gpu for gpu in gpus if word and gpu.uuid and gpu.uuid.startswith(word)]
        if len(matching) != 1:
            return None
        named += matching
    return named


def _open_nodes(procfs: Procfs, pid: int) -> set[str]:
    """Return the GPUs' device files that a process has open."""
    directory = procfs.root / str(pid) / "fd"
    found: set[str] = set()
    try:
        names = os.listdir(directory)
    except OSError:
        return found
    for name in names:
        try:
            link = os.readlink(directory / name)
        except OSError:  # closed since
            continue
        if _NODE.fullmatch(link):
            found.add(link)
    return found
