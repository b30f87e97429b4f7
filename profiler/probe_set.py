"""Which probes a recording uses: all by default, fewer or other rates by option."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from probes import pyspy
from probes.base import Probe
from probes.gil import probe as gil
from probes.server_metrics import ServerMetricsProbe
from probes.threads import ThreadProbe

STACK_HZ: Final = pyspy.RATE_HZ
GIL_HZ: Final = gil.DEFAULT_HZ
PROBE_NAMES: Final = ("threads", "pyspy", "gil", "server_metrics")


@dataclass(frozen=True, slots=True)
class Rates:
    """How often to look, per second."""

    stack_hz: int = STACK_HZ
    gil_hz: float = GIL_HZ
    is_gil_realtime: bool = False


def make_probes(
    names: Iterable[str] = PROBE_NAMES, rates: Rates | None = None, metrics_url: str | None = None
) -> list[Probe]:
    """Return the probes with these names, in the order they start.

    They stop in reverse: stacks last, because py-spy takes its time to write its files.
    """
    rates = rates or Rates()
    wanted = set(names)
    every: list[Probe] = [
        pyspy.PySpyProbe(rates.stack_hz),
        ThreadProbe(),
        gil.GilProbe(rates.gil_hz, is_realtime=rates.is_gil_realtime),
        ServerMetricsProbe(metrics_url),
    ]
    return [probe for probe in every if probe.name in wanted]
