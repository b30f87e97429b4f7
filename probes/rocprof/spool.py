"""The session's end of the spool: a private directory, the server's environment, and frames read.

Each process of the server writes ``PID.spool`` and waits at ``PID.control`` (`inprocess.hook`), by
the PID that it sees itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from probes.rocprof import wire
from probes.rocprof.errors import SpoolBroken

SHARED_MEMORY: Final = Path("/dev/shm")
SITE: Final = Path(__file__).with_name("inprocess") / "site"
CHUNK_BYTES: Final = 2 * wire.MAX_BODY_BYTES  # so that a frame always fits
FALLOC_FL_KEEP_SIZE: Final = 1  # linux/falloc.h
FALLOC_FL_PUNCH_HOLE: Final = 2
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


@contextlib.contextmanager
def spool_directory() -> Iterator[Path]:
    """Make a directory for spool files, in memory where there is any; remove it at the end."""
    is_there = SHARED_MEMORY.is_dir() and os.access(SHARED_MEMORY, os.W_OK)
    directory = tempfile.mkdtemp(prefix="cputax-", dir=SHARED_MEMORY if is_there else None)
    try:
        yield Path(directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def hook_environment(
    directory: Path, environ: Mapping[str, str], *, is_hip_traced: bool = False
) -> dict[str, str]:  # fmt: skip
    """Return the variables that make a server's Python processes trace into ``directory``.

    Args:
        directory: of `spool_directory`.
        environ: what the server would get otherwise; its ``PYTHONPATH`` is kept.
        is_hip_traced: record every call of HIP's runtime, too.
    """
    python_path = [str(SITE), *filter(None, [environ.get("PYTHONPATH")])]
    found = {
        "PYTHONPATH": os.pathsep.join(python_path),
        "CPUTAX_ROCPROF_SPOOL": str(directory),
    }
    if is_hip_traced:
        found["CPUTAX_ROCPROF_HIP_API"] = "1"
    return found


class SpoolReader:
    """Reads one process's spool file as it grows, and gives its room back."""

    def __init__(self, path: Path, pid: int) -> None:
        """Open the file of this process.

        Raises:
            OSError: it is not there.
        """
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._pid = pid
        self.read_bytes = 0
        self._can_punch = True

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """Yield type and body of each frame that is whole by now.

        Raises:
            SpoolBroken: what is there is no frame.
        """
        while True:
            chunk = os.pread(self._descriptor, CHUNK_BYTES, self.read_bytes)
            used = 0
            while len(chunk) - used >= wire.HEADER.size:
                magic, kind, size_bytes = wire.HEADER.unpack_from(chunk, used)
                if magic != wire.MAGIC or size_bytes > wire.MAX_BODY_BYTES:
                    raise SpoolBroken(self._pid, self.read_bytes + used)
                body_at = used + wire.HEADER.size
                if len(chunk) - body_at < size_bytes:
                    break
                yield kind, chunk[body_at : body_at + size_bytes]
                used = body_at + size_bytes
            if used == 0:
                return
            self.read_bytes += used
            self._give_back()

    def _give_back(self) -> None:
        """Let the file system free what was read; not every one can."""
        if self._can_punch:
            how = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
            self._can_punch = _libc.fallocate(self._descriptor, how, 0, self.read_bytes) == 0

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)


class Control:
    """Holds one process's FIFO open while records are wanted."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def open(self) -> bool:
        """Ask for records; False while the process does not wait for that yet.

        Raises:
            OSError: there is no such FIFO.
        """
        if self._descriptor is None:
            try:
                flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
                self._descriptor = os.open(self._path, flags)
            except OSError as error:
                if error.errno != errno.ENXIO:  # nobody has it open for reading (fifo(7))
                    raise
        return self._descriptor is not None

    def close(self) -> None:
        """Want no more records."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
