"""What an event is: struct perf_event_attr and the words to fill it with.

Layout and values: linux/perf_event.h; registers: asm/perf_regs.h of each architecture.
"""

from __future__ import annotations

import ctypes
from enum import IntEnum, IntFlag
from typing import Final


class Type(IntEnum):
    """``attr.type``: which PMU."""

    HARDWARE = 0
    SOFTWARE = 1
    TRACEPOINT = 2
    HW_CACHE = 3
    RAW = 4


class Hardware(IntEnum):
    """``attr.config`` of `Type.HARDWARE`."""

    CPU_CYCLES = 0
    INSTRUCTIONS = 1
    CACHE_REFERENCES = 2
    CACHE_MISSES = 3


class Software(IntEnum):
    """``attr.config`` of `Type.SOFTWARE`."""

    CPU_CLOCK = 0
    TASK_CLOCK = 1
    PAGE_FAULTS = 2
    CONTEXT_SWITCHES = 3
    CPU_MIGRATIONS = 4
    PAGE_FAULTS_MIN = 5
    PAGE_FAULTS_MAJ = 6
    DUMMY = 9  # counts nothing: carries side-band records such as switches


class Sample(IntFlag):
    """``attr.sample_type``: what a record holds, in the order of the bits as in the header."""

    IP = 1 << 0
    TID = 1 << 1
    TIME = 1 << 2
    CALLCHAIN = 1 << 5
    ID = 1 << 6
    CPU = 1 << 7
    RAW = 1 << 10
    REGS_USER = 1 << 12


class Read(IntFlag):
    """``attr.read_format``: what a read returns beside the value."""

    TIME_ENABLED = 1 << 0
    TIME_RUNNING = 1 << 1
    ID = 1 << 2
    GROUP = 1 << 3
    LOST = 1 << 4  # Linux 6.0


class Flag(IntFlag):
    """The bits of ``attr.flags`` (a bit field in the header)."""

    DISABLED = 1 << 0
    INHERIT = 1 << 1
    PINNED = 1 << 2
    EXCLUDE_USER = 1 << 4
    EXCLUDE_KERNEL = 1 << 5
    EXCLUDE_HV = 1 << 6
    COMM = 1 << 9
    INHERIT_STAT = 1 << 11
    TASK = 1 << 13  # records of forks and exits
    WATERMARK = 1 << 14  # ``wakeup`` is bytes, not records
    SAMPLE_ID_ALL = 1 << 18  # side-band records carry the sample's TID, TIME, ...
    USE_CLOCKID = 1 << 25
    CONTEXT_SWITCH = 1 << 26


class Open(IntFlag):
    """The system call's flags."""

    FD_NO_GROUP = 1 << 0
    FD_OUTPUT = 1 << 1
    PID_CGROUP = 1 << 2  # ``pid`` is a descriptor of a cgroup's directory; per CPU only


class PerfEventAttr(ctypes.Structure):
    """struct perf_event_attr up to PERF_ATTR_SIZE_VER5: 112 bytes, known since Linux 4.1."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("config", ctypes.c_uint64),
        ("sample_period", ctypes.c_uint64),
        ("sample_type", ctypes.c_uint64),
        ("read_format", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("wakeup", ctypes.c_uint32),
        ("bp_type", ctypes.c_uint32),
        ("config1", ctypes.c_uint64),
        ("config2", ctypes.c_uint64),
        ("branch_sample_type", ctypes.c_uint64),
        ("sample_regs_user", ctypes.c_uint64),
        ("sample_stack_user", ctypes.c_uint32),
        ("clockid", ctypes.c_int32),
        ("sample_regs_intr", ctypes.c_uint64),
        ("aux_watermark", ctypes.c_uint32),
        ("sample_max_stack", ctypes.c_uint16),
        ("reserved", ctypes.c_uint16),
    )


ATTR_BYTES: Final = ctypes.sizeof(PerfEventAttr)


def attributes(
    kind: int, config: int, *, flags: int = 0, sample_type: int = 0, sample_period: int = 0,
    read_format: int = 0, wakeup: int = 0, clockid: int | None = None, regs_user: int = 0,
) -> PerfEventAttr:  # fmt: skip
    """Return the attributes of an event.

    Args:
        kind: `Type`, or the ``type`` file of a PMU in /sys/bus/event_source/devices.
        config: which event of it.
        flags: see `Flag`.
        sample_type: what its records hold (`Sample`).
        sample_period: a sample every so many events; 0: it only counts.
        read_format: what a read returns beside the value (`Read`).
        wakeup: bytes in the ring (`Flag.WATERMARK`) or records after which it polls readable.
        clockid: the records' clock (time.CLOCK_MONOTONIC); None is the kernel's own.
        regs_user: mask of user registers in each sample.
    """
    if clockid is not None:
        flags |= Flag.USE_CLOCKID
    return PerfEventAttr(
        type=kind, size=ATTR_BYTES, config=config, sample_period=sample_period,
        sample_type=sample_type, read_format=read_format, flags=flags, wakeup=wakeup,
        clockid=clockid or 0, sample_regs_user=regs_user,
    )  # fmt: skip
