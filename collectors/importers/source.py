"""Foreign files as blocks of bytes: plain or gzip, guarded against damage, bombs and size.

What is compressed is told by its first bytes, not by its name. A gzip file is unpacked in a thread
of its own, a few blocks ahead of the reader (zlib works without the GIL).
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO, Final

from collectors.errors import ImportInvalid

Progress = Callable[[float], None]  # 0..1 over the bytes read so far

MAX_FILE_BYTES: Final = 1 << 36  # unpacked: a minute of eight GPUs is some 10 GB of JSON
BLOCK_BYTES: Final = 1 << 22
HEAD_BYTES: Final = 1 << 16
# Traces shrink 10 to 30 times, made ones of events that differ in their times only by some 50;
# zeros shrink 229 times at the fastest level, 1,030 times at the best.
MAX_RATIO: Final = 200
RATIO_FREE_BYTES: Final = 1 << 26  # so little is no bomb, whatever its ratio
_READ_BYTES: Final = 1 << 18  # compressed bytes per read
_AHEAD_COUNT: Final = 2  # unpacked blocks that may wait for the reader
_GZIP_MAGIC: Final = b"\x1f\x8b"
_GZIP_WINDOW: Final = zlib.MAX_WBITS | 16  # zlib's flag for a gzip header and trailer
_WHOLE_FILE: Final = "copy or record the file again; it must be whole"


def blocks(
    path: Path, *, on_progress: Progress | None = None, block_bytes: int = BLOCK_BYTES
) -> Iterator[bytes]:
    """Yield the unpacked bytes of ``path`` in order, none longer than ``block_bytes``.

    Args:
        path: a regular file, plain or gzip.
        on_progress: called in the reader's thread, with the part of the file on disk that was read.
        block_bytes: the largest block; memory stays at a few of them.

    Raises:
        ImportInvalid: the file cannot be read, is cut off or damaged, or unpacks to more than
            `MAX_FILE_BYTES`, or by a ratio that no trace has.
    """
    with _open(path) as file:
        size_bytes = os.fstat(file.fileno()).st_size
        report = _reporter(file, size_bytes, on_progress)
        if not _is_gzip(file, path):
            if size_bytes > MAX_FILE_BYTES:
                raise _too_large(path)
            for block in _plain(file, path, block_bytes):
                report()
                yield block
        elif size_bytes <= _READ_BYTES:  # not worth a thread
            yield from _unpack(file, path, block_bytes)
        else:
            for block in _ahead(_unpack(file, path, block_bytes)):
                report()
                yield block
        report()


def head(path: Path, size: int = HEAD_BYTES) -> bytes:
    """Return the first ``size`` unpacked bytes, fewer where the file is shorter.

    Raises:
        ImportInvalid: as `blocks`, as far as these bytes show it.
    """
    with _open(path) as file:
        read = _unpack if _is_gzip(file, path) else _plain
        found = b""
        for block in read(file, path, size):
            found += block
            if len(found) >= size:
                break
        return found[:size]


def read_error(path: Path, error: OSError) -> ImportInvalid:
    """Return the error to show for an OS error met while reading ``path``."""
    if error.errno == errno.ENOENT:
        return ImportInvalid(f"{path} is not there", "check the path: ls -l FILE")
    if error.errno == errno.EISDIR:
        return ImportInvalid(f"{path} is a directory", "name the trace files in it")
    if error.errno in (errno.EACCES, errno.EPERM):
        return ImportInvalid(f"{path} may not be read by this user", f"chmod +r {path}")
    reason = errno.errorcode.get(error.errno or 0, "unknown")
    return ImportInvalid(f"{path} cannot be read ({reason})", "check the disk, then copy it again")


def _open(path: Path) -> BinaryIO:
    try:
        # Without O_NONBLOCK, opening a FIFO that nobody writes to would wait for ever.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        if isinstance(error, OSError):
            raise read_error(path, error) from error
        raise ImportInvalid(f"{path!s:.200} is no path", "check the path: ls -l FILE") from error
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(handle, "rb", buffering=0)
    os.close(handle)
    if stat.S_ISDIR(mode):
        raise ImportInvalid(f"{path} is a directory", "name the trace files in it")
    raise ImportInvalid(f"{path} is no regular file", "save it to a file first")


def _reporter(file: BinaryIO, size_bytes: int, on_progress: Progress | None) -> Callable[[], None]:
    if on_progress is None or size_bytes == 0:
        return lambda: None
    return lambda: on_progress(min(1.0, os.lseek(file.fileno(), 0, os.SEEK_CUR) / size_bytes))


def _is_gzip(file: BinaryIO, path: Path) -> bool:
    is_gzip = _read(file, path, len(_GZIP_MAGIC)) == _GZIP_MAGIC
    file.seek(0)
    return is_gzip


def _read(file: BinaryIO, path: Path, size: int) -> bytes:
    try:
        return file.read(size)
    except OSError as error:
        raise read_error(path, error) from error


def _plain(file: BinaryIO, path: Path, block_bytes: int) -> Iterator[bytes]:
    read_bytes = 0
    while block := _read(file, path, block_bytes):
        read_bytes += len(block)
        if read_bytes > MAX_FILE_BYTES:  # it grew
            raise _too_large(path)
        yield block


def _unpack(file: BinaryIO, path: Path, block_bytes: int) -> Iterator[bytes]:
    """Yield what a gzip file's members unpack to; members may be followed by zeros, as on tapes."""
    packed_bytes = unpacked_bytes = 0
    member: zlib._Decompress | None = None
    packed = b""
    while True:
        if not packed:
            packed = _read(file, path, _READ_BYTES)
            packed_bytes += len(packed)
            if not packed:
                break
        if member is None:
            packed = packed.lstrip(b"\0")
            if not packed:
                continue
            member = zlib.decompressobj(_GZIP_WINDOW)
        try:
            block = member.decompress(packed, block_bytes)
        except zlib.error as error:
            raise ImportInvalid(f"{path} has wrong gzip data", _WHOLE_FILE) from error
        packed = member.unconsumed_tail
        if member.eof:
            packed = member.unused_data
            member = None
        unpacked_bytes += len(block)
        if unpacked_bytes > MAX_FILE_BYTES:
            raise _too_large(path)
        if unpacked_bytes > max(RATIO_FREE_BYTES, MAX_RATIO * packed_bytes):
            raise ImportInvalid(
                f"{path} unpacks to over {MAX_RATIO} times its size, as no trace does",
                "if you trust it, unpack it yourself and import the plain file",
            )
        if block:
            yield block
    if member is not None:
        raise ImportInvalid(f"{path} is cut off: its gzip data has no end", _WHOLE_FILE)


def _too_large(path: Path) -> ImportInvalid:
    return ImportInvalid(
        f"{path} holds more than {MAX_FILE_BYTES >> 30} GiB", "trace a shorter time, or fewer ranks"
    )


class _Failure:
    """What ended the thread that works ahead."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


def _ahead(found: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the same blocks, made in a thread while the reader is busy with earlier ones."""
    ready: SimpleQueue[bytes | _Failure | None] = SimpleQueue()
    room = threading.Semaphore(_AHEAD_COUNT)
    is_left = False

    def fill() -> None:
        try:
            for block in found:
                ready.put(block)
                room.acquire()
                if is_left:
                    return
        except BaseException as error:  # it is the reader's to raise
            ready.put(_Failure(error))
        else:
            ready.put(None)

    thread = threading.Thread(target=fill, name="gunzip", daemon=True)
    thread.start()
    try:
        while (block := ready.get()) is not None:
            if isinstance(block, _Failure):
                raise block.error
            room.release()
            yield block
    finally:
        is_left = True
        room.release()
        thread.join()
