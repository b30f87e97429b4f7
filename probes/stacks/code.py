"""Reads the names of code objects in another process.

Part of the sampler child: the standard library only.
"""

from __future__ import annotations

import os
import struct
from typing import Final

from probes.stacks.layout import StackLayout

NAME_LIMIT: Final = 1000  # characters
_READ_BYTES: Final = 320  # a string's header and most texts
# struct PyObject: reference count, type. PyTypeObject begins with a PyVarObject of 24 bytes, then
# tp_name. PyASCIIObject: length 16, hash 24, state 32.
_TYPE_OFFSET: Final = 8
_TYPE_NAME_OFFSET: Final = 24
_STRING: Final = struct.Struct("<16xQ8xI")
_KIND_SHIFT, _KIND_MASK, _COMPACT_BIT, _ASCII_BIT = 2, 0b111, 1 << 5, 1 << 6
_CODECS: Final = {1: "latin-1", 2: "utf-16-le", 4: "utf-32-le"}  # by bytes per character
_CODE_TYPE_NAME: Final = b"code\0"


class NotCode(Exception):
    """What lies there is no code object: the stack changed while it was read."""


class CodeReader:
    """Names of code objects, by address, through an open /proc/PID/mem."""

    def __init__(self, memory: int, layout: StackLayout) -> None:
        self._memory = memory
        self._layout = layout
        self._code = struct.Struct(f"<{layout.filename_offset}xQ")
        self._name = struct.Struct(f"<{layout.name_offset}xQ")
        self._code_bytes = max(layout.filename_offset, layout.name_offset) + 8
        self._code_type = 0
        self._files: dict[int, str] = {}

    def forget(self) -> None:
        """Drop what is remembered: a file name's address may be used again by another string."""
        self._files.clear()

    def names(self, code: int) -> tuple[str, str]:
        """Return (qualified function name, file) of the code object at address ``code``.

        Raises:
            NotCode: no code object lies there.
        """
        raw = self._read(code, self._code_bytes)
        self._check_type(int.from_bytes(raw[_TYPE_OFFSET : _TYPE_OFFSET + 8], "little"))
        (file_address,) = self._code.unpack_from(raw)
        (name_address,) = self._name.unpack_from(raw)
        file = self._files.get(file_address)
        if file is None:
            file = self._files[file_address] = self._text(file_address)
        return self._text(name_address), file

    def _check_type(self, address: int) -> None:
        if address == self._code_type:
            return
        if self._code_type:
            raise NotCode
        name_at = self._read(address + _TYPE_NAME_OFFSET, 8)
        name = self._read(int.from_bytes(name_at, "little"), len(_CODE_TYPE_NAME))
        if name != _CODE_TYPE_NAME:
            raise NotCode
        self._code_type = address

    def _text(self, address: int) -> str:
        """Return the string object's text, cut at `NAME_LIMIT`."""
        raw = self._read(address, self._layout.compact_bytes, _READ_BYTES)
        length, state = _STRING.unpack_from(raw)
        kind = state >> _KIND_SHIFT & _KIND_MASK
        if not state & _COMPACT_BIT or kind not in _CODECS:
            raise NotCode
        header = self._layout.ascii_bytes if state & _ASCII_BIT else self._layout.compact_bytes
        end = header + min(length, NAME_LIMIT) * kind
        if len(raw) < end:
            raw = self._read(address, end)
        # A lone surrogate, which a target may hold, cannot be written to Arrow.
        text = raw[header:end].decode(_CODECS[kind], "replace")
        return text.encode("utf-8", "replace").decode()

    def _read(self, address: int, least: int, most: int = 0) -> bytes:
        try:
            raw = os.pread(self._memory, most or least, address)
        except (OSError, OverflowError) as error:
            raise NotCode from error
        if len(raw) < least:
            raise NotCode
        return raw
