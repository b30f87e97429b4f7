"""The only door to move_pages(2), which, given no nodes, moves nothing and says where pages lie.

The kernel looks at sixteen pages at a time and lets go of the process's memory map in between
(DO_PAGES_STAT_CHUNK_NR in mm/migrate.c), so that nobody waits for the whole of it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from typing import Final

import numpy as np
from numpy.typing import NDArray

# asm/unistd.h; arm64 and riscv use the generic table.
_SYSCALL: Final = {"x86_64": 279, "aarch64": 239, "riscv64": 239}.get(platform.machine())

_libc_syscall = ctypes.CDLL(None, use_errno=True).syscall
_libc_syscall.restype = ctypes.c_long


def find_nodes(pid: int, addresses: NDArray[np.uint64]) -> NDArray[np.int32]:
    """Return the node of each page of a process, or a negative errno.

    -ENOENT is a page that is not present; -EFAULT too, by the kernel's version, or one that is no
    memory: unmapped, a device's, or the page of zeros that all processes share. With no addresses,
    it tells whether we may ask.

    Raises:
        ProcessLookupError: the process is gone.
        PermissionError: the kernel's ptrace check, or a filter of system calls, refuses.
        OSError: ENOSYS, there is no such call here.
    """
    if _SYSCALL is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    pages = np.ascontiguousarray(addresses, np.uint64)
    nodes = np.full(len(pages), -errno.ENOENT, np.int32)
    result = _libc_syscall(
        ctypes.c_long(_SYSCALL), ctypes.c_int(pid), ctypes.c_ulong(len(pages)),
        ctypes.c_void_p(pages.ctypes.data), None, ctypes.c_void_p(nodes.ctypes.data),
        ctypes.c_int(0),
    )  # fmt: skip
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return nodes
