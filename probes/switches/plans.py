"""Which events record switches, from those that show most to those that anyone may open."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from collectors.cpu_lists import parse_list
from probes.perf.attributes import Flag, PerfEventAttr, Sample, Software, Type, attributes
from probes.perf.errors import PerfError
from probes.perf.events import open_event
from probes.perf.tracepoints import read_tracepoints
from probes.switches.layout import REGISTERS, SAMPLE_TYPE, Layout

EVERY_THREAD: Final = -1
WHAT: Final = "context switches"
# sched_switch of a thread that is not idle and neither sleeps nor has ended: none of the states in
# TASK_REPORT (include/linux/sched.h).
RUNNABLE: Final = "prev_pid != 0 && !(prev_state & 255)"
ONLINE_CPUS: Final = Path("/sys/devices/system/cpu/online")
_SIDE_BAND: Final = Flag.DISABLED | Flag.SAMPLE_ID_ALL | Flag.TASK | Flag.COMM
_MASK: Final = REGISTERS.mask if REGISTERS else 0
_REGISTERS: Final = Sample.REGS_USER if REGISTERS else Sample(0)


class Mode(StrEnum):
    """How the switches are seen, from most to least."""

    PER_CPU = "per_cpu"  # the switch records of each CPU, and tracepoints
    PER_CPU_RECORDS = "per_cpu_records"  # the switch records of each CPU: no wake-ups
    PER_TASK = "per_task"  # the switch records of each thread: not who came next either


@dataclass(frozen=True, slots=True)
class Plan:
    """The events of a mode: one on each CPU, or on each CPU for each thread.

    ``extras`` are further events of each CPU, each with a filter of its own or none.
    """

    mode: Mode
    layout: Layout
    attr: PerfEventAttr
    extras: tuple[tuple[PerfEventAttr, str], ...] = ()

    @property
    def is_per_task(self) -> bool:
        """Whether each thread of the target has events of its own."""
        return self.mode is Mode.PER_TASK


def traced() -> Plan:
    """Plan the switch records of each CPU, and tracepoints for what they do not say.

    The registers come from sched_switch, which can be filtered: only a thread that leaves while
    runnable pays for them. It is not the switches' own source since in some VMs it does not fire
    when a CPU leaves idle, where the switch records are whole.

    Raises:
        PerfError: there is no access to tracefs.
    """
    switch, waking = read_tracepoints(("sched/sched_switch", "sched/sched_waking"))
    flags = Flag.DISABLED | Flag.SAMPLE_ID_ALL
    leaving = attributes(
        Type.TRACEPOINT, switch.id, flags=flags, sample_type=SAMPLE_TYPE | _REGISTERS,
        sample_period=1, clockid=time.CLOCK_MONOTONIC, regs_user=_MASK,
    )  # fmt: skip
    waking_attr = attributes(
        Type.TRACEPOINT, waking.id, flags=flags, sample_type=SAMPLE_TYPE | Sample.RAW,
        sample_period=1, clockid=time.CLOCK_MONOTONIC,
    )  # fmt: skip
    return Plan(
        Mode.PER_CPU,
        Layout(is_cpu_wide=True, registers=REGISTERS, waking=waking),
        _dummy_attr(Flag(0)),
        ((waking_attr, ""), *(((leaving, RUNNABLE),) if REGISTERS else ())),
    )


def recorded() -> Plan:
    """Plan the switch records of each CPU, with a sample of the registers at each."""
    return Plan(
        Mode.PER_CPU_RECORDS, Layout(is_cpu_wide=True, registers=REGISTERS), _switch_attr(Flag(0))
    )


def per_task() -> Plan:
    """Plan the switch records of each thread, with a sample: for perf_event_paranoid up to 1."""
    return Plan(
        Mode.PER_TASK, Layout(is_cpu_wide=False, registers=REGISTERS), _switch_attr(Flag.INHERIT)
    )


def per_task_of_user() -> Plan:
    """Plan what is left without a sample, which comes from the kernel's side: paranoid 2."""
    return Plan(
        Mode.PER_TASK, Layout(is_cpu_wide=False, registers=None),
        _dummy_attr(Flag.INHERIT | Flag.EXCLUDE_KERNEL | Flag.EXCLUDE_HV),
    )  # fmt: skip


def _dummy_attr(more: Flag) -> PerfEventAttr:
    return attributes(
        Type.SOFTWARE, Software.DUMMY, flags=_SIDE_BAND | Flag.CONTEXT_SWITCH | more,
        sample_type=SAMPLE_TYPE, sample_period=1, clockid=time.CLOCK_MONOTONIC,
    )  # fmt: skip


def _switch_attr(more: Flag) -> PerfEventAttr:
    return attributes(
        Type.SOFTWARE, Software.CONTEXT_SWITCHES, flags=_SIDE_BAND | Flag.CONTEXT_SWITCH | more,
        sample_type=SAMPLE_TYPE | _REGISTERS, sample_period=1, clockid=time.CLOCK_MONOTONIC,
        regs_user=_MASK,
    )  # fmt: skip


PLANS: Final[tuple[Callable[[], Plan], ...]] = (traced, recorded, per_task, per_task_of_user)


def choose_plan(
    tid: int, cpu: int, plans: tuple[Callable[[], Plan], ...] = PLANS
) -> tuple[Plan, list[PerfError]]:
    """Return the first plan whose events the kernel opens, and why not those before it.

    The events are closed again, never having recorded.

    Raises:
        PerfError: none of them; as the last one was refused.
    """
    refusals: list[PerfError] = []
    for make in plans:
        try:
            plan = make()
            for attr in (plan.attr, *(attr for attr, _ in plan.extras)):
                thread = tid if plan.is_per_task else EVERY_THREAD
                open_event(attr, thread, cpu, what=WHAT).close()
        except PerfError as error:
            refusals.append(error)
        else:
            return plan, refusals
    raise refusals[-1]


def online_cpus(path: Path = ONLINE_CPUS) -> list[int]:
    """Return the CPUs that run threads, from a list such as ``0-3,8``."""
    return list(parse_list(path.read_text()))
