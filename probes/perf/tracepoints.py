"""Tracepoints: their ids and where their fields lie, from tracefs.

Where it is not mounted, a mount without a place in the file tree is made and gone again as soon as
its descriptor closes: no other process ever sees it (fsmount(2); it takes CAP_SYS_ADMIN).
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from probes.perf.errors import EventUnknown, PerfError, PerfForbidden

PLACES: Final = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
# asm/unistd.h, the same on every architecture; linux/mount.h
_FSOPEN: Final = 430
_FSCONFIG: Final = 431
_FSMOUNT: Final = 432
_FSCONFIG_CMD_CREATE: Final = 6
_CLOEXEC: Final = 1  # FSOPEN_CLOEXEC and FSMOUNT_CLOEXEC
_FIELD: Final = re.compile(r"(\w+)(?:\[\d+\])?;\toffset:(\d+);\tsize:(\d+);")
_FILE_BYTES: Final = 1 << 16

_libc_syscall = ctypes.CDLL(None, use_errno=True).syscall
_libc_syscall.restype = ctypes.c_long


@dataclass(frozen=True, slots=True)
class Tracepoint:
    """A tracepoint: ``id`` is its ``config``, ``offsets`` its fields' places in bytes."""

    id: int
    offsets: dict[str, int]
    size_bytes: int  # of all fields


def read_tracepoints(names: tuple[str, ...], places: tuple[Path, ...] = PLACES) -> list[Tracepoint]:
    """Return the tracepoints ``names`` ("sched/sched_switch").

    Raises:
        PerfError: tracefs is not to be had, or has no such tracepoint.
    """
    with _tracefs(places) as root:
        return [_read(root, name) for name in names]


def _read(root: int, name: str) -> Tracepoint:
    text = _text(root, name, "format")
    fields = [(field, int(offset), int(size)) for field, offset, size in _FIELD.findall(text)]
    offsets = {field: offset for field, offset, _ in fields}
    size_bytes = max(offset + size for _, offset, size in fields)
    return Tracepoint(int(_text(root, name, "id")), offsets, size_bytes)


def _text(root: int, name: str, file: str) -> str:
    try:
        descriptor = os.open(f"events/{name}/{file}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=root)
    except OSError as error:
        raise _error(error.errno or 0, f"tracepoint {name}") from error
    with os.fdopen(descriptor, "rb") as opened:
        return opened.read(_FILE_BYTES).decode()


@contextmanager
def _tracefs(places: tuple[Path, ...]) -> Iterator[int]:
    root = _open_mounted(places)
    if root is None:
        root = _mount_detached()
    try:
        yield root
    finally:
        os.close(root)


def _open_mounted(places: tuple[Path, ...]) -> int | None:
    for place in places:
        try:
            (place / "events").stat()
            return os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            continue
    return None


def _mount_detached() -> int:
    context = _call(_FSOPEN, b"tracefs", _CLOEXEC)
    try:
        _call(_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        return _call(_FSMOUNT, context, _CLOEXEC, 0)
    finally:
        os.close(context)


def _call(number: int, *arguments: object) -> int:
    descriptor = int(_libc_syscall(number, *arguments))
    if descriptor < 0:
        raise _error(ctypes.get_errno(), "tracefs")
    return descriptor


def _error(code: int, what: str) -> PerfError:
    remedy = "sudo mount -t tracefs tracefs /sys/kernel/tracing, or run as root"
    if code in {errno.EACCES, errno.EPERM}:
        return PerfForbidden(f"no access to {what}", remedy, code)
    return EventUnknown(f"no {what} here ({os.strerror(code)})", remedy, code)
