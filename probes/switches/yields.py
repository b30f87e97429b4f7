"""Tell a yield from a preemption: both leave the thread runnable, and the kernel calls both so.

A thread that left its CPU inside a system call has its instruction pointer right behind the
instruction that made the call. The code before it, read once from the process's memory and then
known, says which call: sched_yield(2) is called with its number as a constant (glibc, musl, Go).
"""

from __future__ import annotations

import platform
from typing import Final

import numpy as np
from numpy.typing import NDArray

from collectors.cpu_slices import BLOCKED, NONE, PREEMPTED, READY, YIELDED
from probes.sampling import TargetGone
from probes.stacks.memory import Pieces
from probes.switches.layout import Registers
from probes.switches.stays import Stays

# mov $24, %eax; syscall (asm/unistd_64.h: sched_yield is 24). On arm64 the register has said
# already that it is 124, the yield of asm-generic/unistd.h: svc #0 is left to see.
YIELD_CODE: Final = {
    "x86_64": bytes.fromhex("b8180000000f05"),
    "aarch64": bytes.fromhex("010000d4"),
}.get(platform.machine(), b"")
# syscall(3) of glibc gets the number as an argument: mov 8(%rsp), %r9; syscall.
_ANY_CALL_CODE: Final = bytes.fromhex("4c8b4c24080f05") if platform.machine() == "x86_64" else b""


class YieldJudge:
    """Says why each stay ended."""

    def __init__(self, registers: Registers | None) -> None:
        """``registers``: what the records hold of them; None: nothing."""
        self._registers = registers
        self._known: dict[tuple[int, int], int] = {}  # by process and address
        self._parents: dict[int, int] = {}  # of processes that run their parent's code
        self.unreadable_count = 0  # calls whose code could not be read

    def fork(self, pid: int, parent_pid: int) -> None:
        """Note a new process of the target: until it runs another program, its code is known."""
        self.forget(pid)
        self._parents[pid] = parent_pid

    def forget(self, pid: int) -> None:
        """A process runs another program now."""
        self._known = {key: leave for key, leave in self._known.items() if key[0] != pid}
        self._parents.pop(pid, None)

    def leave(self, stays: Stays) -> NDArray[np.int8]:
        """Return for each stay PREEMPTED, BLOCKED or YIELDED; READY where that is not told apart.

        Without registers a runnable thread's reason is not known. A stay that goes on has `NONE`.
        """
        leave = np.where(stays.is_runnable, READY, BLOCKED).astype(np.int8)
        leave[stays.is_open] = NONE
        if self._registers is None:
            return leave
        leave[stays.has_registers] = PREEMPTED
        row = np.flatnonzero(stays.has_registers & (stays.hint == self._registers.hint_value))
        calls, call_of = np.unique(
            np.stack((stays.pid[row], stays.ip[row]), axis=1), axis=0, return_inverse=True
        )
        judged = np.array([self._judge(pid, ip) for pid, ip in calls.tolist()], np.int8)
        if len(row):
            leave[row] = judged[call_of.reshape(-1)]
        return leave

    def _judge(self, pid: int, ip: int) -> int:
        leave = self._known.get((pid, ip))
        if leave is None:
            code = read_code(pid, ip)
            if code is None and pid in self._parents:  # it has ended
                leave = self._judge(self._parents[pid], ip)
            else:
                leave = judge_code(code)
                self.unreadable_count += leave == READY
            self._known[pid, ip] = leave
        return leave


def judge_code(code: bytes | None) -> int:
    """Say what a runnable thread was at whose system call's instruction ends ``code``."""
    if code is None or (_ANY_CALL_CODE and code.endswith(_ANY_CALL_CODE)):
        return READY
    return YIELDED if YIELD_CODE and code.endswith(YIELD_CODE) else PREEMPTED


def read_code(pid: int, ip: int) -> bytes | None:
    """Return the code before an address of a process; None when it cannot be read."""
    length = len(YIELD_CODE)
    pieces = Pieces(pid)
    pieces.plan([(ip - length, length)])
    try:
        if pieces.read() < length:
            return None
    except (TargetGone, OSError):
        return None
    return bytes(pieces.buffer[:length])
