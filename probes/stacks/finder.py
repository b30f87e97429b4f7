"""Finds the Python stacks of a live CPython process from its PID, and says why when it cannot.

Sources of the offsets, for x86-64: ``pycore_frame.h``, ``cpython/pystate.h``, ``cpython/code.h``
and ``cpython/unicodeobject.h`` of CPython 3.11 and 3.12, printed with ``offsetof``; from 3.13 the
target describes itself in ``_Py_DebugOffsets`` (``pycore_runtime.h``) at the start of
``_PyRuntime``.
"""

from __future__ import annotations

import os
import struct
from typing import ClassVar, Final, NamedTuple

from collectors.errors import ProbeUnavailable, TargetExited
from probes.gil.layout import GilLayout
from probes.gil.runtime import find_gil
from probes.gil.versions import TABLE_COOKIE
from probes.procfs import Procfs
from probes.stacks.layout import StackLayout


class Offsets(NamedTuple):
    """The part of a layout that the version decides; names as there."""

    current: int
    chunk: int
    cframe: int
    code: int
    previous: int
    owner: int
    filename: int
    name: int
    ascii_bytes: int
    compact_bytes: int


FIXED: Final[dict[tuple[int, int], Offsets]] = {
    (3, 11): Offsets(56, 296, 8, 32, 48, 69, 112, 128, 48, 72),
    (3, 12): Offsets(56, 232, 0, 0, 8, 70, 112, 128, 40, 56),
}
# Byte positions in 3.13's table. 3.14 has another one, which could not be checked here.
SELF_DESCRIBED: Final = (3, 13)
TABLE_BYTES: Final = 568
_CURRENT_FRAME: Final = 184
_DATASTACK_CHUNK: Final = 208
_PREVIOUS, _EXECUTABLE, _OWNER = 232, 240, 264
_FILENAME, _QUALNAME = 280, 296
_ASCII_SIZE: Final = 560
_COMPACT_EXTRA_BYTES: Final = 16  # utf8_length and utf8 in PyCompactUnicodeObject


class StacksUnsupported(ProbeUnavailable):
    """The frames of this interpreter are not known here; py-spy may know them."""

    slug: ClassVar[str] = "stacks-unsupported"


def find_stacks(pid: int, procfs: Procfs | None = None) -> StackLayout:
    """Find where process ``pid`` keeps its Python stacks.

    Raises:
        CputaxError: as `probes.gil.runtime.find_gil`, which finds the interpreter.
        StacksUnsupported: a version whose frames are not known.
    """
    return stack_layout(find_gil(pid, procfs))


def stack_layout(gil: GilLayout) -> StackLayout:
    """Return the stack layout of an interpreter that was found.

    Raises:
        TargetExited, StacksUnsupported: see `find_stacks`.
    """
    offsets = FIXED.get(gil.version)
    if offsets is None and gil.version == SELF_DESCRIBED:
        offsets = parse_table(_read_table(gil))
    if offsets is None:
        raise StacksUnsupported(
            "the frames of CPython {}.{} are not known to the memory reader".format(*gil.version),
            "sample it with py-spy: cputax attach PID --stacks py-spy",
        )
    return StackLayout(
        pid=gil.pid,
        start_ticks=gil.start_ticks,
        interpreter_address=gil.interpreter_address,
        threads_head_offset=gil.threads_head_offset,
        next_offset=gil.next_offset,
        thread_id_offset=gil.thread_id_offset,
        current_offset=offsets.current,
        chunk_offset=offsets.chunk,
        cframe_offset=offsets.cframe,
        code_offset=offsets.code,
        previous_offset=offsets.previous,
        owner_offset=offsets.owner,
        filename_offset=offsets.filename,
        name_offset=offsets.name,
        ascii_bytes=offsets.ascii_bytes,
        compact_bytes=offsets.compact_bytes,
        is_namespaced=gil.is_namespaced,
    )


def parse_table(raw: bytes) -> Offsets | None:
    """Read 3.13's ``_Py_DebugOffsets``; None when no such table stands there."""
    if not raw.startswith(TABLE_COOKIE) or len(raw) < TABLE_BYTES:
        return None

    def field(position: int) -> int:
        return int(struct.unpack_from("<Q", raw, position)[0])

    return Offsets(
        current=field(_CURRENT_FRAME),
        chunk=field(_DATASTACK_CHUNK),
        cframe=-1,
        code=field(_EXECUTABLE),
        previous=field(_PREVIOUS),
        owner=field(_OWNER),
        filename=field(_FILENAME),
        name=field(_QUALNAME),
        ascii_bytes=field(_ASCII_SIZE),
        compact_bytes=field(_ASCII_SIZE) + _COMPACT_EXTRA_BYTES,
    )


def _read_table(gil: GilLayout) -> bytes:
    try:
        memory = os.open(f"/proc/{gil.pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(memory, TABLE_BYTES, gil.runtime_address)
        finally:
            os.close(memory)
    except OSError as error:
        raise TargetExited(
            f"process {gil.pid} cannot be read any more ({os.strerror(error.errno or 0)})",
            "see what runs: cputax ps",
        ) from error
