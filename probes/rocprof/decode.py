"""Records as the library laid them out, to columns: a copy per field, no loop over records.

A record's own size is the distance to the next one, so records of newer versions, which have more
at their end, are read by the same code.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from probes.rocprof import _abi

Columns = dict[str, NDArray[np.int64]]

# Column -> member of the record.
KERNEL_FIELDS: Final = {
    "start_ns": "start_timestamp",
    "end_ns": "end_timestamp",
    "thread": "thread_id",
    "correlation": "correlation_id.internal",
    "agent": "dispatch_info.agent_id",
    "queue": "dispatch_info.queue_id",
    "kernel": "dispatch_info.kernel_id",
    "dispatch": "dispatch_info.dispatch_id",
}
COPY_FIELDS: Final = {
    "start_ns": "start_timestamp",
    "end_ns": "end_timestamp",
    "thread": "thread_id",
    "correlation": "correlation_id.internal",
    "operation": "operation",
    "to_agent": "dst_agent_id",
    "from_agent": "src_agent_id",
    "size_bytes": "bytes",
}
CALL_FIELDS: Final = {
    "start_ns": "start_timestamp",
    "end_ns": "end_timestamp",
    "thread": "thread_id",
    "correlation": "correlation_id.internal",
    "operation": "operation",
}

Struct = type[ctypes.Structure]


def decode_kernels(rows: bytes | memoryview, stride: int) -> Columns:
    """Return the columns of `KERNEL_FIELDS`; see `decode`."""
    return decode(rows, stride, _abi.KernelDispatchRecord, tuple(KERNEL_FIELDS.items()))


def decode_copies(rows: bytes | memoryview, stride: int) -> Columns:
    """Return the columns of `COPY_FIELDS`; see `decode`. They stand alike in all versions."""
    return decode(rows, stride, _abi.MemoryCopyRecordV0, tuple(COPY_FIELDS.items()))


def decode_calls(rows: bytes | memoryview, stride: int, *, is_old: bool) -> Columns:
    """Return the columns of `CALL_FIELDS`; see `decode`. ``is_old``: before 1.0."""
    struct = _abi.HipApiRecordV0 if is_old else _abi.HipApiRecord
    return decode(rows, stride, struct, tuple(CALL_FIELDS.items()))


def decode(
    rows: bytes | memoryview, stride: int, struct: Struct, fields: tuple[tuple[str, str], ...]
) -> Columns:  # fmt: skip
    """Return columns of records that stand side by side, copied out of their memory.

    Args:
        rows: the records, ``stride`` bytes apart.
        stride: the size that each record states.
        struct: what they begin with.
        fields: column and member.

    Raises:
        ValueError: they are shorter than the struct, or not whole.
    """
    if stride < ctypes.sizeof(struct) or len(rows) % stride:
        raise ValueError(f"{len(rows)} bytes of records of {stride} bytes each")
    seen = np.frombuffer(rows, _dtype(struct, fields, stride))
    return {column: seen[column].astype(np.int64) for column, _ in fields}


@lru_cache
def _dtype(
    struct: Struct, fields: tuple[tuple[str, str], ...], stride: int
) -> np.dtype[np.void]:  # fmt: skip
    places = {column: _place(struct, member) for column, member in fields}
    return np.dtype(
        {
            "names": list(places),
            "formats": [form for _, form in places.values()],
            "offsets": [offset for offset, _ in places.values()],
            "itemsize": stride,
        }
    )


def _place(struct: Any, member: str) -> tuple[int, np.dtype[np.generic]]:
    """Return the offset and the type of a member, which may be one of a member."""
    name, _, rest = member.partition(".")
    offset: int = getattr(struct, name).offset
    form = next(field[1] for field in struct._fields_ if field[0] == name)
    if not rest:
        return offset, np.dtype(form)
    inner_offset, inner_form = _place(form, rest)
    return offset + inner_offset, inner_form
