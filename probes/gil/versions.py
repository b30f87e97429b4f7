"""The offsets of CPython 3.10 to 3.14 that lead from ``_PyRuntime`` to the GIL and its threads.

Up to 3.12 they are fixed per version (x86-64, glibc; from ``pycore_runtime.h``,
``pycore_interp.h`` and ``pystate.h``, checked against running interpreters). From 3.13 the target
describes itself in ``_Py_DebugOffsets`` (``pycore_debug_offsets.h``) at the start of
``_PyRuntime``.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

OLDEST: Final = (3, 10)
NEWEST: Final = (3, 14)
TABLE_COOKIE: Final = b"xdebugpy"
TABLE_BYTES: Final = 256


class RuntimeOffsets(NamedTuple):
    """Offsets in bytes. One of ``gil`` (in the runtime) and ``gil_pointer`` is None."""

    interpreters_head: int  # in the runtime; the main interpreter's pointer follows it
    gil: int | None  # in the runtime: one GIL for all interpreters
    gil_pointer: int | None  # in the interpreter: a pointer to the GIL that it uses
    interpreter_next: int
    threads_head: int  # in the interpreter
    thread_next: int
    thread_id: int  # native_thread_id, or the pthread_t in 3.10
    thread_id_is_pthread: bool


FIXED: Final[dict[tuple[int, int], RuntimeOffsets]] = {
    (3, 10): RuntimeOffsets(32, 352, None, 0, 8, 8, 176, True),
    (3, 11): RuntimeOffsets(40, 360, None, 0, 16, 8, 160, False),
    (3, 12): RuntimeOffsets(40, None, 384, 0, 72, 8, 144, False),
}


class _TablePositions(NamedTuple):
    """Where _Py_DebugOffsets keeps what we need; each field is a uint64."""

    interpreters_head: int
    interpreter_next: int
    threads_head: int
    ceval_gil: int
    gil: int
    gil_locked: int
    gil_holder: int
    thread_next: int
    native_thread_id: int


# 3.14 put threads_main before ceval_gil and two generations before the thread state.
_POSITIONS: Final[dict[tuple[int, int], _TablePositions]] = {
    (3, 13): _TablePositions(40, 64, 72, 112, 120, 136, 144, 168, 200),
    (3, 14): _TablePositions(40, 64, 72, 120, 128, 144, 152, 192, 224),
}


class DebugTable(NamedTuple):
    """What the start of a 3.13+ ``_PyRuntime`` says of its build."""

    version: tuple[int, int]
    is_free_threaded: bool
    offsets: RuntimeOffsets | None  # None: a version whose table is not known here
    gil_locked: int  # in the GIL struct
    gil_holder: int


def parse_version(hexversion: int) -> tuple[int, int]:
    """Split PY_VERSION_HEX (``0x030B07F0`` is 3.11.7) into (major, minor)."""
    return hexversion >> 24 & 0xFF, hexversion >> 16 & 0xFF


def parse_table(raw: bytes) -> DebugTable | None:
    """Read the first `TABLE_BYTES` of ``_PyRuntime``; None when no table stands there."""
    if not raw.startswith(TABLE_COOKIE) or len(raw) < TABLE_BYTES:
        return None

    def field(position: int) -> int:
        return int(struct.unpack_from("<Q", raw, position)[0])

    version = parse_version(field(8))
    positions = _POSITIONS.get(version)
    if positions is None:
        return DebugTable(version, bool(field(16)), None, 0, 0)
    gil = field(positions.gil)
    offsets = RuntimeOffsets(
        interpreters_head=field(positions.interpreters_head),
        gil=None,
        gil_pointer=field(positions.ceval_gil),
        interpreter_next=field(positions.interpreter_next),
        threads_head=field(positions.threads_head),
        thread_next=field(positions.thread_next),
        thread_id=field(positions.native_thread_id),
        thread_id_is_pthread=False,
    )
    # The last two are given relative to the interpreter, like the GIL itself.
    locked, holder = field(positions.gil_locked) - gil, field(positions.gil_holder) - gil
    return DebugTable(version, bool(field(16)), offsets, locked, holder)
