"""Split what the rings held into records, without a Python step per record, and read the rare ones.

`probes.switches.switching` reads the switches themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from probes.perf.ring import Words
from probes.switches import layout as kinds

I64 = NDArray[np.int64]
Flags = NDArray[np.bool_]

_HEADER_BYTES: Final = 8
# What the size of our records never has: it is a multiple of 8 and below 256.
_NO_SIZE: Final = np.uint32(0xFF07 << 16)
_LOST_TIME_WORD: Final = 4


@dataclass(frozen=True, slots=True)
class Drained:
    """What one drain of all rings brought: their words end to end, those of ring ``i`` at
    ``starts[i]`` up to ``starts[i + 1]``.
    """

    words: Words
    starts: I64


@dataclass(frozen=True, slots=True)
class Records:
    """Every record of a drain: where it begins (word), its kind, misc bits, words and ring."""

    position: I64
    kind: NDArray[np.uint32]
    misc: NDArray[np.uint32]
    length: I64
    ring: I64


def find_records(drained: Drained) -> Records:
    """Find where each record begins.

    A word that could be a header is one only if it stands where the record before it ends: so all
    candidates are taken at once, and the chain is checked. Where it does not hold, since another
    word looks like a header or a record is of unusual size, they are walked one by one instead.

    Raises:
        ValueError: these are no records.
    """
    # A header's lower half is its kind; the upper one misc bits and, on top, its size in bytes.
    halves = drained.words.view(np.uint32)
    position = np.flatnonzero(halves[0::2] - np.uint32(1) < kinds.KIND_LIMIT - 1)
    upper = halves[1::2][position]
    position = position[(upper & _NO_SIZE == 0) & (upper >= _HEADER_BYTES << 16)]
    header = drained.words[position].view(np.uint32)
    if not _is_chain(position, header, len(drained.words)):
        position = _walk(halves)
        header = drained.words[position].view(np.uint32)
    first = np.searchsorted(position, drained.starts)
    return Records(
        position,
        header[0::2],
        header[1::2] & np.uint32(0xFFFF),
        _lengths(header),
        np.repeat(np.arange(len(first) - 1), np.diff(first)),
    )


def _lengths(headers: NDArray[np.uint32]) -> I64:
    return (headers[1::2] >> np.uint32(19)).astype(np.int64)  # bytes in the upper 16 bits, over 8


def _is_chain(position: I64, headers: NDArray[np.uint32], word_count: int) -> bool:
    if len(position) == 0:
        return word_count == 0
    ends = position + _lengths(headers)
    return bool(
        position[0] == 0 and ends[-1] == word_count and np.array_equal(position[1:], ends[:-1])
    )


def _walk(halves: NDArray[np.uint32]) -> I64:
    lengths = _lengths(halves).tolist()
    found = []
    position = 0
    while position < len(lengths):
        if lengths[position] == 0:
            raise ValueError(f"no record at word {position} of {len(lengths)}")
        found.append(position)
        position += lengths[position]
    return np.array(found, np.int64)


def split_pairs(words: Words) -> tuple[I64, I64]:
    """Return the lower and the upper half of each word as signed numbers."""
    halves = np.ascontiguousarray(words).view(np.int32)
    return halves[0::2].astype(np.int64), halves[1::2].astype(np.int64)


@dataclass(frozen=True, slots=True)
class Fork:
    """A new thread, of a new process when ``pid`` is another than ``parent_pid``."""

    time_ns: int
    pid: int
    parent_pid: int
    tid: int


@dataclass(frozen=True, slots=True)
class Naming:
    """A thread has a new name; ``is_exec``: its process runs another program now."""

    pid: int
    tid: int
    name: str
    is_exec: bool


@dataclass(frozen=True, slots=True)
class Loss:
    """Records that found no room before ``time_ns``; None: nobody knows when."""

    ring: int
    record: int
    count: int
    time_ns: int | None


def read_forks(drained: Drained, records: Records) -> list[Fork]:
    """Return the forks among ``records``, in the order of their times."""
    at = records.position[records.kind == kinds.FORK]
    pid, parent_pid = split_pairs(drained.words[at + 1])
    tid, _ = split_pairs(drained.words[at + 2])
    columns = (drained.words[at + 3].tolist(), pid.tolist(), parent_pid.tolist(), tid.tolist())
    return sorted((Fork(*row) for row in zip(*columns, strict=True)), key=lambda one: one.time_ns)


def read_namings(drained: Drained, records: Records) -> list[Naming]:
    """Return the new names among ``records``."""
    found = []
    for row in np.flatnonzero(records.kind == kinds.COMM).tolist():
        at, length = int(records.position[row]), int(records.length[row])
        pid, tid = split_pairs(drained.words[at + 1 : at + 2])
        text = drained.words[at + 2 : at + length - kinds.SAMPLE_ID_WORDS].tobytes()
        name = text.partition(b"\0")[0].decode("utf-8", "replace")
        is_exec = bool(records.misc[row] & kinds.MISC_COMM_EXEC)
        found.append(Naming(int(pid[0]), int(tid[0]), name, is_exec))
    return found


def read_losses(drained: Drained, records: Records) -> list[Loss]:
    """Return the losses among ``records``."""
    found = []
    for row in np.flatnonzero(records.kind == kinds.LOST).tolist():
        at, length = int(records.position[row]), int(records.length[row])
        time_ns = int(drained.words[at + _LOST_TIME_WORD]) if length > _LOST_TIME_WORD else None
        found.append(Loss(int(records.ring[row]), row, int(drained.words[at + 2]), time_ns))
    return found
