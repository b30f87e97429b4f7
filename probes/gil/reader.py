"""Reads one process's GIL from outside: state, holder, waiters. It never stops the target.

Part of the sampler child: nothing slow to import, nothing but preads on open descriptors in the
hot path. /proc/PID/mem stays bound to the address space it was opened on, so a reused PID cannot
be read by mistake; once the process is gone, reads come back short.
"""

from __future__ import annotations

import os
import struct
import time
from typing import Final

from probes.gil import layout as gil_layout
from probes.gil.layout import GilLayout
from probes.sampling import TargetGone, host_tids, start_ticks

FREE: Final = 0  # holder_tid: nobody holds the GIL
UNKNOWN: Final = -1  # holder_tid or waiter_count: could not be told

_STATE: Final = struct.Struct("<8xQi4xQ")  # last_holder, locked, switch_number, see layout
_FUTEX: Final = b"202 "  # x86-64, as /proc/PID/task/TID/syscall prints it
# How long an unchanged holder is believed, and how long the list of threads: they come and go
# rarely. A holder that is not in the list makes it be read again at once, but not more often than
# the last.
_HOLDER_MAX_AGE_NS: Final = 20_000_000
_THREADS_MAX_AGE_NS: Final = 500_000_000
_THREADS_MIN_AGE_NS: Final = 20_000_000
_THREAD_LIMIT: Final = 4096
_SYSCALL_BYTES: Final = 256


# is locked, address of the thread state that holds or last held it, times it changed hands since
# the interpreter began, threads that want it (UNKNOWN when that layout is). A plain tuple: making
# a named one costs a third of a look.
GilState = tuple[bool, int, int, int]


class GilReader:
    """Descriptors on one process. Close it, or use it as a context manager."""

    def __init__(self, layout: GilLayout) -> None:
        """Open the target's memory.

        Raises:
            TargetGone: the process is gone, or its PID now belongs to another.
            OSError: EACCES or EPERM where the kernel refuses.
        """
        self.layout = layout
        self._buffer = bytearray(gil_layout.GIL_BYTES)
        self._buffers = (self._buffer,)
        self._unpack_waiters = gil_layout.waiter_struct(layout.waiter_reference_offset).unpack_from
        self._holder: tuple[int, int] = (0, 0)  # its thread state and the switch count then
        self._holder_tid = UNKNOWN
        self._holder_until_ns = 0
        self._word = bytearray(4)
        self._words = (self._word,)
        self._threads: dict[int, int] = {}  # id in the target's memory -> id on this host
        self._threads_ns = 0
        self._syscalls: dict[int, int] = {}  # tid -> descriptor on its syscall file
        self._first: list[int] = []  # tids, those seen waiting last first
        try:
            self._memory = os.open(f"/proc/{layout.pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError) as error:
            raise TargetGone from error
        if start_ticks(layout.pid) != layout.start_ticks:
            os.close(self._memory)
            raise TargetGone

    def __enter__(self) -> GilReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the descriptors."""
        os.close(self._memory)
        for descriptor in self._syscalls.values():
            os.close(descriptor)
        self._syscalls.clear()

    def read(self) -> GilState:
        """Look at the GIL once: one system call.

        Raises:
            TargetGone: the process is no more.
        """
        try:
            length = os.preadv(self._memory, self._buffers, self.layout.gil_address)
        except ProcessLookupError as error:
            raise TargetGone from error
        if length != gil_layout.GIL_BYTES:
            raise TargetGone
        holder, locked, switches = _STATE.unpack_from(self._buffer)
        waiters = UNKNOWN
        if self.layout.waiter_reference_offset:
            waiters = gil_layout.waiter_count(*self._unpack_waiters(self._buffer))
        # locked is -1 for a GIL that is not made yet or already destroyed.
        return locked == 1, holder, switches, waiters

    def holder_tid(self, state: GilState, now_ns: int) -> int:
        """Return the kernel's thread id of the holder; FREE or UNKNOWN when there is none.

        The thread state is read anew whenever the GIL changed hands. Its address alone does not
        tell: it is used again when a thread dies, and a native thread that got the address of
        the one before leaves the switch count as it was. So an answer also expires.
        """
        is_locked, address, switch_count, _ = state
        if not is_locked:
            return FREE
        if self._holder == (address, switch_count) and now_ns < self._holder_until_ns:
            return self._holder_tid
        inner = self._thread_id(address)
        tid = self._threads.get(inner)
        if tid is None:
            self._refresh_threads(_THREADS_MIN_AGE_NS)
            tid = self._threads.get(inner, UNKNOWN)
        self._holder, self._holder_tid = (address, switch_count), tid
        self._holder_until_ns = now_ns + (_HOLDER_MAX_AGE_NS if tid != UNKNOWN else 0)
        return tid

    def waiters(self, expected_count: int) -> list[int]:
        """Return the thread ids that sleep in the GIL's conditions now; up to 7 us a thread.

        A thread that was woken and waits for a CPU to go on is counted by `read` but not named
        here. The search ends when ``expected_count`` were found.
        """
        self._refresh_threads(_THREADS_MAX_AGE_NS)
        found: list[int] = []
        for tid in self._first:
            if self._waits(tid):
                found.append(tid)
                if len(found) == expected_count:
                    break
        if found and self._first[: len(found)] != found:
            chosen = set(found)
            self._first = found + [tid for tid in self._first if tid not in chosen]
        return found

    def _waits(self, tid: int) -> bool:
        descriptor = self._syscalls.get(tid)
        try:
            if descriptor is None:
                path = f"/proc/{self.layout.pid}/task/{tid}/syscall"
                descriptor = self._syscalls[tid] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            text = os.pread(descriptor, _SYSCALL_BYTES, 0)
        except OSError:  # the thread ended, or we may not look: then it is simply not named
            return False
        if not text.startswith(_FUTEX):
            return False
        address = int(text.split(None, 2)[1], 16)
        return gil_layout.is_wait_address(address, self.layout.gil_address)

    def _thread_id(self, thread_state: int) -> int:
        """Return the id that a thread state keeps; 0 when it cannot be read (it was just freed)."""
        address = thread_state + self.layout.thread_id_offset
        try:
            if self.layout.thread_id_is_pthread:
                pthread = int.from_bytes(os.pread(self._memory, 8, address), "little")
                address = pthread + gil_layout.PTHREAD_TID_OFFSET
            if os.preadv(self._memory, self._words, address) == 4:
                return int.from_bytes(self._word, "little")
        except (OSError, OverflowError):
            pass
        return 0

    def _refresh_threads(self, max_age_ns: int) -> None:
        """Walk the interpreter's thread states, unless that was done within ``max_age_ns``."""
        now_ns = time.monotonic_ns()
        if now_ns - self._threads_ns < max_age_ns:
            return
        self._threads_ns = now_ns
        host = host_tids(self.layout.pid, is_namespaced=self.layout.is_namespaced)
        inner_ids = [self._thread_id(state) for state in self._thread_states()]
        self._threads = {inner: host[inner] for inner in inner_ids if inner in host}
        alive = set(self._threads.values())
        for tid in [tid for tid in self._syscalls if tid not in alive]:
            os.close(self._syscalls.pop(tid))
        self._first = [tid for tid in self._first if tid in alive]
        self._first += sorted(alive.difference(self._first))

    def _thread_states(self) -> list[int]:
        # The list may change while we walk: a broken chain ends the walk, and the next one is near.
        states: list[int] = []
        address = self.layout.interpreter_address + self.layout.threads_head_offset
        try:
            while len(states) < _THREAD_LIMIT:
                state = int.from_bytes(os.pread(self._memory, 8, address), "little")
                if state == 0:
                    break
                states.append(state)
                address = state + self.layout.next_offset
        except (OSError, OverflowError):
            pass
        return states
