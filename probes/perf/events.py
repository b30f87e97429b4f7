"""Open, control and read one perf event.

An event lives as long as its descriptor and the ring mapped from it: when this process dies, by
whatever cause, the kernel closes both and the event is gone. Nothing of it stays in the target.
"""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import os
import platform
import struct
from dataclasses import dataclass
from typing import Final

from probes.perf.attributes import PerfEventAttr, Read
from probes.perf.errors import open_error

# asm/unistd.h; arm64 and riscv use the generic table.
_SYSCALL: Final = {"x86_64": 298, "aarch64": 241, "riscv64": 241}.get(platform.machine())
_FLAG_FD_CLOEXEC: Final = 1 << 3
# linux/perf_event.h: PERF_EVENT_IOC_*; _IO('$', n), _IOW('$', 6, char *), _IOR('$', 7, __u64 *)
_ENABLE: Final = 0x2400
_DISABLE: Final = 0x2401
_RESET: Final = 0x2403
_SET_OUTPUT: Final = 0x2405
_SET_FILTER: Final = 0x40082406
_ID: Final = 0x80082407
_NO_OUTPUT: Final = -1
_READ_BYTES: Final = 4096

_libc_syscall = ctypes.CDLL(None, use_errno=True).syscall
_libc_syscall.restype = ctypes.c_long


@dataclass(frozen=True, slots=True)
class Count:
    """What an event counted, and how long it was wanted and really counting (ns).

    A PMU with fewer counters than events lets them take turns: ``running_ns`` is less then.
    """

    value: int
    enabled_ns: int
    running_ns: int

    @property
    def scaled(self) -> float | None:
        """The value as if it had counted all the time; None when it never counted."""
        if self.running_ns == 0:
            return None
        return self.value * (self.enabled_ns / self.running_ns)


class Event:
    """An open event; close it. Its descriptor is ``fd``."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def enable(self) -> None:
        """Begin to count or record."""
        fcntl.ioctl(self.fd, _ENABLE, 0)

    def disable(self) -> None:
        """Stop counting or recording."""
        fcntl.ioctl(self.fd, _DISABLE, 0)

    def reset(self) -> None:
        """Set the count to 0; not its times."""
        fcntl.ioctl(self.fd, _RESET, 0)

    def set_output(self, other: Event | None) -> None:
        """Write records into the ring of ``other``, an event of the same CPU and clock."""
        fcntl.ioctl(self.fd, _SET_OUTPUT, _NO_OUTPUT if other is None else other.fd)

    def set_filter(self, expression: str) -> None:
        """Record only where the tracepoint's fields fulfil ``expression``.

        Raises:
            OSError: EINVAL, it is no expression over fields of this tracepoint.
        """
        fcntl.ioctl(self.fd, _SET_FILTER, expression.encode() + b"\0")

    @property
    def id(self) -> int:
        """The id that its samples carry (`Sample.ID`) and group reads (`Read.ID`)."""
        value = array.array("Q", [0])
        fcntl.ioctl(self.fd, _ID, value)
        return value[0]

    def count(self) -> Count:
        """Read an event opened with ``read_format`` TIME_ENABLED | TIME_RUNNING."""
        return Count(*struct.unpack("<3Q", os.read(self.fd, 24)))

    def counts(self) -> list[Count]:
        """Read a group by its leader, in the order in which its members were opened.

        All members have ``read_format`` GROUP | TIME_ENABLED | TIME_RUNNING.
        """
        raw = os.read(self.fd, _READ_BYTES)
        count, enabled_ns, running_ns, *values = struct.unpack(f"<{len(raw) // 8}Q", raw)
        return [Count(value, enabled_ns, running_ns) for value in values[:count]]

    def close(self) -> None:
        """Let go of the descriptor; with its ring closed too, the event is gone."""
        os.close(self.fd)


COUNTING: Final = Read.TIME_ENABLED | Read.TIME_RUNNING  # what `Event.count` reads
COUNTING_GROUP: Final = COUNTING | Read.GROUP  # what `Event.counts` reads


def open_event(
    attr: PerfEventAttr, pid: int, cpu: int, group_fd: int = -1, flags: int = 0,
    what: str = "",
) -> Event:  # fmt: skip
    """Open an event.

    Args:
        attr: see `probes.perf.attributes.attributes`.
        pid: a thread (its id, not its process's), or -1 for all, or a cgroup's descriptor.
        cpu: a CPU, or -1 for wherever the thread runs.
        group_fd: the leader's descriptor, which is counted together with this one.
        flags: `probes.perf.attributes.Open`; the descriptor is always closed on exec.
        what: which event, for the message of an error.

    Raises:
        PerfError: by errno, see `probes.perf.errors`.
    """
    if _SYSCALL is None:
        raise open_error(errno.ENOSYS, what, cpu)
    fd = _libc_syscall(
        ctypes.c_long(_SYSCALL), ctypes.byref(attr), ctypes.c_int(pid), ctypes.c_int(cpu),
        ctypes.c_int(group_fd), ctypes.c_ulong(flags | _FLAG_FD_CLOEXEC),
    )  # fmt: skip
    if fd < 0:
        raise open_error(ctypes.get_errno(), what or f"type {attr.type} {attr.config:#x}", cpu)
    return Event(fd)
