"""Where the GIL of one process lies: plain numbers, found once and handed to the sampler.

This module is imported by the sampler child and stays free of anything slow to import.

Sources, for x86-64: ``struct _gil_runtime_state`` in CPython's
``Include/internal/pycore_gil.h`` (same order from 3.10 to 3.14) and ``pthread_cond_t`` in glibc's
``sysdeps/nptl/bits/thread-shared-types.h``.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

# struct _gil_runtime_state: interval 0, last_holder 8, locked 16 (int), switch_number 24,
# cond 32 (48 bytes), mutex 80 (40 bytes), switch_cond 120 (48 bytes).
HOLDER_OFFSET: Final = 8
LOCKED_OFFSET: Final = 16
SWITCH_NUMBER_OFFSET: Final = 24
CONDITION_OFFSET: Final = 32
SWITCH_CONDITION_OFFSET: Final = 120
CONDITION_BYTES: Final = 48
GIL_BYTES: Final = SWITCH_CONDITION_OFFSET + CONDITION_BYTES

# __wrefs in pthread_cond_t: 36 up to glibc 2.40, 28 since __g_refs is gone. Its upper bits count
# the waiters; its low three bits are flags, and CPython's conditions have exactly the one for
# CLOCK_MONOTONIC set.
WAITER_REFERENCE_OFFSETS: Final = (36, 28)
WAITER_FLAG_MASK: Final = 0b111
WAITER_FLAGS: Final = 0b010
WAITER_SHIFT: Final = 3


class GilLayout(NamedTuple):
    """What a reader needs to know about one process. Addresses are of the target's memory."""

    pid: int
    start_ticks: int  # /proc/PID/stat field 22: which life of this PID
    version: tuple[int, int]
    gil_address: int
    interpreter_address: int
    threads_head_offset: int  # in the interpreter
    next_offset: int  # in the thread state
    thread_id_offset: int  # of native_thread_id in the thread state; see thread_id_is_pthread
    thread_id_is_pthread: bool  # 3.10: that offset holds a pthread_t, the id lies behind it
    waiter_reference_offset: int  # in a condition; 0: unknown
    is_namespaced: bool  # ids in its memory are those of an inner PID namespace
    own_gil_interpreter_count: int  # further interpreters with a GIL of their own: not sampled
    runtime_address: int  # of _PyRuntime


# The kernel's thread id in glibc's struct pthread (x86-64), for 3.10 which keeps only a pthread_t.
PTHREAD_TID_OFFSET: Final = 0x2D0


def from_fields(fields: list[object]) -> GilLayout:
    """Rebuild a layout that went through JSON as a list."""
    layout = GilLayout(*fields)  # type: ignore[arg-type]
    return layout._replace(version=(layout.version[0], layout.version[1]))


def waiter_struct(reference_offset: int) -> struct.Struct:
    """Return how to read ``__wrefs`` of ``cond`` and ``switch_cond`` from the GIL's bytes."""
    between = SWITCH_CONDITION_OFFSET - CONDITION_OFFSET - 4
    return struct.Struct(f"<{CONDITION_OFFSET + reference_offset}xI{between}xI")


def waiter_count(asking: int, switching: int) -> int:
    """Count the threads that want the GIL, from the ``__wrefs`` of its two conditions.

    In ``cond`` sleep those that asked for it; in ``switch_cond`` a thread that was told to let go,
    until another has taken over: then it asks again.

    Returns:
        The count, or -1 when the flags say that no condition lies there.
    """
    if asking & WAITER_FLAG_MASK != WAITER_FLAGS or switching & WAITER_FLAG_MASK != WAITER_FLAGS:
        return -1
    return (asking >> WAITER_SHIFT) + (switching >> WAITER_SHIFT)


def is_wait_address(address: int, gil_address: int) -> bool:
    """Say whether a futex address lies in one of the GIL's two conditions."""
    offset = address - gil_address
    return (
        CONDITION_OFFSET <= offset < CONDITION_OFFSET + CONDITION_BYTES
        or SWITCH_CONDITION_OFFSET <= offset < SWITCH_CONDITION_OFFSET + CONDITION_BYTES
    )
