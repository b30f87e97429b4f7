"""The kernel's timer as a file descriptor: the only place of this package that calls the C library.

A loop that sleeps in epoll counts in milliseconds; a timerfd on an absolute instant wakes it within
microseconds, and no timer slack is added to it (timerfd_create(2), prctl(2) PR_SET_TIMERSLACK).
"""

from __future__ import annotations

import ctypes
import os
import time
from typing import Final

_ABSOLUTE: Final = 1  # TFD_TIMER_ABSTIME, linux/timerfd.h
_NS_PER_S: Final = 1_000_000_000

_libc: Final = ctypes.CDLL(None, use_errno=True)


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _TimeSpec), ("value", _TimeSpec))


def open_timer() -> int:
    """Return a descriptor that becomes readable when its timer rings; the caller closes it.

    Raises:
        OSError: the kernel has none to give.
    """
    # TFD_NONBLOCK and TFD_CLOEXEC have the values of O_NONBLOCK and O_CLOEXEC.
    flags = os.O_NONBLOCK | os.O_CLOEXEC
    return _checked(_libc.timerfd_create(time.CLOCK_MONOTONIC, flags), "timerfd_create")


def set_timer(descriptor: int, time_ns: int) -> None:
    """Let the timer ring once at ``time_ns`` (CLOCK_MONOTONIC), at once if that is over.

    Raises:
        OSError: the descriptor is no timer.
    """
    # All zero would disarm it, which the first nanosecond since boot is not.
    seconds, nanoseconds = divmod(max(1, time_ns), _NS_PER_S)
    spec = _TimerSpec(value=_TimeSpec(seconds, nanoseconds))
    _checked(_libc.timerfd_settime(descriptor, _ABSOLUTE, ctypes.byref(spec), None), "settime")


def _checked(result: int, call: str) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), call)
    return result
