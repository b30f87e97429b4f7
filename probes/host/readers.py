"""The host's own counters: CPU times, pressure, interrupts, frequency. One reader per file.

Each reads below a root and returns readings for a track; what is not there gives none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np

from collectors import host_counters as names
from probes.host.files import names_in, read_bytes, read_int, read_text
from probes.host.rows import LEVEL, TOTAL, Reading
from probes.procfs import NS_PER_TICK

SECONDS: Final = "s"
COUNT: Final = "count"
HERTZ: Final = "Hz"
# The first eight columns of /proc/stat (proc(5)); guest time, after them, is part of user time.
_MODES: Final = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
# Documentation/accounting/psi.rst: for the whole system, "full" of the CPUs is always 0 and means
# nothing.
_PRESSURES: Final = {"cpu": ("some",), "memory": ("some", "full"), "io": ("some", "full")}
_PRESSURE_TOTAL = re.compile(r"^(some|full) .*\btotal=(\d+)$", re.MULTILINE)


def read_cpu_times(root: Path, track: int) -> list[Reading]:
    """Read /proc/stat: of each CPU and of all together, in ticks."""
    readings = []
    for line in (read_bytes(root / "proc/stat") or b"").splitlines():
        if not line.startswith(b"cpu"):
            break  # the CPUs stand first
        words = line.decode("ascii", "replace").split()
        number = words[0].removeprefix("cpu")
        where = f"cpu={number}," if number else ""
        for mode, ticks in zip(_MODES, words[1:], strict=False):
            if ticks.isdecimal():
                value = int(ticks) * NS_PER_TICK / 1e9
                labels = f"{where}mode={mode}"
                readings.append(Reading(track, names.CPU_TIME, labels, SECONDS, TOTAL, value))
    return readings


def read_pressures(root: Path, track: int) -> list[Reading]:
    """Read /proc/pressure: the time in which somebody, or everybody, waited for a resource."""
    return [
        reading
        for resource, kinds in _PRESSURES.items()
        for reading in read_pressure(root / "proc/pressure" / resource, resource, kinds, track)
    ]


def read_pressure(
    path: Path, resource: str, kinds: Iterable[str], track: int, group: str | None = None
) -> list[Reading]:
    """Read one pressure file, the host's or that of a control group."""
    suffix = "" if group is None else f",cgroup={group}"
    readings = []
    for kind, total_us in _PRESSURE_TOTAL.findall(read_text(path) or ""):
        if kind in kinds:
            labels = f"kind={kind},resource={resource}{suffix}"
            value = int(total_us) / 1e6
            readings.append(Reading(track, names.PRESSURE, labels, SECONDS, TOTAL, value))
    return readings


def read_interrupts(root: Path, track: int) -> list[Reading]:
    """Read /proc/interrupts: how many each CPU has taken, of all kinds."""
    heads, *lines = (read_bytes(root / "proc/interrupts") or b"\n").splitlines()
    cpus = [head.removeprefix(b"CPU") for head in heads.split()]
    totals = np.zeros(len(cpus), np.int64)
    for line in lines:
        words = line.split(maxsplit=len(cpus) + 1)[1 : len(cpus) + 1]
        # ERR and MIS count for the machine, in one number.
        if len(words) == len(cpus) and all(map(bytes.isdigit, words)):
            totals += np.array(words, np.int64)
    return [
        Reading(track, names.INTERRUPTS, f"cpu={int(cpu)}", COUNT, TOTAL, float(total))
        for cpu, total in zip(cpus, totals, strict=True)
        if cpu.isdigit()
    ]


def read_frequencies(root: Path, track: int) -> list[Reading]:
    """Read scaling_cur_freq of each CPU; a virtual machine often has none."""
    directory = root / "sys/devices/system/cpu"
    readings = []
    for name in names_in(directory):
        number = name.removeprefix("cpu")
        if number.isdecimal():
            khz = read_int(directory / name / "cpufreq/scaling_cur_freq")
            if khz is not None:
                value = khz * 1000.0
                labels = f"cpu={number}"
                readings.append(Reading(track, names.CPU_FREQUENCY, labels, HERTZ, LEVEL, value))
    return readings
