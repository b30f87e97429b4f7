"""Records to columns: by the struct's offsets, at the record's own distance."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from probes.rocprof import _abi
from probes.rocprof.decode import (
    CALL_FIELDS,
    COPY_FIELDS,
    KERNEL_FIELDS,
    decode_calls,
    decode_copies,
    decode_kernels,
)
from probes.rocprof.demangle import Demangler


def member(record: Any, path: str) -> int:
    for name in path.split("."):
        record = getattr(record, name)
    return int(record)


def filled(struct: type[Any], count: int) -> list[Any]:
    """Return records in which each byte of a field differs from its neighbours'."""
    random = np.random.default_rng(7)
    size = ctypes.sizeof(struct)
    records = [
        struct.from_buffer_copy(random.integers(0, 128, size, np.uint8).tobytes())
        for _ in range(count)
    ]
    for record in records:
        record.size = size
    return records


@pytest.mark.parametrize(
    ("struct", "fields", "decode"),
    [
        (_abi.KernelDispatchRecord, KERNEL_FIELDS, decode_kernels),
        (_abi.MemoryCopyRecord, COPY_FIELDS, decode_copies),
        (_abi.MemoryCopyRecordV0, COPY_FIELDS, decode_copies),
        (_abi.HipApiRecord, CALL_FIELDS, lambda r, s: decode_calls(r, s, is_old=False)),
        (_abi.HipApiRecordV0, CALL_FIELDS, lambda r, s: decode_calls(r, s, is_old=True)),
    ],
)
@pytest.mark.parametrize("extra_bytes", [0, 8, 40])
def test_columns_are_what_ctypes_reads_record_by_record(struct, fields, decode, extra_bytes):
    records = filled(struct, 5)
    stride = ctypes.sizeof(struct) + extra_bytes

    columns = decode(b"".join(bytes(one) + b"\xff" * extra_bytes for one in records), stride)

    assert columns.keys() == fields.keys()
    for column, path in fields.items():
        assert columns[column].dtype == np.int64
        assert columns[column].tolist() == [member(one, path) for one in records], column


def test_columns_outlive_the_memory_that_they_came_from():
    memory = bytearray(bytes(filled(_abi.KernelDispatchRecord, 1)[0]))
    columns = decode_kernels(memoryview(memory), 184)
    before = columns["kernel"].tolist()

    memory[:] = bytes(184)

    assert columns["kernel"].tolist() == before


@pytest.mark.parametrize(("size", "stride"), [(160, 160), (185, 184), (96, 0)])
def test_records_that_cannot_be_are_refused(size, stride):
    with pytest.raises(ValueError, match=f"{size} bytes"):
        decode_kernels(bytes(size), stride)


def test_names_of_kernels_become_readable():
    readable = Demangler().readable

    assert readable("_Z4gemmIfEvPT_i.kd") == "void gemm<float>(float*, int)"
    assert readable("Cijk_Ailk_Bljk_HHS_BH.kd") == "Cijk_Ailk_Bljk_HHS_BH"
    assert readable("_Znot_a_name") == "_Znot_a_name"
    assert readable("") == ""
