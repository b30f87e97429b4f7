"""A yield is told from a preemption by the code that the thread was in."""

from __future__ import annotations

import ctypes
import os
import platform

import pytest
from switch_rings import SYSCALL, WIDE, register_sample, split, switch

from collectors.cpu_slices import BLOCKED, PREEMPTED, READY, YIELDED
from probes.switches import yields
from probes.switches.layout import Layout, Registers
from probes.switches.stays import Pairing
from probes.switches.switching import SwitchReader
from probes.switches.yields import YieldJudge, judge_code, read_code

X86 = Registers(mask=0x101, hint_value=SYSCALL)
LAYOUT = Layout(is_cpu_wide=True, registers=X86, waking=WIDE.waking)
A, B = (10, 11), (20, 22)
YIELD_IP, FUTEX_IP, HOT_IP, GONE_IP = 0x1000, 0x2000, 0x3000, 0x4000


@pytest.fixture
def read_addresses(monkeypatch) -> list[tuple[int, int]]:
    """Let code be read from a table; yield what was asked for."""
    asked: list[tuple[int, int]] = []
    code = {YIELD_IP: yields.YIELD_CODE, FUTEX_IP: bytes.fromhex("b8ca0000000f05")}

    def read(pid: int, ip: int) -> bytes | None:
        asked.append((pid, ip))
        return code.get(ip) if pid == A[0] else None

    monkeypatch.setattr(yields, "read_code", read)
    return asked


def leaves(judge: YieldJudge, *rings: bytes) -> list[int]:
    """Return why each stay ended, in these drains of one ring one after the other."""
    reader, pairing = SwitchReader(LAYOUT), Pairing(1, 0)
    found = []
    for ring in rings:
        words, records = split(ring)
        found += judge.leave(pairing.pair(reader.read(words, records), [])).tolist()
    return found


def left(time_ns: int, *registers: int, thread: tuple[int, int] = A) -> bytes:
    """Return a runnable thread's leaving, with the registers (hint, ip)."""
    both = (registers[0], registers[1]) if registers else None
    return switch(time_ns, thread, B, runnable=True, registers=both)


def turn(time_ns: int, *registers: int) -> bytes:
    """Return the same, and its coming back."""
    return left(time_ns, *registers) + switch(time_ns + 400, B, A)


def test_yields_preemptions_and_blocking_are_told_apart(read_addresses):
    turns = turn(1000, SYSCALL, YIELD_IP) + turn(2000, SYSCALL, FUTEX_IP)
    interrupted = turn(3000, 5, YIELD_IP) + turn(4000, 5, HOT_IP)

    found = leaves(YieldJudge(X86), turns + interrupted + switch(5000, A, B))

    assert found[::2] == [YIELDED, PREEMPTED, PREEMPTED, PREEMPTED, BLOCKED]


def test_code_is_read_once_for_each_place_and_only_inside_calls(read_addresses):
    yielding = [turn(1000 * n, SYSCALL, YIELD_IP) for n in range(1, 9)]
    interrupted = [turn(1000 * n, 0, n) for n in range(11, 19)]

    leaves(YieldJudge(X86), b"".join([*yielding, *interrupted, turn(30000, SYSCALL, FUTEX_IP)]))

    assert sorted(read_addresses) == [(A[0], YIELD_IP), (A[0], FUTEX_IP)]


def test_registers_that_come_with_an_earlier_drain_are_kept(read_addresses):
    sample = register_sample(900, A, SYSCALL, YIELD_IP)

    assert leaves(YieldJudge(X86), sample, left(1000)) == [YIELDED]
    # but not for a later switch
    assert leaves(YieldJudge(X86), sample, left(1000) + switch(1500, B, A), left(2000)) == [
        YIELDED, BLOCKED, READY,
    ]  # fmt: skip


def test_without_registers_a_runnable_threads_reason_is_not_known(read_addresses):
    assert leaves(YieldJudge(X86), left(1000)) == [READY]
    assert leaves(YieldJudge(None), left(1000, SYSCALL, YIELD_IP)) == [READY]


def test_code_that_cannot_be_read_is_not_guessed_and_counted(read_addresses):
    judge = YieldJudge(X86)

    assert leaves(judge, left(1000, SYSCALL, GONE_IP)) == [READY]
    assert judge.unreadable_count == 1


def test_a_process_that_has_ended_ran_its_parents_code_until_it_ran_another_program(read_addresses):
    judge = YieldJudge(X86)
    child = (12, 12)
    judge.fork(child[0], A[0])

    assert leaves(judge, left(1000, SYSCALL, YIELD_IP, thread=child)) == [YIELDED]

    judge.forget(child[0])

    assert leaves(judge, left(1000, SYSCALL, YIELD_IP, thread=child)) == [READY]


def test_syscall_with_the_number_as_an_argument_may_be_anything():
    assert judge_code(bytes.fromhex("4c8b4c24080f05")) == READY


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the code is another one elsewhere")
@pytest.mark.parametrize(("name", "leave"), [("sched_yield", YIELDED), ("getppid", PREEMPTED)])
def test_the_c_librarys_own_code_is_known(name: str, leave: int):
    # Given the first system call instruction of a function in this process
    address = ctypes.cast(getattr(ctypes.CDLL(None), name), ctypes.c_void_p).value
    assert address is not None
    code = ctypes.string_at(address, 64)
    ip = address + code.index(b"\x0f\x05") + 2

    # When read as another process's
    read = read_code(os.getpid(), ip)

    assert judge_code(read) == leave


def test_memory_that_is_not_there_is_none():
    assert read_code(os.getpid(), 4096) is None
    assert read_code(2**22 - 1, 1 << 20) is None
