"""Which events count what, on which CPU.

An event that means something else on this CPU than its counter's name says is not offered. Codes:
the event lists of Linux, tools/perf/pmu-events/arch/x86.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from collectors import host_counters as names
from probes.host.files import read_text
from probes.perf.attributes import Hardware, Software, Type

COUNT: Final = "count"
SECONDS: Final = "s"
AMD: Final = "AuthenticAMD"
INTEL: Final = "GenuineIntel"

_FIELD = re.compile(r"^(vendor_id|cpu family|model)\s*:\s*(\S+)$", re.MULTILINE)
# Servers with MEM_LOAD_L3_MISS_RETIRED: Skylake and Cascade Lake, Ice Lake (two), Sapphire,
# Emerald and Granite Rapids (two); arch/x86/include/asm/intel-family.h.
_INTEL_SERVERS: Final = frozenset({0x55, 0x6A, 0x6C, 0x8F, 0xCF, 0xAD, 0xAE})


@dataclass(frozen=True, slots=True)
class CounterEvent:
    """An event and the counter that it fills."""

    name: str  # as in `collectors.host_counters`
    type: int
    config: int
    unit: str = COUNT
    scale: float = 1.0  # from what the kernel counts to the unit
    happens_in_kernel: bool = False  # leaving the kernel out would count none, silently


@dataclass(frozen=True, slots=True)
class CpuIdentity:
    """What the CPU says it is; family and model 0 where it does not."""

    vendor: str
    family: int = 0
    model: int = 0


SOFTWARE: Final = (
    CounterEvent(names.CPU_CLOCK, Type.SOFTWARE, Software.TASK_CLOCK, SECONDS, 1e-9),
    CounterEvent(names.MIGRATIONS, Type.SOFTWARE, Software.CPU_MIGRATIONS, happens_in_kernel=True),
    CounterEvent(names.PAGE_FAULTS_MINOR, Type.SOFTWARE, Software.PAGE_FAULTS_MIN),
    CounterEvent(names.PAGE_FAULTS_MAJOR, Type.SOFTWARE, Software.PAGE_FAULTS_MAJ),
)
_BASIC: Final = (
    CounterEvent(names.CYCLES, Type.HARDWARE, Hardware.CPU_CYCLES),
    CounterEvent(names.INSTRUCTIONS, Type.HARDWARE, Hardware.INSTRUCTIONS),
)
# The kernel's generic event is the last level only here: on AMD it is the second level, on Arm the
# first.
_INTEL_LLC: Final = CounterEvent(names.LLC_MISSES, Type.HARDWARE, Hardware.CACHE_MISSES)
# ls_dmnd_fills_from_sys (Zen 2: ls_refills_from_sys), DRAM or device near and far.
_AMD_DRAM: Final = (
    CounterEvent(names.DRAM_LOCAL, Type.RAW, 0x0843),
    CounterEvent(names.DRAM_REMOTE, Type.RAW, 0x4043),
)
# MEM_LOAD_L3_MISS_RETIRED.LOCAL_DRAM and .REMOTE_DRAM
_INTEL_DRAM: Final = (
    CounterEvent(names.DRAM_LOCAL, Type.RAW, 0x01D3),
    CounterEvent(names.DRAM_REMOTE, Type.RAW, 0x02D3),
)


def read_cpu_identity(root: Path) -> CpuIdentity:
    """Read the first CPU's vendor, family and model from /proc/cpuinfo."""
    found: dict[str, str] = {}
    for key, value in _FIELD.findall(read_text(root / "proc/cpuinfo") or ""):
        found.setdefault(key, value)
    numbers = (found.get("cpu family", ""), found.get("model", ""))
    family, model = (int(text) if text.isdecimal() else 0 for text in numbers)
    return CpuIdentity(found.get("vendor_id", ""), family, model)


def hardware_events(cpu: CpuIdentity, *, has_one_node: bool) -> list[CounterEvent]:
    """Return what this CPU can count; where memory is local or remote only if there is a choice."""
    events = list(_BASIC)
    if cpu.vendor == INTEL:
        events.append(_INTEL_LLC)
        if not has_one_node and cpu.family == 6 and cpu.model in _INTEL_SERVERS:
            events += _INTEL_DRAM
    elif cpu.vendor == AMD and not has_one_node and _is_zen_2_or_later(cpu):
        events += _AMD_DRAM
    return events


def _is_zen_2_or_later(cpu: CpuIdentity) -> bool:
    """Family 17h is Zen and Zen 2, 19h is Zen 3 and 4, 1Ah is Zen 5."""
    return cpu.family in {0x19, 0x1A} or (cpu.family == 0x17 and cpu.model >= 0x30)
