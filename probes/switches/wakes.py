"""When each thread became ready for the stay that followed: its wake-up, from whichever CPU."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from collectors.cpu_slices import NONE
from probes.switches.records import I64
from probes.switches.switching import Wakings

# A thread that goes to sleep is off the run queue some hundred nanoseconds before the switch is
# recorded, and may be woken in between.
EARLY_NS: Final = 2_000
PID_LIMIT: Final = 1 << 22  # PID_MAX_LIMIT in include/linux/threads.h
# One number for a thread and a time, so that one sorted array answers for all threads; times count
# from the oldest there is.
_TIME_BITS: Final = 41
_TIME_LIMIT: Final = (1 << _TIME_BITS) - 1


class Wakes:
    """Finds the wake-up of each stay; keeps what belongs to stays that are still to come."""

    def __init__(self) -> None:
        self._pending = Wakings(np.empty(0, np.int64), np.empty(0, np.int64))
        # By thread id; untouched pages of these cost nothing.
        self._left_ns = np.zeros(PID_LIMIT, np.int64)  # when it last left a CPU
        self._since_ns = np.zeros(PID_LIMIT, np.int64)  # from when on it may have been woken
        self._was_runnable = np.zeros(PID_LIMIT, bool)  # whether it was then

    def add(self, wakings: Wakings) -> None:
        """Take wake-ups of threads of the target, in any order."""
        if len(wakings.tid):
            self._pending = Wakings(
                np.concatenate((self._pending.tid, wakings.tid)),
                np.concatenate((self._pending.time_ns, wakings.time_ns)),
            )

    def match(self, tid: I64, start_ns: I64, end_ns: I64, is_runnable: NDArray[np.bool_]) -> I64:
        """Return for each stay when the thread was woken for it, `NONE` where that was not seen.

        Stays come in the order in which they end, over all calls; wake-ups that were recorded
        before a stay's end must have been added.
        """
        if len(tid) == 0:
            return np.empty(0, np.int64)
        order = np.argsort(_key(tid, start_ns, int(start_ns.min())))
        tid, start_ns, end_ns = tid[order], start_ns[order], end_ns[order]
        is_runnable = is_runnable[order]
        may_ns = np.maximum(end_ns - EARLY_NS, start_ns + 1)
        is_first = np.ones(len(tid), bool)
        is_first[1:] = tid[1:] != tid[:-1]
        left_ns = np.where(is_first, self._left_ns[tid], np.roll(end_ns, 1))
        slept = ~np.where(is_first, self._was_runnable[tid], np.roll(is_runnable, 1))
        since_ns = np.where(is_first, self._since_ns[tid], np.roll(may_ns, 1))
        # The last one of a thread stays.
        self._left_ns[tid], self._since_ns[tid], self._was_runnable[tid] = (
            end_ns, may_ns, is_runnable,
        )  # fmt: skip
        woken_ns = np.full(len(tid), NONE, np.int64)
        found_ns = self._find(tid, since_ns, start_ns, slept)
        woken_ns[order] = np.where(found_ns == NONE, NONE, np.maximum(found_ns, left_ns))
        return woken_ns

    def _find(self, tid: I64, since_ns: I64, until_ns: I64, slept: NDArray[np.bool_]) -> I64:
        """Return the first wake-up of each thread within ``[since_ns, until_ns]``, if it slept."""
        woken_ns = np.full(len(tid), NONE, np.int64)
        pending = self._pending
        if len(pending.tid) == 0:
            return woken_ns
        base_ns = int(pending.time_ns.min())
        keys = np.sort(_key(pending.tid, pending.time_ns, base_ns))
        at = np.searchsorted(keys, _key(tid, since_ns, base_ns))
        found = keys[np.minimum(at, len(keys) - 1)]
        has = (at < len(keys)) & slept
        time_ns = (found & _TIME_LIMIT) + base_ns
        has &= (found >> _TIME_BITS == tid) & (time_ns <= until_ns)
        woken_ns[has] = time_ns[has]
        self._keep(keys, base_ns)
        return woken_ns

    def _keep(self, keys: I64, base_ns: int) -> None:
        """Keep those that lead to stays that have not been seen yet."""
        tid, time_ns = keys >> _TIME_BITS, (keys & _TIME_LIMIT) + base_ns
        kept = time_ns >= self._since_ns[tid]
        self._pending = Wakings(tid[kept], time_ns[kept])


def _key(tid: I64, time_ns: I64, base_ns: int) -> I64:
    return (tid << _TIME_BITS) | np.clip(time_ns - base_ns, 0, _TIME_LIMIT)
