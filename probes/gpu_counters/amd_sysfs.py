"""AMD GPUs through the files of the amdgpu driver: no library, no privilege.

Files, names and units: https://docs.kernel.org/gpu/amdgpu/thermal.html and the ``DOC`` comments of
drivers/gpu/drm/amd/pm/amdgpu_pm.c. The order in which HIP counts GPUs is that of the nodes of
``/sys/class/kfd/kfd/topology``.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Final

from probes.gpu_counters.devices import (
    CLOCK,
    MEMORY_TOTAL,
    MEMORY_USED,
    POWER,
    TEMPERATURE,
    UTILIZATION,
    DeviceGone,
    Gpu,
    Metric,
    Search,
    Sensor,
    SensorFailed,
)

SOURCE: Final = "amdgpu sysfs"
VENDOR: Final = "amd"
_PCI_VENDOR: Final = "0x1002"
# The hottest spot limits the clock; older GPUs have only the edge sensor.
_TEMPERATURE_LABELS: Final = ("junction", "edge")
# Instinct MI300 gives the input (at the moment), older GPUs the average.
_POWER_FILES: Final = ("power1_average", "power1_input")
_GONE: Final = frozenset({errno.ENOENT, errno.ENODEV, errno.ENXIO})
_SENSOR_BYTES: Final = 64


def find_gpus(root: Path = Path("/sys")) -> Search:
    """Look for AMD cards below ``root``."""
    found = []
    for card in (root / "class/drm").glob("card[0-9]*"):
        device = card / "device"
        if card.name.removeprefix("card").isdecimal() and _text(device / "vendor") == _PCI_VENDOR:
            gpu = _make_gpu(device)
            if gpu.sensors:
                found.append(gpu)
    if not found:
        return Search(reason="no AMD card below /sys/class/drm")
    order = _kfd_nodes(root)
    if all(gpu.node in order for gpu in found):
        return Search(tuple(gpu.renumbered(order.index(gpu.node)) for gpu in _by_bus(found)))
    return Search(tuple(gpu.renumbered(place) for place, gpu in enumerate(_by_bus(found))))


def _by_bus(gpus: Iterable[Gpu]) -> list[Gpu]:
    return sorted(gpus, key=lambda gpu: gpu.bus)


def _make_gpu(device: Path) -> Gpu:
    unique = _text(device / "unique_id")
    return Gpu(
        index=0,
        vendor=VENDOR,
        name=_text(device / "product_name") or "AMD GPU",
        bus=_bus_address(device),
        source=SOURCE,
        sensors=tuple(_sensors(device)),
        uuid=f"GPU-{unique.removeprefix('0x')}" if unique else None,
        node=next((f"/dev/dri/{path.name}" for path in device.glob("drm/renderD*")), None),
    )


def _sensors(device: Path) -> Iterable[Sensor]:
    """Yield a sensor for each file that is there; what a GPU does not have, it has no file for."""
    monitors = sorted(device.glob("hwmon/hwmon*"))
    monitor = monitors[0] if monitors else device / "hwmon"
    wanted: list[tuple[Metric, Path | None, float]] = [
        (UTILIZATION, device / "gpu_busy_percent", 1e-2),
        (MEMORY_USED, device / "mem_info_vram_used", 1.0),
        (MEMORY_TOTAL, device / "mem_info_vram_total", 1.0),
        (POWER, _first([monitor / name for name in _POWER_FILES]), 1e-6),
        (CLOCK, monitor / "freq1_input", 1.0),
        (TEMPERATURE, _thermometer(monitor), 1e-3),
    ]
    for metric, path, unit in wanted:
        if path is not None and path.exists():
            yield Sensor((metric,), partial(_read, device, path, unit))


def _thermometer(monitor: Path) -> Path | None:
    labels = {_text(path): path for path in sorted(monitor.glob("temp*_label"))}
    label = next((labels[name] for name in _TEMPERATURE_LABELS if name in labels), None)
    if label is not None:
        return label.with_name(label.name.replace("_label", "_input"))
    return monitor / "temp1_input"


def _read(device: Path, path: Path, unit: float) -> tuple[float]:
    """Read one number in a file's own unit; ``unit`` is how much of ours that is."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            raw = os.read(descriptor, _SENSOR_BYTES)
        finally:
            os.close(descriptor)
        return (int(raw) * unit,)
    except OSError as error:
        if error.errno in _GONE and not (device / "vendor").exists():
            raise DeviceGone("the GPU is gone from the bus") from error
        # Among others EPERM: the GPU is being reset, or asleep.
        name = errno.errorcode.get(error.errno or 0, "unknown")
        raise SensorFailed(f"{path.name}: {name}") from error
    except ValueError as error:
        raise SensorFailed(f"{path.name}: no number") from error


def _bus_address(device: Path) -> str:
    for line in _text(device / "uevent").splitlines():
        name, _, value = line.partition("=")
        if name == "PCI_SLOT_NAME":
            return value
    return device.resolve().name


def _kfd_nodes(root: Path) -> list[str | None]:
    """Return the device files of the GPUs of the compute driver, in its order."""
    nodes = root / "class/kfd/kfd/topology/nodes"
    try:
        names = sorted((path.name for path in nodes.iterdir() if path.name.isdecimal()), key=int)
    except OSError:
        return []
    found: list[str | None] = []
    for name in names:
        properties = dict(
            line.split(maxsplit=1)
            for line in _text(nodes / name / "properties").splitlines()
            if " " in line
        )
        minor = properties.get("drm_render_minor", "0")
        if minor != "0":  # of a CPU
            found.append(f"/dev/dri/renderD{minor}")
    return found


def _first(paths: Iterable[Path]) -> Path | None:
    return next((path for path in paths if path.exists()), None)


def _text(path: Path) -> str:
    """Return what stands in a small file; nothing when it cannot be read."""
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""
