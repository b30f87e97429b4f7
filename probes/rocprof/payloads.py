"""Where a buffer's records lie in memory, found without a loop over them.

A callback gets an array of pointers to headers, each with a pointer to a record. In a buffer of one
kind the records follow each other, so that one block of memory is all of them; threads that wrote
at the same time may have swapped the pointers. Standard library and numpy only (see the package).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEADER_WORDS = 2  # of `_abi.RecordHeader`: what it is, and where
WORD_BYTES = 8
# Every record begins with its own size; a larger one is no record of this library.
MIN_RECORD_BYTES = 16
MAX_RECORD_BYTES = 1 << 16

_from_memory = ctypes.pythonapi.PyMemoryView_FromMemory
_from_memory.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)
_from_memory.restype = ctypes.py_object
_READ_ONLY = 0x100  # PyBUF_READ


class Block(NamedTuple):
    """Records of one kind and size, one after the other."""

    mark: int  # see `wire.mark_of`
    stride: int
    record_count: int
    memory: memoryview  # valid until the callback returns


def blocks(headers: int, count: int) -> Iterator[Block]:
    """Yield the records of a delivered buffer.

    Args:
        headers: address of an array of ``count`` pointers to record headers.
        count: how many.

    Raises:
        ValueError: what lies there cannot be records.
    """
    if count == 0:
        return
    table = _header_table(_words(headers, count))
    marks, payloads = table[:, 0], table[:, 1]
    for mark in marks[:1] if (marks == marks[0]).all() else np.unique(marks):
        yield from _runs(int(mark), payloads[marks == mark])


def _header_table(pointers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the headers, which stand side by side unless the library left some out."""
    if (np.diff(pointers) == HEADER_WORDS * WORD_BYTES).all():
        words = _words(int(pointers[0]), HEADER_WORDS * len(pointers))
    else:
        words = np.concatenate([_words(at, HEADER_WORDS) for at in pointers.tolist()])
    return words.reshape(-1, HEADER_WORDS)


def _runs(mark: int, payloads: NDArray[np.uint64]) -> Iterator[Block]:
    """Yield records of one kind as few blocks as their addresses and sizes allow."""
    steps = np.diff(payloads)
    stride = _size(int(payloads[0]))
    if not (steps == stride).all():
        payloads = np.sort(payloads)
        steps = np.diff(payloads)
        stride = _size(int(payloads[0]))
    first, count = int(payloads[0]), len(payloads)
    if (steps == stride).all():
        sizes = _words(first, count * stride // WORD_BYTES)[:: stride // WORD_BYTES]
        if (sizes == stride).all():
            yield Block(mark, stride, count, _view(first, count * stride))
            return
    sizes = np.array([_size(at) for at in payloads.tolist()], np.uint64)
    is_break = (steps != sizes[:-1]) | (sizes[1:] != sizes[:-1])
    edges = [0, *(np.flatnonzero(is_break) + 1).tolist(), count]
    for begin, end in pairwise(edges):
        stride = int(sizes[begin])
        memory = _view(int(payloads[begin]), (end - begin) * stride)
        yield Block(mark, stride, end - begin, memory)


def _size(payload: int) -> int:
    size = int(_words(payload, 1)[0])
    if not MIN_RECORD_BYTES <= size <= MAX_RECORD_BYTES or size % WORD_BYTES:
        raise ValueError(f"a record of {size} bytes")
    return size


def _words(address: int, count: int) -> NDArray[np.uint64]:
    return np.frombuffer(_view(address, count * WORD_BYTES), np.uint64)


def _view(address: int, size_bytes: int) -> memoryview:
    """Return memory as it is, without a copy."""
    seen: memoryview = _from_memory(address, size_bytes, _READ_ONLY)
    return seen
