"""Reads the Python stacks of one process from outside. It never stops the target.

A thread's frames lie one behind the other in its data stack; those of running coroutines and
generators lie in objects of their own. All that is copied by one system call, which takes a few
microseconds, so a stack is that of one instant for all that a profiler can tell: the places of the
heap frames are those of the last look. Where a look shows that something has moved, it is repeated
with the new places.

A thread whose bytes are as they were has the stack that it had: nothing is decoded again.

Part of the sampler child: the standard library only.
"""

from __future__ import annotations

import os
import struct
import time
from typing import Final

from probes.sampling import TargetGone, start_ticks
from probes.stacks.code import CodeReader, NotCode
from probes.stacks.layout import StackLayout
from probes.stacks.table import Interned
from probes.stacks.threads import Thread, ThreadList

NOT_READ: Final = -2  # instead of a stack: it changed faster than it could be read
# From the last but one attempt on, an innermost _PyCFrame that has just changed is accepted: the
# one before it shows the stack of some microseconds earlier, or without its innermost C call.
ATTEMPT_LIMIT: Final = 4
LENIENT_FROM: Final = 2
DEPTH_LIMIT: Final = 2000  # CPython's default recursion limit is 1,000
# The address of a code object may be used again by another one: names are believed so long.
NAMES_MAX_AGE_NS: Final = 10_000_000_000
_IDENTITY_MAX_AGE_NS: Final = 1_000_000_000
_CFRAME_BYTES: Final = 16
_CFRAME_LIMIT: Final = 16
_CHUNK_SLACK_BYTES: Final = 512  # what is read beyond the top of the data stack seen last
_CHUNK_LIMIT_BYTES: Final = 1 << 20
# Frames outside the newest chunk, found by one look and remembered from earlier ones. With the
# pieces before them (thread state, _PyCFrames, chunk) they stay below the 1024 of one system call.
_FOUND_LIMIT: Final = 900
_KEPT_LIMIT: Final = 100
# From this owner on a frame is the interpreter's own (FRAME_OWNED_BY_CSTACK in 3.12 and 3.13).
_SHIM_OWNER: Final = 3


class _Moved(Exception):
    """What was read does not fit together; the plan for the next attempt is made."""


class StackReader:
    """The stacks of one process. Close it, or use it as a context manager."""

    def __init__(self, layout: StackLayout, interned: Interned) -> None:
        """Open the target's memory; stacks are interned into ``interned``.

        Raises:
            TargetGone: the process is gone, or its PID now belongs to another.
            OSError: EACCES or EPERM where the kernel refuses.
        """
        self.layout = layout
        self.unread_count = 0
        self._interned = interned
        self._has_cframe = layout.cframe_offset >= 0
        self._unpack_current = struct.Struct(f"<{layout.current_offset}xQ").unpack_from
        self._unpack_chunk = struct.Struct(f"<{layout.chunk_offset}xQQQ").unpack_from
        frame = struct.Struct(
            f"<{layout.code_offset}xQ{layout.previous_offset - layout.code_offset - 8}xQ"
            f"{layout.owner_offset - layout.previous_offset - 8}xB"
        )
        self._unpack_frame = frame.unpack_from
        self._frame_bytes = frame.size
        self._stacks: dict[tuple[int, ...], int] = {}  # by the code's addresses, innermost first
        self._frames: dict[int, int] = {}  # by the code's address
        self._names_ns = self._identity_ns = time.monotonic_ns()
        try:
            self._memory = os.open(f"/proc/{layout.pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError) as error:
            raise TargetGone from error
        self._codes = CodeReader(self._memory, layout)
        self._list = ThreadList(self._memory, layout)
        if start_ticks(layout.pid) != layout.start_ticks:
            os.close(self._memory)
            raise TargetGone

    def __enter__(self) -> StackReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the descriptor."""
        os.close(self._memory)

    def read(self, now_ns: int) -> list[tuple[int, int]]:
        """Return (thread id on this host, stack) of every thread that has an interpreter state.

        A stack is a number of the table given, `ROOT` outside any Python frame, or `NOT_READ`.

        Raises:
            TargetGone: the process is no more.
            OSError: the kernel refuses.
        """
        if now_ns - self._identity_ns > _IDENTITY_MAX_AGE_NS:
            self._identity_ns = now_ns
            if start_ticks(self.layout.pid) != self.layout.start_ticks:
                raise TargetGone
        if now_ns - self._names_ns > NAMES_MAX_AGE_NS:
            self._names_ns = now_ns
            self._codes.forget()
            self._stacks.clear()
            self._frames.clear()
        seen = [(thread.tid, self._read_thread(thread)) for thread in self._list.threads]
        if not self._list.is_current():
            self._list.walk()
            seen = [(thread.tid, self._read_thread(thread)) for thread in self._list.threads]
        return seen

    def _read_thread(self, thread: Thread) -> int:
        for attempt in range(ATTEMPT_LIMIT):
            if not thread.is_planned:
                self._plan(thread)
            try:
                return self._look(thread, is_lenient=attempt >= LENIENT_FROM)
            except (_Moved, NotCode):
                continue
        self.unread_count += 1
        thread.last = b""
        return NOT_READ

    def _plan(self, thread: Thread) -> None:
        """Say what is to be copied: the thread state, _PyCFrames, the chunk, the heap frames."""
        pieces = [(thread.state, self._list.state_bytes)]
        at = self._list.state_bytes
        for address in thread.cframes:
            pieces.append((address, _CFRAME_BYTES))
            thread.cframes[address] = at + self.layout.cframe_offset
            at += _CFRAME_BYTES
        thread.chunk_at = at
        if thread.chunk_bytes:
            pieces.append((thread.chunk, thread.chunk_bytes))
        at += thread.chunk_bytes
        for address in thread.heap:
            pieces.append((address, self._frame_bytes))
            thread.heap[address] = at
            at += self._frame_bytes
        thread.pieces.plan(pieces)
        thread.is_planned = True

    def _look(self, thread: Thread, *, is_lenient: bool) -> int:
        """Copy the thread's frames once and name them."""
        count = thread.pieces.read()
        raw = bytes(memoryview(thread.pieces.buffer)[:count])
        if raw == thread.last:
            return thread.stack
        if count < self._list.state_bytes:
            raise _Moved  # the thread has ended, as the list of threads will tell
        current = self._follow(thread, raw, is_lenient)
        if count < thread.pieces.byte_count:
            thread.heap = {}  # a coroutine's frame is gone, and its memory with it
            thread.is_planned = False
            raise _Moved
        codes: list[int] = []
        unpack, heap = self._unpack_frame, thread.heap
        chunk, chunk_at = thread.chunk, thread.chunk_at
        last_in_chunk = thread.chunk_bytes - self._frame_bytes
        for _ in range(DEPTH_LIMIT):
            if not current:
                break
            offset = current - chunk
            place = chunk_at + offset if 0 <= offset <= last_in_chunk else heap.get(current)
            if place is None:
                self._find_heap_frames(thread, raw, current)
                raise _Moved
            code, current, owner = unpack(raw, place)
            if owner < _SHIM_OWNER:
                codes.append(code)
        thread.stack = self._intern(tuple(codes))
        thread.last = raw
        return thread.stack

    def _follow(self, thread: Thread, raw: bytes, is_lenient: bool) -> int:
        """Compare what was read with the plan; return the innermost frame's address."""
        (current,) = self._unpack_current(raw)
        chunk, top, limit = self._unpack_chunk(raw)
        used_bytes = top - chunk
        if chunk != thread.chunk or used_bytes > thread.chunk_bytes:
            thread.chunk = chunk
            most_bytes = min(max(0, limit - chunk), _CHUNK_LIMIT_BYTES)
            thread.chunk_bytes = min(max(0, used_bytes) + _CHUNK_SLACK_BYTES, most_bytes)
            thread.is_planned = False
        if self._has_cframe:
            current = self._innermost(thread, raw, current, is_lenient)
        if not thread.is_planned:
            raise _Moved
        return int(current)

    def _innermost(self, thread: Thread, raw: bytes, cframe: int, is_lenient: bool) -> int:
        """Return the frame that a _PyCFrame points to; one that is not among the pieces joins them.

        A thread goes to and fro between a few of them, as C calls Python. To copy only the last
        one would miss what runs on the others for less time than a second attempt takes.
        """
        place = thread.cframes.get(cframe)
        if place is None:
            newest = next(reversed(thread.cframes.values()), 0)
            kept = list(thread.cframes)[1 - _CFRAME_LIMIT :]
            if not is_lenient or not newest:
                thread.cframes = dict.fromkeys((*kept, cframe), 0)
                thread.is_planned = False
                raise _Moved
            place = newest
        return int.from_bytes(raw[place : place + 8], "little")

    def _find_heap_frames(self, thread: Thread, raw: bytes, address: int) -> None:
        """Follow the frames from the first whose place is not known, and plan to copy them."""
        last_in_chunk = thread.chunk_bytes - self._frame_bytes
        found: list[int] = []
        for _ in range(DEPTH_LIMIT):
            if not address or len(found) == _FOUND_LIMIT:
                break
            offset = address - thread.chunk
            if 0 <= offset <= last_in_chunk:
                _, address, _ = self._unpack_frame(raw, thread.chunk_at + offset)
                continue
            try:
                frame = os.pread(self._memory, self._frame_bytes, address)
            except (OSError, OverflowError):
                break
            if len(frame) < self._frame_bytes:
                break
            found.append(address)
            _, address, _ = self._unpack_frame(frame)
        kept = [one for one in thread.heap if one not in found][-_KEPT_LIMIT:]
        thread.heap = dict.fromkeys((*kept, *found), 0)
        thread.is_planned = False

    def _intern(self, codes: tuple[int, ...]) -> int:
        stack = self._stacks.get(codes)
        if stack is None:
            frames = []
            for code in reversed(codes):
                frame = self._frames.get(code)
                if frame is None:
                    frame = self._frames[code] = self._interned.frame(*self._codes.names(code))
                frames.append(frame)
            stack = self._stacks[codes] = self._interned.stack(frames)
        return stack
