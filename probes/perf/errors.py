"""Why the kernel refuses an event or a ring, told apart by errno; see perf_event_open(2)."""

from __future__ import annotations

import errno
import os
from typing import Final

from collectors.errors import CputaxError, ExitCode


class PerfError(CputaxError):
    """Base: the kernel refused; ``errno`` as it said."""

    slug = "perf-refused"

    def __init__(self, message: str, remedy: str, code: int) -> None:
        super().__init__(message, remedy)
        self.errno = code


class PerfForbidden(PerfError):
    """EACCES: perf_event_paranoid, or a process of another user (the kernel's ptrace check)."""

    slug = "perf-forbidden"
    exit_code = ExitCode.PERMISSION


class PerfBlocked(PerfError):
    """EPERM: a seccomp filter (container runtimes) or a security module."""

    slug = "perf-blocked"
    exit_code = ExitCode.PERMISSION


class PerfMissing(PerfError):
    """ENOSYS: no such system call, in the kernel or as a sandbox shows it."""

    slug = "perf-missing"
    exit_code = ExitCode.PERMISSION


class EventUnknown(PerfError):
    """ENOENT, EOPNOTSUPP, ENODEV: this machine has no such event (in a VM: no PMU)."""

    slug = "perf-event-unknown"


class CpuOffline(PerfError):
    """ENODEV for a given CPU: it is not online."""

    slug = "perf-cpu-offline"


class PerfTargetGone(PerfError):
    """ESRCH: the thread has ended."""

    slug = "perf-target-gone"


class NoDescriptorsLeft(PerfError):
    """EMFILE, ENFILE: more events than this process may have files."""

    slug = "perf-no-descriptors"
    exit_code = ExitCode.PERMISSION


class EventInvalid(PerfError):
    """EINVAL, E2BIG: this kernel does not know these attributes together."""

    slug = "perf-event-invalid"


class RingRefused(PerfError):
    """EPERM from mmap: more locked memory than this user may have. ENOMEM: there is none."""

    slug = "perf-ring-refused"
    exit_code = ExitCode.PERMISSION


_PARANOID: Final = "sudo sysctl kernel.perf_event_paranoid=0 (docker: --cap-add PERFMON)"
_CAUSES: Final[dict[int, tuple[type[PerfError], str, str]]] = {
    errno.EACCES: (
        PerfForbidden,
        "it needs CAP_PERFMON or a lower kernel.perf_event_paranoid, or the process is another "
        "user's",
        f"run as root or: {_PARANOID}",
    ),
    errno.EPERM: (
        PerfBlocked,
        "a seccomp filter or a security module blocks it",
        "docker: --cap-add PERFMON, or a seccomp profile that allows perf_event_open",
    ),
    errno.ENOSYS: (
        PerfMissing,
        "there is no such system call here",
        "run outside of the sandbox, or on a kernel with CONFIG_PERF_EVENTS",
    ),
    errno.ENOENT: (EventUnknown, "this machine has no such event", "a VM often has no PMU"),
    errno.EOPNOTSUPP: (EventUnknown, "this machine has no such event", "a VM often has no PMU"),
    errno.ENODEV: (EventUnknown, "this machine has no such event", "a VM often has no PMU"),
    errno.ESRCH: (PerfTargetGone, "the thread has ended", "find a live process: cputax ps"),
    errno.EMFILE: (
        NoDescriptorsLeft,
        "this process may not open more files",
        "raise the limit first: ulimit -n 1048576",
    ),
    errno.ENFILE: (
        NoDescriptorsLeft,
        "this machine may not open more files",
        "raise the limit first: sudo sysctl fs.file-max=1000000",
    ),
    errno.EINVAL: (EventInvalid, "this kernel refuses these attributes", "use a newer kernel"),
    errno.E2BIG: (EventInvalid, "this kernel refuses these attributes", "use a newer kernel"),
}


def open_error(code: int, what: str, cpu: int) -> PerfError:
    """Return the error for errno ``code`` of perf_event_open; ``what`` says which event."""
    if code == errno.ENODEV and cpu >= 0:
        return CpuOffline(f"CPU {cpu} is not online", "bring it online, or leave it out", code)
    kind, cause, remedy = _CAUSES.get(
        code, (PerfError, os.strerror(code), "see perf_event_open(2) for this errno")
    )
    return kind(f"no perf event for {what}: {cause}", remedy, code)


def ring_error(code: int, size_bytes: int) -> RingRefused:
    """Return the error for errno ``code`` of mmap on an event."""
    cause = {
        errno.EPERM: "more locked memory than this user may have",
        errno.ENOMEM: "no memory",
    }.get(code, os.strerror(code))
    return RingRefused(
        f"no perf ring of {size_bytes >> 10} KiB: {cause}",
        "sudo sysctl kernel.perf_event_mlock_kb=65536, or ulimit -l unlimited, or CAP_IPC_LOCK",
        code,
    )
