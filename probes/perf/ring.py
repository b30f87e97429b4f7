"""The ring buffer of an event: the kernel writes records at its head, we read up to there.

Layout: struct perf_event_mmap_page in linux/perf_event.h; one page of it, then a power of two of
data pages.
"""

from __future__ import annotations

import mmap
import threading
from typing import Final

import numpy as np
from numpy.typing import NDArray

from probes.perf.errors import ring_error
from probes.perf.events import Event

Words = NDArray[np.uint64]

_HEAD_WORD: Final = 1024 // 8  # data_head
_TAIL_WORD: Final = 1032 // 8  # data_tail
_WORD_BYTES: Final = 8  # every record is a multiple of it

_order = threading.Lock()


def _fence() -> None:
    """Order what was read or written before against what comes after.

    The header asks for a barrier between reading the head and the records, and between those and
    writing the tail. x86 keeps that order by itself and arm64 does not; giving a lock up and taking
    it again is a release and an acquire.
    """
    _order.acquire()
    _order.release()
    _order.acquire()
    _order.release()


class Ring:
    """The records of one event and of those that write into it (`Event.set_output`)."""

    def __init__(self, event: Event, size_bytes: int) -> None:
        """Map a ring; ``size_bytes`` is a power of two of at least a page.

        Raises:
            RingRefused: the kernel gives no such ring.
        """
        self.size_bytes = size_bytes
        try:
            # It keeps a descriptor of its own on the event: close both.
            self._map = mmap.mmap(event.fd, mmap.PAGESIZE + size_bytes)
        except OSError as error:
            raise ring_error(error.errno or 0, size_bytes) from error
        self._page: Words = np.frombuffer(self._map, np.uint64, mmap.PAGESIZE // _WORD_BYTES)
        self._data: Words = np.frombuffer(self._map, np.uint64, offset=mmap.PAGESIZE)

    @property
    def fill_bytes(self) -> int:
        """How much waits to be read."""
        return int(self._page[_HEAD_WORD]) - int(self._page[_TAIL_WORD])

    def drain(self) -> Words:
        """Return a copy of what was written since last time, in 8-byte words, and free it.

        The words begin at a record and end at one's end.
        """
        head, tail = int(self._page[_HEAD_WORD]), int(self._page[_TAIL_WORD])
        _fence()
        if head == tail:
            return np.empty(0, np.uint64)
        size = len(self._data)
        first = tail // _WORD_BYTES % size
        count = (head - tail) // _WORD_BYTES
        words = self._data[first : first + count].copy()
        if len(words) < count:  # it goes on at the ring's beginning
            words = np.concatenate((words, self._data[: count - len(words)]))
        _fence()
        self._page[_TAIL_WORD] = head
        return words

    def close(self) -> None:
        """Unmap; what was not drained is lost."""
        del self._page, self._data
        self._map.close()
