"""A ring brings what was written since last time, also where that goes past its end."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator

import numpy as np
import pytest

from probes.perf.errors import RingRefused
from probes.perf.events import Event
from probes.perf.ring import Ring

SIZE_BYTES = mmap.PAGESIZE
WORDS = SIZE_BYTES // 8
HEAD, TAIL = 1024 // 8, 1032 // 8


class Kernel:
    """The writing end: a file with the pages of a ring instead of an event."""

    def __init__(self) -> None:
        self.file = os.memfd_create("ring")
        os.ftruncate(self.file, mmap.PAGESIZE + SIZE_BYTES)
        self._map = mmap.mmap(self.file, 0)
        self._words = np.frombuffer(self._map, np.uint64)
        self._next = 0

    def write(self, count: int) -> list[int]:
        """Write ``count`` words, numbered on; return them."""
        numbers = list(range(self._next, self._next + count))
        for number in numbers:
            self._words[mmap.PAGESIZE // 8 + number % WORDS] = number
        self._next += count
        self._words[HEAD] = 8 * self._next
        return numbers

    @property
    def tail_bytes(self) -> int:
        return int(self._words[TAIL])

    def close(self) -> None:
        del self._words
        self._map.close()
        os.close(self.file)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    made = Kernel()
    yield made
    made.close()


@pytest.fixture
def ring(kernel) -> Iterator[Ring]:
    mapped = Ring(Event(kernel.file), SIZE_BYTES)
    yield mapped
    mapped.close()


def test_a_drain_brings_everything_once_and_makes_room(kernel, ring):
    written = kernel.write(10)
    assert ring.fill_bytes == 80

    assert ring.drain().tolist() == written
    assert ring.drain().tolist() == []
    assert (ring.fill_bytes, kernel.tail_bytes) == (0, 80)


def test_what_goes_past_the_end_comes_in_one_piece(kernel, ring):
    kernel.write(WORDS - 3)
    ring.drain()

    written = kernel.write(8)

    assert ring.drain().tolist() == written


def test_a_full_ring_is_drained_whole(kernel, ring):
    kernel.write(100)
    ring.drain()

    written = kernel.write(WORDS)

    assert ring.fill_bytes == SIZE_BYTES
    assert ring.drain().tolist() == written


def test_what_was_drained_does_not_change_when_the_ring_goes_on(kernel, ring):
    kernel.write(WORDS)
    first = ring.drain()
    kernel.write(WORDS)

    assert first[:3].tolist() == [0, 1, 2]


def test_what_is_no_ring_is_refused():
    read, write = os.pipe()
    try:
        with pytest.raises(RingRefused):
            Ring(Event(read), SIZE_BYTES)
    finally:
        os.close(read)
        os.close(write)
