"""Finding and reading the GIL of live processes, and each reason to refuse."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from collectors.errors import (
    CputaxError,
    TargetExited,
    TargetForbidden,
    TargetNotFound,
    TargetNotPython,
)
from probes.gil import elf, versions
from probes.gil.reader import FREE, GilReader, TargetGone
from probes.gil.runtime import GilNotApplicable, GilUnsupported, find_gil

DEADLINE_S = 20.0
NOBODY = 65534
SLEEPER = "print('up', flush=True); input()"
# The main thread waits for a line; a second thread holds the GIL for good, a third wants it.
BUSY = """
import sys, threading
sys.setswitchinterval(100)
def hold():
    print(threading.get_native_id(), flush=True)
    while True: pass
def want():
    sys.stdin.readline()
    print(threading.get_native_id(), flush=True)
    threading.Thread(target=hold).start()
    sys.stdin.readline()
want()
"""


@contextmanager
def program(code: str, python: str = sys.executable) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [python, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def say(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_this_process_holds_its_own_gil_while_it_looks() -> None:
    found = find_gil(os.getpid())
    assert found.version == sys.version_info[:2]
    with GilReader(found) as reader:
        assert reader.holder_tid(reader.read(), 0) == FREE  # preadv lets go of it


def test_the_holder_and_the_waiter_are_named() -> None:
    with program(BUSY) as process:
        say(process)
        main_tid, holder_tid = int(line(process)), int(line(process))
        with GilReader(find_gil(process.pid)) as reader:
            state = reader.read()
            assert reader.holder_tid(state, time.monotonic_ns()) == holder_tid
            say(process)  # the main thread returns from read() and wants the GIL
            deadline_s = time.monotonic() + DEADLINE_S
            while reader.waiters(1) != [main_tid]:
                assert time.monotonic() < deadline_s
            assert reader.read()[3] == 1


def test_a_sleeping_program_s_gil_is_free() -> None:
    with program(SLEEPER) as process:
        line(process)
        with GilReader(find_gil(process.pid)) as reader:
            deadline_s = time.monotonic() + DEADLINE_S
            while reader.read()[0]:
                assert time.monotonic() < deadline_s
            assert reader.waiters(1) == []


def test_a_reader_notices_the_end() -> None:
    with program(SLEEPER) as process:
        line(process)
        found = find_gil(process.pid)
        with GilReader(found) as reader:
            process.kill()
            process.wait()
            with pytest.raises(TargetGone):
                reader.read()
        with pytest.raises(TargetGone):
            GilReader(found)


def test_a_reader_refuses_another_life_of_the_pid() -> None:
    found = find_gil(os.getpid())
    with pytest.raises(TargetGone):
        GilReader(found._replace(start_ticks=found.start_ticks - 1))


def test_no_such_process() -> None:
    with program(SLEEPER) as process:
        pass
    with pytest.raises(TargetNotFound):
        find_gil(process.pid)


def test_an_exited_process_that_is_still_listed() -> None:
    with program("") as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(TargetExited):
            find_gil(process.pid)


def test_a_program_that_is_not_python() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        with pytest.raises(TargetNotPython):
            find_gil(process.pid)
        process.kill()


def test_an_older_python() -> None:
    old = sorted((Path.home() / ".pyenv" / "versions").glob("3.9.*/bin/python3.9"))
    if not old:
        pytest.skip("no CPython 3.9 here")
    with program(SLEEPER, str(old[-1])) as process:
        line(process)
        with pytest.raises(GilUnsupported, match=r"older than 3\.10"):
            find_gil(process.pid)


def test_a_free_threaded_build(monkeypatch: pytest.MonkeyPatch) -> None:
    table = versions.DebugTable((3, 13), True, None, 0, 0)
    monkeypatch.setattr(versions, "parse_table", lambda _raw: table)
    with pytest.raises(GilNotApplicable, match="not applicable"):
        find_gil(os.getpid())


def test_a_version_from_the_future(monkeypatch: pytest.MonkeyPatch) -> None:
    table = versions.DebugTable((3, 99), False, None, 0, 0)
    monkeypatch.setattr(versions, "parse_table", lambda _raw: table)
    with pytest.raises(GilUnsupported, match=r"3\.99"):
        find_gil(os.getpid())


def test_musl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elf, "uses_musl", lambda _mappings: True)
    with pytest.raises(GilUnsupported, match="musl"):
        find_gil(os.getpid())


def test_a_process_that_we_may_not_read() -> None:
    not_dumpable = "import ctypes; ctypes.CDLL(None).prctl(4, 0, 0, 0, 0);" + SLEEPER
    with program(not_dumpable) as process:
        line(process)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            _report_as_nobody(process.pid, write)
        os.close(write)
        os.waitpid(child, 0)
        with os.fdopen(read) as answer:
            assert answer.read() == f"{TargetForbidden.slug} EACCES"


def _report_as_nobody(pid: int, write: int) -> None:
    """In a fork, since no interpreter may be readable for another user."""
    try:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        try:
            find_gil(pid)
            os.write(write, b"found it")
        except CputaxError as error:
            reason = "EACCES" if "EACCES" in error.message else error.message
            os.write(write, f"{error.slug} {reason}".encode())
    finally:
        os._exit(0)


def test_an_own_gil_of_a_sub_interpreter_is_counted() -> None:
    found = sorted((Path.home() / ".pyenv" / "versions").glob("3.1[2-4].*/bin/python3"))
    if not found:
        pytest.skip("own GILs need CPython 3.12 and later")
    create = """
try: import _interpreters as interpreters
except ImportError: import _xxsubinterpreters as interpreters
kept = interpreters.create()
"""
    with program(create + SLEEPER, str(found[-1])) as process:
        line(process)
        assert find_gil(process.pid).own_gil_interpreter_count == 1


def test_a_thread_state_that_was_used_again_is_told_apart() -> None:
    """A made-up thread state, whose owner changes while its address stays."""
    found = find_gil(os.getpid())
    state = ctypes.create_string_buffer(1024)
    address = ctypes.addressof(state)
    if found.thread_id_is_pthread:
        pytest.skip("3.10 keeps no thread id in the state")
    ending = threading.Event()
    other = threading.Thread(target=ending.wait)
    other.start()
    assert other.native_id is not None
    try:
        with GilReader(found) as reader:
            struct.pack_into("<Q", state, found.thread_id_offset, os.getpid())
            assert reader.holder_tid((True, address, 5, 0), 0) == os.getpid()
            struct.pack_into("<Q", state, found.thread_id_offset, other.native_id)
            assert reader.holder_tid((True, address, 6, 0), 1) == other.native_id
            struct.pack_into("<Q", state, found.thread_id_offset, os.getpid())
            assert reader.holder_tid((True, address, 6, 0), 10**9) == os.getpid()
    finally:
        ending.set()
        other.join()
