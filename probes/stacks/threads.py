"""The interpreter's list of threads, and where each thread's frames were found last.

Part of the sampler child: the standard library only.
"""

from __future__ import annotations

import os
import struct
from typing import Final

from probes.sampling import TargetGone, host_tids
from probes.stacks.layout import StackLayout
from probes.stacks.memory import Pieces
from probes.stacks.table import ROOT

UNKNOWN_TID: Final = 0  # instead of a thread id: a thread that has just ended
THREAD_LIMIT: Final = 4096


class Thread:
    """One thread's places, as seen last, and the stack found there."""

    __slots__ = (
        "cframes", "chunk", "chunk_at", "chunk_bytes", "heap", "inner_tid", "is_planned", "last",
        "pieces", "stack", "state", "tid",
    )  # fmt: skip

    def __init__(self, pid: int, state: int, inner_tid: int, tid: int) -> None:
        self.state = state
        self.inner_tid = inner_tid
        self.tid = tid
        # Address -> place in the bytes: the evaluation loops' _PyCFrames on the C stack, the newest
        # at the end, and the frames outside the chunk.
        self.cframes: dict[int, int] = {}
        self.heap: dict[int, int] = {}
        self.chunk = 0
        self.chunk_at = 0
        self.chunk_bytes = 0
        self.pieces = Pieces(pid)  # the first one is the thread state
        self.is_planned = False
        self.last = b""
        self.stack = ROOT


class ThreadList:
    """The threads of one process that have an interpreter state, as walked last.

    ``state_bytes`` is how much of a thread state there is to be copied.
    """

    def __init__(self, memory: int, layout: StackLayout) -> None:
        """Read through ``memory``, an open /proc/PID/mem; there are no threads until `walk`."""
        self.threads: list[Thread] = []
        self.state_bytes = 8 + max(
            layout.chunk_offset + 16, layout.current_offset, layout.thread_id_offset,
            layout.next_offset,
        )  # fmt: skip
        self._memory = memory
        self._layout = layout
        self._head_address = layout.interpreter_address + layout.threads_head_offset
        self._unpack_next = struct.Struct(f"<{layout.next_offset}xQ").unpack_from
        self._unpack_tid = struct.Struct(f"<{layout.thread_id_offset}xQ").unpack_from

    def is_current(self) -> bool:
        """Whether the interpreter's list is still this one, by the states that were just copied.

        Raises:
            TargetGone: there is no such memory any more.
        """
        expected = self._head()
        for thread in self.threads:
            buffer = thread.pieces.buffer
            if thread.state != expected or self._unpack_tid(buffer)[0] != thread.inner_tid:
                return False
            (expected,) = self._unpack_next(buffer)
        return expected == 0

    def walk(self) -> None:
        """Walk the interpreter's list; it may change meanwhile, and then `is_current` tells.

        Raises:
            TargetGone: there is no such memory any more.
        """
        known = {(thread.state, thread.inner_tid): thread for thread in self.threads}
        host = host_tids(self._layout.pid, is_namespaced=self._layout.is_namespaced)
        self.threads = []
        state = self._head()
        while state and len(self.threads) < THREAD_LIMIT:
            try:
                raw = os.pread(self._memory, self.state_bytes, state)
            except (OSError, OverflowError):
                break
            if len(raw) < self.state_bytes:
                break
            (inner_tid,) = self._unpack_tid(raw)
            thread = known.get((state, inner_tid)) or Thread(
                self._layout.pid, state, inner_tid, host.get(inner_tid, UNKNOWN_TID)
            )
            self.threads.append(thread)
            (state,) = self._unpack_next(raw)

    def _head(self) -> int:
        """Return the address of the first thread's state."""
        try:
            return int.from_bytes(os.pread(self._memory, 8, self._head_address), "little")
        except OSError as error:
            raise TargetGone from error
