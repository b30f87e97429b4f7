"""Which probes a recording uses: all by default, fewer or other rates by option."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from collectors.errors import CputaxError, ProbeUnavailable
from probes.base import Probe
from probes.cpu_counters.probe import CpuCounterProbe
from probes.gil import probe as gil
from probes.gpu_counters.probe import GpuCounterProbe
from probes.host.probe import HostProbe
from probes.numa.probe import NumaProbe
from probes.otlp.probe import OtlpProbe
from probes.pyspy import PySpyProbe
from probes.rocprof.probe import rocprof_probe
from probes.server_metrics import ServerMetricsProbe
from probes.stacks import probe as stacks
from probes.stacks.finder import find_stacks
from probes.switches.probe import SwitchProbe
from probes.target import Target
from probes.threads import ThreadProbe
from probes.torch_profiler.probe import TorchProfilerProbe

STACK_HZ: Final = stacks.RATE_HZ
GIL_HZ: Final = gil.DEFAULT_HZ
PROBE_NAMES: Final = ("threads", "stacks", "gil", "server_metrics")  # what every analysis needs
MACHINE_NAMES: Final = (HostProbe.name, NumaProbe.name, GpuCounterProbe.name)
DEFAULT_NAMES: Final = (*PROBE_NAMES, *MACHINE_NAMES)
# Those that cost the server something have to be asked for.
ASKED_NAMES: Final = (SwitchProbe.name, CpuCounterProbe.name)
ALL_NAMES: Final = (*DEFAULT_NAMES, *ASKED_NAMES)


class StackReading(StrEnum):
    """Who reads the Python stacks."""

    AUTO = "auto"  # from memory where its layout is known, else by py-spy
    MEMORY = "memory"
    PYSPY = "py-spy"


@dataclass(frozen=True, slots=True)
class Rates:
    """How often to look, per second."""

    stack_hz: int = STACK_HZ
    gil_hz: float = GIL_HZ
    is_gil_realtime: bool = False
    is_governed: bool = True  # less where the host has little CPU to spare


@dataclass(frozen=True, slots=True)
class OtlpPorts:
    """Where to listen for the server's traces on the loopback; 0 is any free port."""

    grpc: int
    http: int


@dataclass(frozen=True, slots=True)
class TorchSlice:
    """For how long to switch the server's own profiler on."""

    seconds: float
    allows_stacks: bool = False  # see `TorchProfilerProbe`


@dataclass(frozen=True, slots=True)
class Rocprof:
    """How to trace AMD GPUs: from inside a server that we started, or by attaching."""

    is_hip_traced: bool = False
    spool: Path | None = None  # of the server that we started


def make_probes(
    target: Target, names: Iterable[str] = PROBE_NAMES, rates: Rates | None = None,
    metrics_url: str | None = None, stack_reading: StackReading = StackReading.AUTO,
    otlp_ports: OtlpPorts | None = None, torch_slice: TorchSlice | None = None,
    rocprof: Rocprof | None = None,
) -> list[Probe]:  # fmt: skip
    """Return the probes with these names for ``target``, in the order they start.

    They stop in reverse: stacks last, because py-spy takes its time to write its files.
    """
    rates = rates or Rates()
    wanted = set(names)
    every: dict[str, Probe] = {
        "stacks": _stack_probe(target, rates, stack_reading),
        "threads": ThreadProbe(),
        "gil": gil.GilProbe(
            rates.gil_hz, is_realtime=rates.is_gil_realtime, is_governed=rates.is_governed
        ),
        "server_metrics": ServerMetricsProbe(metrics_url),
        HostProbe.name: HostProbe(),
        NumaProbe.name: NumaProbe(),
        GpuCounterProbe.name: GpuCounterProbe(),
        CpuCounterProbe.name: CpuCounterProbe(),
        SwitchProbe.name: SwitchProbe(),
    }
    probes = [probe for name, probe in every.items() if name in wanted]
    if otlp_ports is not None:
        probes.append(OtlpProbe(otlp_ports.grpc, otlp_ports.http))
    if torch_slice is not None:
        probes.append(
            TorchProfilerProbe(
                torch_slice.seconds, metrics_url, allows_stacks=torch_slice.allows_stacks
            )
        )
    if rocprof is not None:  # the last one: it is stopped first, which may take minutes
        probes.append(rocprof_probe(rocprof.spool, is_hip_traced=rocprof.is_hip_traced))
    return probes


def _stack_probe(target: Target, rates: Rates, reading: StackReading) -> Probe:
    if reading is StackReading.AUTO:
        is_known = all(_is_known(process.pid) for process in target.python_processes)
        reading = StackReading.MEMORY if is_known else StackReading.PYSPY
    if reading is StackReading.MEMORY:
        return stacks.StackProbe(rates.stack_hz, is_governed=rates.is_governed)
    return PySpyProbe(rates.stack_hz)


def _is_known(pid: int) -> bool:
    """Whether it is not the interpreter's layout that keeps us from reading its stacks."""
    try:
        find_stacks(pid)
    except ProbeUnavailable:
        return False
    except CputaxError:  # the reader will say it, with its remedy
        return True
    return True
