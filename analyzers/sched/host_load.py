"""The host around the target: time stolen by the hypervisor, interrupts, pressure, frequency."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from analyzers.base import Analyzer, Outcome
from analyzers.findings import Finding, Quantity, Rank
from analyzers.sched import quota
from analyzers.sched.counter_series import Series, read_series
from analyzers.sched.cpu_times import IDLE_MODES, STEAL, cpu_modes
from analyzers.timeline import Timeline
from collectors.host_counters import CPU_FREQUENCY, INTERRUPTS, PRESSURE

STEAL_RATIO: Final = 0.05  # of all CPU time
INTERRUPT_RATIO: Final = 0.2  # of one CPU's time: whoever runs there loses as much


def measure_host(timeline: Timeline) -> dict[str, Any] | None:
    """Return the section of the document; None when the host was not looked at."""
    cpus = dict(timeline.once(cpu_modes))
    if not cpus:
        return None
    total = cpus.pop(None, None) or _added(cpus)
    per_cpu = [
        {"cpu": cpu, **_shares(modes), "interrupt_rate_hz": rate}
        for cpu, modes in sorted(cpus.items(), key=lambda item: item[0] or 0)
        for rate in (_interrupt_rate(timeline, cpu),)
    ]
    return {
        **_shares(total),
        "cpus": per_cpu,
        "pressure": [
            {
                "resource": one.labels.get("resource"),
                "kind": one.labels.get("kind"),
                "seconds": one.rise,
                "ratio": one.rise / (one.window_ns / 1e9),
            }
            for one in read_series(timeline, PRESSURE)
            if "cgroup" not in one.labels and one.window_ns
        ],
        "frequency": _frequency(read_series(timeline, CPU_FREQUENCY)),
    }


def _added(cpus: dict[int | None, dict[str, float]]) -> dict[str, float]:
    modes = {mode for one in cpus.values() for mode in one}
    return {mode: sum(one.get(mode, 0.0) for one in cpus.values()) for mode in modes}


def _shares(modes: dict[str, float]) -> dict[str, Any]:
    total = sum(modes.values())
    idle = sum(modes.get(mode, 0.0) for mode in IDLE_MODES)
    return {
        "busy_ratio": 1 - idle / total,
        "steal_ratio": modes.get(STEAL, 0.0) / total,
        "irq_ratio": modes.get("irq", 0.0) / total,
        "softirq_ratio": modes.get("softirq", 0.0) / total,
    }


def _interrupt_rate(timeline: Timeline, cpu: int | None) -> float | None:
    for one in read_series(timeline, INTERRUPTS):
        if one.labels.get("cpu") == str(cpu) and one.window_ns:
            return one.rise / (one.window_ns / 1e9)
    return None


def _frequency(series: list[Series]) -> dict[str, float] | None:
    if not series:
        return None
    values = np.concatenate([one.values for one in series])
    low, mean, high = float(values.min()), float(values.mean()), float(values.max())
    return {"min_hz": low, "mean_hz": mean, "max_hz": high}


def run(timeline: Timeline) -> Outcome:
    """Report the host and the target's quotas; findings where they take notable time from it."""
    section = measure_host(timeline)
    found = [quota.finding(timeline)]
    if section is not None:
        found += [_steal(section, timeline), _interrupts(section, timeline)]
    sections = {"host": section, "quotas": quota.rows(timeline)}
    return Outcome(sections, [one for one in found if one is not None])


def _steal(section: dict[str, Any], timeline: Timeline) -> Finding | None:
    ratio = section["steal_ratio"]
    if ratio < STEAL_RATIO:
        return None
    return Finding(
        "host-steal",
        f"The hypervisor gave {ratio:.0%} of this machine's CPU time to others while something "
        "here wanted to run: no setting of the server wins that back.",
        Rank.HOST_WAIT,
        Quantity(ratio, "ratio"),
        {key: section[key] for key in ("busy_ratio", "steal_ratio")},
        ("steal is counted in ticks of 10 ms",),
        cost_seconds=ratio * len(section["cpus"]) * _seconds(timeline),
        remedy="move to a host or an instance type whose CPUs are not shared",
    )


def _interrupts(section: dict[str, Any], timeline: Timeline) -> Finding | None:
    busy = [
        one for one in section["cpus"] if one["irq_ratio"] + one["softirq_ratio"] >= INTERRUPT_RATIO
    ]
    if not busy:
        return None
    worst = max(busy, key=lambda one: one["irq_ratio"] + one["softirq_ratio"])
    ratio = worst["irq_ratio"] + worst["softirq_ratio"]
    return Finding(
        "host-interrupts",
        f"Interrupts took {ratio:.0%} of CPU {worst['cpu']}"
        + (f", and much of {len(busy) - 1} others" if len(busy) > 1 else "")
        + ": threads that run there lose as much.",
        Rank.HOST_WAIT,
        Quantity(ratio, "ratio"),
        busy[:8],
        ("interrupt time is counted in ticks of 10 ms",),
        cost_seconds=ratio * _seconds(timeline),
        remedy="keep the server's threads off those CPUs (cputax pin --plan), or spread the "
        "device's interrupts (/proc/irq/N/smp_affinity_list, irqbalance)",
    )


def _seconds(timeline: Timeline) -> float:
    return (timeline.capture.end_ns - timeline.capture.start_ns) / 1e9


ANALYZER: Final = Analyzer("host", (), run)
