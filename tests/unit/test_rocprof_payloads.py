"""Records in a delivered buffer: found as whole blocks, in any order, of any size."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from probes.rocprof import _abi, payloads, wire
from probes.rocprof.payloads import Block, blocks

KERNEL = wire.mark_of(1, 11)
COPY = wire.mark_of(1, 10)


class Memory:
    """A buffer as the library lays it out: records, headers, and pointers to headers."""

    def __init__(self, *records: tuple[int, int], spread_bytes: int = 0) -> None:
        """``records``: mark and size of each; they hold their number in their second word."""
        self.room = np.zeros(sum(size + spread_bytes for _, size in records) // 8, np.uint64)
        self.headers = np.zeros((len(records) + 1, 2), np.uint64)
        at = 0
        for number, (mark, size) in enumerate(records):
            self.room[at // 8] = size
            self.room[at // 8 + 1] = number
            self.headers[number] = mark, self.room.ctypes.data + at
            at += size + spread_bytes
        steps = np.arange(len(records), dtype=np.uint64) * np.uint64(16)
        self.pointers = steps + np.uint64(self.headers.ctypes.data)

    def blocks(self) -> list[Block]:
        return list(blocks(self.pointers.ctypes.data, len(self.pointers)))


def numbers(block: Block) -> list[int]:
    return np.frombuffer(block.memory, np.uint64)[1 :: block.stride // 8].tolist()


def test_records_of_one_kind_are_one_block_of_the_buffers_own_memory():
    memory = Memory(*[(KERNEL, 184)] * 5)

    (block,) = memory.blocks()

    assert (block.mark, block.stride, block.record_count) == (KERNEL, 184, 5)
    assert numbers(block) == [0, 1, 2, 3, 4]
    memory.room[1] = 77
    assert numbers(block)[0] == 77, "no copy was made"


def test_pointers_that_were_swapped_do_not_matter():
    memory = Memory(*[(KERNEL, 192)] * 4)
    memory.headers[[0, 1]] = memory.headers[[1, 0]]

    (block,) = memory.blocks()

    assert (block.stride, block.record_count) == (192, 4)
    assert sorted(numbers(block)) == [0, 1, 2, 3]


def test_headers_that_the_library_left_out_do_not_matter():
    memory = Memory(*[(KERNEL, 184)] * 4)
    memory.pointers = np.delete(memory.pointers, 1)

    first, rest = memory.blocks()

    assert (numbers(first), numbers(rest)) == ([0], [2, 3])


def test_records_with_room_between_them_are_found_one_by_one():
    memory = Memory(*[(KERNEL, 184)] * 3, spread_bytes=64)

    assert [numbers(block) for block in memory.blocks()] == [[0], [1], [2]]


def test_kinds_and_sizes_are_told_apart():
    memory = Memory((KERNEL, 184), (KERNEL, 184), (COPY, 96), (KERNEL, 184), (KERNEL, 192))

    found = {(b.mark, b.stride, tuple(numbers(b))) for b in memory.blocks()}

    assert found == {
        (KERNEL, 184, (0, 1)), (KERNEL, 184, (3,)), (KERNEL, 192, (4,)), (COPY, 96, (2,)),
    }  # fmt: skip


def test_an_empty_buffer_has_no_blocks():
    assert list(blocks(0, 0)) == []


@pytest.mark.parametrize("size", [0, 8, 12, payloads.MAX_RECORD_BYTES + 8])
def test_what_cannot_be_a_records_size_is_refused(size):
    memory = Memory((KERNEL, 184))
    memory.room[0] = size

    with pytest.raises(ValueError, match=f"{size} bytes"):
        memory.blocks()


def test_headers_are_as_large_as_the_library_declares_them():
    assert ctypes.sizeof(_abi.RecordHeader) == payloads.HEADER_WORDS * payloads.WORD_BYTES
