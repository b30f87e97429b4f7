"""NVIDIA GPUs through NVML, by the vendor's own Python package (``nvidia-ml-py``).

https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

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

SOURCE: Final = "NVML"
VENDOR: Final = "nvidia"
DRIVER: Final = Path("/proc/driver/nvidia/version")


def find_gpus(nvml: Any = None, driver: Path = DRIVER) -> Search:
    """Look for NVIDIA GPUs; ``nvml`` is the module ``pynvml``, imported when None."""
    if nvml is None:
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            if not driver.exists():
                return Search(reason="no NVIDIA driver")
            return Search(
                reason="an NVIDIA driver, but nvidia-ml-py is not installed",
                remedy="pip install 'cputax[nvidia]'",
            )
    try:
        nvml.nvmlInit()
        gpus = tuple(_make_gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount()))
    except nvml.NVMLError as error:
        if not driver.exists():
            return Search(reason="no NVIDIA driver")
        return Search(reason=f"NVML refuses: {error}", remedy="see what nvidia-smi says")
    return Search(gpus, "" if gpus else "NVML lists no GPU")


def _make_gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    wanted: list[tuple[tuple[Metric, ...], Callable[[], Sequence[float]]]] = [
        ((UTILIZATION,), lambda: (nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100,)),
        ((MEMORY_USED, MEMORY_TOTAL), lambda: _memory_bytes(nvml.nvmlDeviceGetMemoryInfo(handle))),
        ((POWER,), lambda: (nvml.nvmlDeviceGetPowerUsage(handle) / 1e3,)),
        ((CLOCK,), lambda: (nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM) * 1e6,)),
        (
            (TEMPERATURE,),
            lambda: (nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),),
        ),
    ]
    return Gpu(
        index=index,
        vendor=VENDOR,
        name=_string(nvml.nvmlDeviceGetName(handle)),
        bus=_string(nvml.nvmlDeviceGetPciInfo(handle).busId),
        source=SOURCE,
        sensors=tuple(
            Sensor(metrics, _guarded(nvml, read))
            for metrics, read in wanted
            if _is_supported(nvml, read)
        ),
        uuid=_string(nvml.nvmlDeviceGetUUID(handle)),
        node=f"/dev/nvidia{nvml.nvmlDeviceGetMinorNumber(handle)}",
    )


def _is_supported(nvml: Any, read: Callable[[], Sequence[float]]) -> bool:
    """Whether this GPU has such a sensor; a partition of one (MIG) has no utilisation."""
    try:
        read()
    except nvml.NVMLError as error:
        return bool(error.value != nvml.NVML_ERROR_NOT_SUPPORTED)
    return True


def _guarded(nvml: Any, read: Callable[[], Sequence[float]]) -> Callable[[], Sequence[float]]:
    """Turn NVML's errors into ours."""
    gone = {nvml.NVML_ERROR_GPU_IS_LOST, nvml.NVML_ERROR_UNINITIALIZED}

    def read_guarded() -> Sequence[float]:
        try:
            return read()
        except nvml.NVMLError as error:
            if error.value in gone:
                raise DeviceGone(str(error)) from error
            raise SensorFailed(str(error)) from error

    return read_guarded


def _memory_bytes(info: Any) -> tuple[float, float]:
    return float(info.used), float(info.total)


def _string(value: str | bytes) -> str:
    """Return a text of NVML's; bytes in older versions of the package."""
    return value.decode() if isinstance(value, bytes) else value
