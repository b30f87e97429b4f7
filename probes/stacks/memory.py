"""The only door to process_vm_readv(2): many pieces of another process's memory in one call.

Part of the sampler child: the standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import Final

from probes.sampling import TargetGone

PIECE_LIMIT: Final = 1024  # IOV_MAX in linux/uio.h
_PIECE: Final = struct.Struct("<QQ")  # struct iovec: address, length

_readv = ctypes.CDLL(None, use_errno=True).process_vm_readv
_readv.restype = ctypes.c_ssize_t
_readv.argtypes = [
    ctypes.c_int, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong
]  # fmt: skip


class Pieces:
    """A list of (address, length) in process ``pid``, and the bytes there, end to end."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.buffer = bytearray()
        self.byte_count = 0
        self._local = bytearray(_PIECE.size)
        self._local_address = _address(self._local)
        self._remote = bytearray()
        self._remote_address = 0
        self._piece_count = 0

    def plan(self, pieces: list[tuple[int, int]]) -> None:
        """Say what `read` copies from now on: 1 to `PIECE_LIMIT` pieces."""
        self.byte_count = sum(length for _, length in pieces)
        if len(self.buffer) < self.byte_count:
            self.buffer = bytearray(2 * self.byte_count)
        self._piece_count = len(pieces)
        self._remote = bytearray(b"".join(_PIECE.pack(*piece) for piece in pieces))
        self._remote_address = _address(self._remote)
        _PIECE.pack_into(self._local, 0, _address(self.buffer), self.byte_count)

    def read(self) -> int:
        """Copy all pieces; return how many bytes there were up to the first that cannot be read.

        Raises:
            TargetGone: the process has ended.
            OSError: EPERM where the kernel refuses.
        """
        count = int(
            _readv(self._pid, self._local_address, 1, self._remote_address, self._piece_count, 0)
        )
        if count >= 0:
            return count
        code = ctypes.get_errno()
        if code == errno.ESRCH:
            raise TargetGone
        if code == errno.EFAULT:
            return 0
        raise OSError(code, os.strerror(code))


def _address(buffer: bytearray) -> int:
    """Return where a buffer lies; it must not be resized while that is used."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))
