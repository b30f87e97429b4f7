"""Offsets, versions and ELF lookups: pure parsing, and this very interpreter as a specimen."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

import pytest

from probes.gil import elf, layout, versions


def table(version: int, free_threaded: int = 0, **fields: int) -> bytes:
    raw = bytearray(versions.TABLE_BYTES)
    struct.pack_into("<8sQQ", raw, 0, versions.TABLE_COOKIE, version, free_threaded)
    for position, value in fields.items():
        struct.pack_into("<Q", raw, int(position.removeprefix("at")), value)
    return bytes(raw)


def test_a_314_table_is_read_at_its_own_positions() -> None:
    raw = table(
        0x030E00F0, at40=808, at64=8, at72=7344, at120=16, at128=400, at144=416, at152=408,
        at192=8, at224=160,
    )  # fmt: skip
    parsed = versions.parse_table(raw)
    assert parsed is not None
    assert parsed.version == (3, 14)
    assert (parsed.gil_locked, parsed.gil_holder) == (
        layout.LOCKED_OFFSET,
        layout.HOLDER_OFFSET,
    )
    assert parsed.offsets == versions.RuntimeOffsets(808, None, 16, 8, 7344, 8, 160, False)


def test_a_free_threaded_table_says_so() -> None:
    parsed = versions.parse_table(table(0x030D00F0, free_threaded=1))
    assert parsed is not None
    assert parsed.is_free_threaded


def test_a_table_of_an_unknown_version_gives_no_offsets() -> None:
    parsed = versions.parse_table(table(0x030F00F0))
    assert parsed is not None
    assert parsed.offsets is None


@pytest.mark.parametrize("raw", [b"", b"xdebugpy", bytes(versions.TABLE_BYTES)])
def test_what_is_no_table_is_none(raw: bytes) -> None:
    assert versions.parse_table(raw) is None


def test_hexversion() -> None:
    assert versions.parse_version(0x030B07F0) == (3, 11)


def conditions(asking: int, switching: int) -> int:
    return layout.waiter_count(asking, switching)


def test_waiters_of_both_conditions_are_added() -> None:
    assert conditions(3 << 3 | 2, 1 << 3 | 2) == 4


@pytest.mark.parametrize("flags", [0, 1, 3, 6])
def test_other_flags_mean_that_no_condition_lies_there(flags: int) -> None:
    assert conditions(1 << 3 | flags, 2) == -1
    assert conditions(2, 1 << 3 | flags) == -1


@pytest.mark.parametrize("offset", layout.WAITER_REFERENCE_OFFSETS)
def test_references_are_read_from_both_conditions(offset: int) -> None:
    raw = bytearray(layout.GIL_BYTES)
    struct.pack_into("<I", raw, layout.CONDITION_OFFSET + offset, 7)
    struct.pack_into("<I", raw, layout.SWITCH_CONDITION_OFFSET + offset, 9)
    assert layout.waiter_struct(offset).unpack_from(raw) == (7, 9)


def test_wait_addresses_are_those_of_the_two_conditions() -> None:
    inside = [0x1000 + layout.CONDITION_OFFSET + 40, 0x1000 + layout.SWITCH_CONDITION_OFFSET + 44]
    outside = [0x1000, 0x1000 + 80, 0x1000 + layout.GIL_BYTES, 0xFFF]
    assert all(layout.is_wait_address(address, 0x1000) for address in inside)
    assert not any(layout.is_wait_address(address, 0x1000) for address in outside)


MAPS = """\
00400000-00401000 r--p 00000000 fe:00 1 /usr/bin/python3.11
7f00-8f00 r--p 00002000 fe:00 2 /opt/my python/lib/libpython3.12.so.1.0
8f00-9f00 rw-p 00000000 00:00 0 [heap]
9f00-af00 rw-p 00000000 00:00 0
"""


def test_maps_keep_files_only_and_spaces_in_paths() -> None:
    assert elf.file_mappings(MAPS) == [
        elf.Mapping(0x400000, 0, "/usr/bin/python3.11"),
        elf.Mapping(0x7F00, 0x2000, "/opt/my python/lib/libpython3.12.so.1.0"),
    ]


@pytest.mark.parametrize(
    ("path", "is_musl"),
    [
        ("/lib/ld-musl-x86_64.so.1", True),
        ("/lib/libc.musl-x86_64.so.1", True),
        ("/usr/lib/x86_64-linux-gnu/libc.so.6", False),
    ],
)
def test_musl_is_told_by_its_loader(path: str, is_musl: bool) -> None:
    assert elf.uses_musl([elf.Mapping(0, 0, path)]) is is_musl


def test_a_symbol_of_this_process_is_found_where_the_loader_put_it() -> None:
    expected = ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, "_PyRuntime"))
    mappings = elf.file_mappings(Path("/proc/self/maps").read_text())
    found = []
    for path, start, file_offset in elf.python_files(os.getpid(), mappings):
        with elf.Binary(path, start, file_offset) as binary:
            found.append(binary.address("_PyRuntime"))
            assert binary.address("no_such_symbol_anywhere") is None
    assert expected in found


def test_a_file_that_is_no_elf_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "libpython3.11.so"
    path.write_bytes(b"#!/bin/sh\n")
    with pytest.raises(ValueError, match="no ELF file"):
        elf.Binary(path, 0, 0)


def test_a_layout_survives_json() -> None:
    original = layout.GilLayout(7, 8, (3, 12), 9, 10, 11, 12, 13, False, 36, True, 2, 14)
    fields: list[object] = [
        list(field) if isinstance(field, tuple) else field for field in original
    ]
    assert layout.from_fields(fields) == original
