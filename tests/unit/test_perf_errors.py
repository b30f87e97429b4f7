"""Each refusal of the kernel is an error of its own, with what to do about it."""

from __future__ import annotations

import errno

import pytest

from collectors.errors import ExitCode
from probes.perf.errors import (
    CpuOffline,
    EventInvalid,
    EventUnknown,
    NoDescriptorsLeft,
    PerfBlocked,
    PerfError,
    PerfForbidden,
    PerfMissing,
    PerfTargetGone,
    open_error,
    ring_error,
)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.EACCES, PerfForbidden),
        (errno.EPERM, PerfBlocked),
        (errno.ENOSYS, PerfMissing),
        (errno.ENOENT, EventUnknown),
        (errno.EOPNOTSUPP, EventUnknown),
        (errno.ESRCH, PerfTargetGone),
        (errno.EMFILE, NoDescriptorsLeft),
        (errno.ENFILE, NoDescriptorsLeft),
        (errno.EINVAL, EventInvalid),
        (errno.E2BIG, EventInvalid),
        (errno.EBUSY, PerfError),
    ],
)
def test_an_errno_is_an_error_that_names_the_event(code: int, kind: type[PerfError]):
    error = open_error(code, "cycles", cpu=-1)

    assert type(error) is kind
    assert error.errno == code
    assert "cycles" in error.message


def test_a_device_that_is_not_there_is_a_cpu_where_one_was_asked_for():
    assert type(open_error(errno.ENODEV, "cycles", cpu=3)) is CpuOffline
    assert type(open_error(errno.ENODEV, "cycles", cpu=-1)) is EventUnknown


def test_what_a_permission_mends_says_so_to_the_shell():
    codes = (errno.EACCES, errno.EPERM, errno.ENOSYS, errno.EMFILE)

    assert {open_error(code, "x", -1).exit_code for code in codes} == {ExitCode.PERMISSION}
    assert "perf_event_paranoid" in open_error(errno.EACCES, "x", -1).remedy
    assert "seccomp" in open_error(errno.EPERM, "x", -1).remedy


def test_a_ring_is_refused_for_locked_memory_or_for_want_of_any():
    assert "locked memory" in ring_error(errno.EPERM, 1 << 20).message
    assert "1024 KiB: no memory" in ring_error(errno.ENOMEM, 1 << 20).message
