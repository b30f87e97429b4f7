"""A GPU and its sensors: what can be read, in which unit, and how a reading fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final


@dataclass(frozen=True, slots=True)
class Metric:
    """One thing that is read: its counter's name and unit."""

    name: str
    unit: str


# The share of the driver's own last window in which at least one kernel ran: not how much of the
# GPU it filled. AMD: a running average of the firmware; NVIDIA: 1/6 s to 1 s, by product.
UTILIZATION: Final = Metric("gpu_utilization_ratio", "ratio")
MEMORY_USED: Final = Metric("gpu_memory_used_bytes", "bytes")
MEMORY_TOTAL: Final = Metric("gpu_memory_total_bytes", "bytes")
POWER: Final = Metric("gpu_power_watts", "W")
CLOCK: Final = Metric("gpu_clock_hz", "Hz")  # of the shader engines
TEMPERATURE: Final = Metric("gpu_temperature_celsius", "degC")

CONSTANT: Final = frozenset({MEMORY_TOTAL})


class SensorFailed(Exception):
    """This value cannot be had now; the others may."""


class DeviceGone(Exception):
    """The GPU fell off its bus, or its driver was unloaded: no value can be had."""


@dataclass(frozen=True, slots=True)
class Sensor:
    """One call of the driver and the values that it gives, in the units of its metrics.

    ``read`` raises `SensorFailed` and `DeviceGone`.
    """

    metrics: tuple[Metric, ...]
    read: Callable[[], Sequence[float]]


@dataclass(frozen=True, slots=True)
class Reading:
    """What one look at a GPU gave; ``failed`` says for which metrics it failed, and why."""

    values: dict[Metric, float]
    failed: dict[Metric, str]


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU as one driver shows it.

    ``index`` is its place in the order in which the vendor's runtime counts GPUs; ``node`` the
    device file that a process has open when it uses this GPU.
    """

    index: int
    vendor: str
    name: str
    bus: str  # PCI address, as 0000:0c:00.0
    source: str
    sensors: tuple[Sensor, ...]
    uuid: str | None = None
    node: str | None = None

    def read(self) -> Reading:
        """Ask every sensor once.

        Raises:
            DeviceGone: the GPU is not there any more.
        """
        values: dict[Metric, float] = {}
        failed: dict[Metric, str] = {}
        for sensor in self.sensors:
            try:
                values.update(zip(sensor.metrics, sensor.read(), strict=True))
            except SensorFailed as error:
                failed.update(dict.fromkeys(sensor.metrics, str(error)))
        return Reading(values, failed)

    def renumbered(self, index: int) -> Gpu:
        """Return it under another index."""
        return replace(self, index=index)


@dataclass(frozen=True, slots=True)
class Search:
    """What looking for one driver's GPUs gave: GPUs, or why there are none.

    ``remedy`` is set where there is something to do, because this driver's GPUs are here.
    """

    gpus: tuple[Gpu, ...] = ()
    reason: str = ""
    remedy: str | None = None
