"""AMD GPUs through amdsmi, where the driver's files cannot be seen (a container without ``/sys``).

https://rocm.docs.amd.com/projects/amdsmi/en/latest/reference/amdsmi-py-api.html
"""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Callable, Sequence
from typing import Any, Final

from probes.gpu_counters.amd_sysfs import VENDOR
from probes.gpu_counters.devices import (
    CLOCK,
    MEMORY_TOTAL,
    MEMORY_USED,
    POWER,
    TEMPERATURE,
    UTILIZATION,
    Gpu,
    Metric,
    Search,
    Sensor,
    SensorFailed,
)

SOURCE: Final = "amdsmi"
_MIB: Final = 1 << 20  # amdsmi says megabytes and divides by this


def find_gpus(smi: Any = None) -> Search:
    """Look for AMD GPUs; ``smi`` is the module ``amdsmi``, imported when None."""
    if smi is None:
        try:
            # It prints where it looked for its library, onto the output that is our results'.
            with contextlib.redirect_stdout(io.StringIO()):
                smi = importlib.import_module("amdsmi")
        except ImportError:
            return Search(reason="amdsmi is not installed")
        except Exception as error:  # it loads its C library, and raises whatever that leads to
            return Search(reason=f"amdsmi cannot be loaded ({type(error).__name__})")
    try:
        smi.amdsmi_init()
        handles = smi.amdsmi_get_processor_handles()
        gpus = tuple(_make_gpu(smi, place, handle) for place, handle in enumerate(handles))
    except smi.AmdSmiException as error:
        return Search(reason=f"amdsmi refuses ({type(error).__name__})")
    return Search(gpus, "" if gpus else "amdsmi lists no GPU")


def _make_gpu(smi: Any, place: int, handle: Any) -> Gpu:
    wanted: list[tuple[tuple[Metric, ...], Callable[[], Sequence[Any]], float]] = [
        ((UTILIZATION,), lambda: [smi.amdsmi_get_gpu_activity(handle)["gfx_activity"]], 1e-2),
        ((MEMORY_USED, MEMORY_TOTAL), lambda: _memory(smi, handle), _MIB),
        ((POWER,), lambda: [_power(smi.amdsmi_get_power_info(handle))], 1.0),
        ((CLOCK,), lambda: [_clock(smi, handle)], 1e6),
        ((TEMPERATURE,), lambda: [_temperature(smi, handle)], 1.0),
    ]
    sensors = tuple(
        sensor
        for metrics, read, unit in wanted
        if _works(sensor := Sensor(metrics, _in_units(smi, read, unit)))
    )
    index, node = _enumeration(smi, handle)
    return Gpu(
        index=place if index is None else index,
        vendor=VENDOR,
        name=str(smi.amdsmi_get_gpu_asic_info(handle)["market_name"]),
        bus=str(smi.amdsmi_get_gpu_device_bdf(handle)),
        source=SOURCE,
        sensors=sensors,
        node=node,
    )


def _enumeration(smi: Any, handle: Any) -> tuple[int | None, str | None]:
    """Return HIP's index and the device file, which releases before 7.0 do not tell."""
    try:
        found = smi.amdsmi_get_gpu_enumeration_info(handle)
        return int(found["hip_id"]), f"/dev/dri/renderD{int(found['drm_render'])}"
    except (AttributeError, ValueError, smi.AmdSmiException):
        return None, None


def _memory(smi: Any, handle: Any) -> tuple[Any, Any]:
    found = smi.amdsmi_get_gpu_vram_usage(handle)
    return found["vram_used"], found["vram_total"]


def _power(found: dict[str, Any]) -> Any:
    """Return the power of the moment where the GPU gives it (MI300), else the average."""
    current = found.get("current_socket_power", "N/A")
    return found.get("average_socket_power", "N/A") if current in ("N/A", 0) else current


def _clock(smi: Any, handle: Any) -> Any:
    return smi.amdsmi_get_clock_info(handle, smi.AmdSmiClkType.GFX)["clk"]


def _temperature(smi: Any, handle: Any) -> Any:
    kinds = smi.AmdSmiTemperatureType
    return smi.amdsmi_get_temp_metric(handle, kinds.HOTSPOT, smi.AmdSmiTemperatureMetric.CURRENT)


def _in_units(
    smi: Any, read: Callable[[], Sequence[Any]], unit: float
) -> Callable[[], Sequence[float]]:
    """Turn amdsmi's values and errors into ours; it says ``N/A`` for what a GPU does not give."""

    def read_in_units() -> Sequence[float]:
        try:
            return [float(value) * unit for value in read()]
        except smi.AmdSmiException as error:
            raise SensorFailed(type(error).__name__) from error
        except (KeyError, TypeError, ValueError) as error:
            raise SensorFailed("N/A") from error

    return read_in_units


def _works(sensor: Sensor) -> bool:
    try:
        sensor.read()
    except SensorFailed:
        return False
    return True
