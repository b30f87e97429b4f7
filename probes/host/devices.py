"""GPUs, network and storage devices on PCI, and the memory node that each is nearest to.

Layout: Documentation/ABI/testing/sysfs-bus-pci of the kernel. Class codes: PCI Code and ID
Assignment Specification, as in include/linux/pci_ids.h.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from probes.host.files import ROOT, names_in, read_int, read_list, read_text

GPU: Final = "gpu"
NETWORK: Final = "network"
STORAGE: Final = "storage"

# Class and subclass, the upper 16 of the 24 bits of ``class``.
_VGA: Final = 0x0300
_ACCELERATORS: Final = frozenset({0x0302, 0x0380, 0x1200})  # 3D, other display, processing
_STORAGE: Final = frozenset({0x0108})  # NVMe
_NETWORK_CLASS: Final = 0x02
# AMD, NVIDIA, Intel. The VGA of any other vendor is a server's management console or a virtual
# machine's screen.
_GPU_VENDORS: Final = frozenset({0x1002, 0x10DE, 0x8086})
_NAME_DIRECTORIES: Final = {
    GPU: ("drm",),
    NETWORK: ("net", "infiniband"),
    STORAGE: ("nvme",),
}
_MINOR = re.compile(r"Device Minor:\s*(\d+)")


@dataclass(frozen=True, slots=True)
class Device:
    """One function of a PCI device."""

    address: str  # domain:bus:device.function
    kind: str  # GPU, NETWORK, STORAGE
    vendor: int | None
    node: int | None  # the nearest; None: the firmware does not say
    cpus: tuple[int, ...]  # those of that node; of all nodes when it is unknown
    driver: str | None
    names: tuple[str, ...]  # card0, renderD128, nvidia0; eth0, mlx5_0; nvme0


def read_devices(root: Path = ROOT) -> list[Device]:
    """Return the GPUs, network and NVMe devices below ``root``, by address."""
    directory = root / "sys/bus/pci/devices"
    minors = _nvidia_names(root)
    found = []
    for address in names_in(directory):
        kind = _kind(directory / address)
        if kind is not None:
            found.append(_read_device(directory / address, kind, minors.get(address)))
    return found


def open_device_files(root: Path, pid: int) -> frozenset[str] | None:
    """Return the names of the device files (below /dev) that the process has open.

    None when it is gone or not ours to look at.
    """
    directory = root / "proc" / str(pid) / "fd"
    try:
        descriptors = os.listdir(directory)
    except OSError:
        return None
    names: set[str] = set()
    for descriptor in descriptors:
        try:
            link = os.readlink(directory / descriptor)
        except OSError:  # closed since
            continue
        if link.startswith("/dev/"):
            names.add(link.rpartition("/")[2])
    return frozenset(names)


def used_devices(root: Path, pid: int, devices: Sequence[Device]) -> list[Device]:
    """Return those of ``devices`` whose device files the process has open, as far as we may see.

    That is at most what it uses: a runtime may open every GPU that it can see.
    """
    opened = open_device_files(root, pid) or frozenset()
    return [device for device in devices if not opened.isdisjoint(device.names)]


def _kind(directory: Path) -> str | None:
    code = read_int(directory / "class", base=16)
    if code is None:
        return None
    subclass = code >> 8
    if subclass in _ACCELERATORS:
        return GPU
    if subclass == _VGA:
        return GPU if read_int(directory / "vendor", base=16) in _GPU_VENDORS else None
    if subclass in _STORAGE:
        return STORAGE
    return NETWORK if subclass >> 8 == _NETWORK_CLASS else None


def _read_device(directory: Path, kind: str, nvidia_name: str | None) -> Device:
    node = read_int(directory / "numa_node")
    names = [name for place in _NAME_DIRECTORIES[kind] for name in _under(directory, place)]
    try:
        driver = os.readlink(directory / "driver").rpartition("/")[2]
    except OSError:
        driver = None  # none is bound to it
    return Device(
        address=directory.name,
        kind=kind,
        vendor=read_int(directory / "vendor", base=16),
        node=None if node is None or node < 0 else node,
        cpus=read_list(directory / "local_cpulist") or (),
        driver=driver,
        names=(*names, nvidia_name) if nvidia_name else tuple(names),
    )


def _under(directory: Path, place: str) -> list[str]:
    """Return the names below; virtio's network interfaces hang one level further down."""
    virtio = [name for name in names_in(directory) if name.startswith("virtio")]
    return [name for where in ("", *virtio) for name in names_in(directory / where / place)]


def _nvidia_names(root: Path) -> dict[str, str]:
    """Return the device file of each NVIDIA GPU by PCI address, as their driver numbers them."""
    directory = root / "proc/driver/nvidia/gpus"
    names = {}
    for address in names_in(directory):
        minor = _MINOR.search(read_text(directory / address / "information") or "")
        if minor is not None:
            names[address.lower()] = f"nvidia{minor[1]}"
    return names
