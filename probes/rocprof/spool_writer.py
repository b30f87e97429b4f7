"""The server's end of the spool: whole frames appended to a file, never more than may wait there.

The file lies in memory (/dev/shm) where there is any, and the session gives back what it has read
by punching holes; so a write neither waits for a disk nor fills one. Standard library only (see the
package).
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Sequence

from . import wire

MAX_WAITING_BYTES = 1 << 28  # of what the session has not read yet
_BLOCK_BYTES = 512  # unit of st_blocks (stat(2))


class SpoolWriter:
    """Appends to one file. All methods may be called from any thread; none raises OSError."""

    def __init__(self, path: str, max_waiting_bytes: int = MAX_WAITING_BYTES) -> None:
        """Make the file anew: an earlier program of this PID may have left one.

        Raises:
            OSError: it cannot be made.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o600)
        self._max_waiting_bytes = max_waiting_bytes
        self._lock = threading.Lock()
        self._end = 0
        self.is_broken = False
        self.free_ns = 0  # in the kernel so far, where a writer does not hold the GIL

    def tell(self, kind: int, content: object) -> None:
        """Append a frame of JSON."""
        self.write(kind, json.dumps(content).encode())

    def write(self, kind: int, *parts: bytes | memoryview) -> bool:
        """Append a frame; say whether there was room for it, which words (not DATA) always have.

        The GIL is free while the kernel copies ``parts``.
        """
        size_bytes = sum(map(len, parts))
        frame = [wire.HEADER.pack(wire.MAGIC, kind, size_bytes), *parts]
        with self._lock:
            if self.is_broken:
                return False
            try:
                if kind == wire.DATA and self._is_full(size_bytes):
                    return False
                return self._append(frame, wire.HEADER.size + size_bytes)
            except OSError:  # the disk is full, or the file was taken away
                self._cut()
                return False

    def _is_full(self, size_bytes: int) -> bool:
        waiting_bytes = os.fstat(self._descriptor).st_blocks * _BLOCK_BYTES
        return waiting_bytes + size_bytes > self._max_waiting_bytes

    def _append(self, frame: Sequence[bytes | memoryview], size_bytes: int) -> bool:
        began_ns = time.monotonic_ns()
        written_bytes = os.pwritev(self._descriptor, frame, self._end)
        self.free_ns += time.monotonic_ns() - began_ns
        if written_bytes != size_bytes:
            self._cut()
            return False
        self._end += size_bytes
        return True

    def _cut(self) -> None:
        """Take back half a frame; where even that fails, write no more."""
        try:
            os.ftruncate(self._descriptor, self._end)
        except OSError:
            self.is_broken = True

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self.abandon()

    def abandon(self) -> None:
        """Let go of it in a forked child, where a thread that is not here may have the lock."""
        self.is_broken = True
        os.close(self._descriptor)
