"""Records as the kernel writes them into a ring, for tests of what reads them."""

from __future__ import annotations

import struct

import numpy as np

from probes.perf.tracepoints import Tracepoint
from probes.switches.layout import REGISTERS, Layout, Registers
from probes.switches.records import Drained, Records, find_records

MISC_OUT = 1 << 13
MISC_PREEMPT = 1 << 14
SYSCALL = -38  # what the hint holds inside a system call
WAKING = Tracepoint(375, {"pid": 24}, 36)
WIDE = Layout(is_cpu_wide=True, registers=REGISTERS or Registers(1, SYSCALL), waking=WAKING)
TASKS = Layout(is_cpu_wide=False, registers=None)
ENDED = 0xFFFFFFFF  # the ids of a thread that has ended


def record(kind: int, misc: int, body: bytes) -> bytes:
    """Return a record with its header."""
    return struct.pack("<IHH", kind, misc, 8 + len(body)) + body


def switch(
    time_ns: int, left: tuple[int, int], came: tuple[int, int], *, runnable: bool = False,
    registers: tuple[int, int] | None = None,
) -> bytes:  # fmt: skip
    """Return what a CPU-wide event writes at a switch between two threads (pid, tid)."""
    misc = MISC_OUT | (MISC_PREEMPT if runnable else 0)
    sample = b"" if registers is None else register_sample(time_ns - 300, left, *registers)
    return sample + switch_out(time_ns, left, came, misc) + switch_in(time_ns + 900, left, came)


def switch_out(
    time_ns: int, left: tuple[int, int], came: tuple[int, int], misc: int = MISC_OUT
) -> bytes:
    """Return SWITCH_CPU_WIDE of the thread that leaves."""
    return record(15, misc, struct.pack("<IIIIQ", *came, *left, time_ns))


def switch_in(time_ns: int, left: tuple[int, int], came: tuple[int, int]) -> bytes:
    """Return SWITCH_CPU_WIDE of the thread that comes."""
    return record(15, 0, struct.pack("<IIIIQ", *left, *came, time_ns))


def task_switch(time_ns: int, thread: tuple[int, int], misc: int) -> bytes:
    """Return SWITCH, as an event of one thread writes it; misc 0 is in."""
    return record(14, misc, struct.pack("<IIQ", *thread, time_ns))


def register_sample(time_ns: int, thread: tuple[int, int], hint: int, ip: int) -> bytes:
    """Return a sample with a thread's user registers."""
    return record(9, 2, struct.pack("<IIQQqQ", *thread, time_ns, 2, hint, ip))


def kernel_sample(time_ns: int, thread: tuple[int, int]) -> bytes:
    """Return a sample of a kernel thread, which has no user registers."""
    return record(9, 1, struct.pack("<IIQQ", *thread, time_ns, 0))


def waking(time_ns: int, tid: int, *, waker: tuple[int, int] = (7, 7), name: bytes = b"") -> bytes:
    """Return a sample of sched_waking."""
    fields = struct.pack("<HBBi16siii", WAKING.id, 0, 0, waker[1], name, tid, 120, 0)
    return record(9, 1, struct.pack("<IIQI", *waker, time_ns, len(fields)) + fields)


def fork(time_ns: int, pid: int, parent_pid: int, tid: int, *, is_exit: bool = False) -> bytes:
    """Return FORK, or EXIT."""
    body = struct.pack("<IIIIQIIQ", pid, parent_pid, tid, parent_pid, time_ns, pid, tid, time_ns)
    return record(4 if is_exit else 7, 0, body)


def comm(pid: int, tid: int, name: bytes, *, is_exec: bool = False) -> bytes:
    """Return COMM."""
    text = name + b"\0" * (8 - len(name) % 8)
    body = struct.pack("<II", pid, tid) + text + struct.pack("<IIQ", pid, tid, 5)
    return record(3, 1 << 13 if is_exec else 0, body)


def lost(time_ns: int, count: int) -> bytes:
    """Return LOST."""
    return record(2, 0, struct.pack("<QQIIQ", 99, count, 1, 1, time_ns))


def drained(*rings: bytes) -> Drained:
    """Return what a drain of these rings brings."""
    starts = np.cumsum([0, *(len(ring) // 8 for ring in rings)])
    return Drained(np.frombuffer(b"".join(rings), np.uint64), starts)


def split(*rings: bytes) -> tuple[Drained, Records]:
    """Return a drain with its records."""
    words = drained(*rings)
    return words, find_records(words)
