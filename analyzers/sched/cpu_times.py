"""What CPUs did, by the kernel's own modes: user, system, idle, irq, softirq, steal and others."""

from __future__ import annotations

from typing import Final

from analyzers.sched.counter_series import read_series
from analyzers.timeline import Timeline
from collectors.host_counters import CPU_TIME

IDLE_MODES: Final = ("idle", "iowait")
STEAL: Final = "steal"


def cpu_modes(timeline: Timeline) -> dict[int | None, dict[str, float]]:
    """Return seconds over the capture by CPU and mode; None stands for all CPUs together."""
    found: dict[int | None, dict[str, float]] = {}
    for one in read_series(timeline, CPU_TIME):
        cpu = one.labels.get("cpu")
        if "mode" in one.labels:
            modes = found.setdefault(None if cpu is None else int(cpu), {})
            modes[one.labels["mode"]] = one.rise
    return {cpu: modes for cpu, modes in found.items() if sum(modes.values()) > 0}


def steal_shares(timeline: Timeline) -> dict[int, float]:
    """Return by CPU which share of its busy time the hypervisor gave to others; none if unknown.

    A thread is on its CPU by the clock while it is stolen, but has no run time.
    """
    found = {}
    for cpu, modes in timeline.once(cpu_modes).items():
        busy = sum(seconds for mode, seconds in modes.items() if mode not in IDLE_MODES)
        if cpu is not None and busy:
            found[cpu] = modes.get(STEAL, 0.0) / busy
    return found
