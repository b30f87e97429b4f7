"""Who is who: which threads belong to the target, and the track of every thread in a record."""

from __future__ import annotations

import time
from typing import Final

import numpy as np
from numpy.typing import NDArray

from collectors.cpu_slices import NONE
from probes import roles
from probes.base import Context
from probes.procfs import NS_PER_TICK
from probes.switches.records import I64, Flags, Fork, Naming
from probes.switches.wakes import PID_LIMIT
from probes.target import Process

IDLE_TID: Final = 0
# How long the session may take to find a process that has started; it looks every two seconds.
ADOPTION_NS: Final = 5_000_000_000


class Tracks:
    """Finds tracks by thread id; ids are those of our own PID namespace."""

    def __init__(self, context: Context, *, sees_all: bool) -> None:
        """``sees_all``: whether threads outside of the target have ids of their own here, which
        they have not inside a PID namespace: there all of them, and idle, are 0.
        """
        self._context = context
        self._sees_all = sees_all
        # By thread id; untouched pages of these cost nothing.
        self._pid = np.zeros(PID_LIMIT, np.int32)  # of the target's threads, else 0
        self._track = np.zeros(PID_LIMIT, np.int32)  # plus 1, so that 0 is none yet
        # By process id.
        self._is_member = np.zeros(PID_LIMIT, bool)
        self._is_adopted = np.zeros(PID_LIMIT, bool)
        self._births: dict[int, Fork] = {}  # of the target's processes that started meanwhile
        self._names: dict[int, str] = {}  # of the target's threads, as they named themselves

    def add(self, process: Process) -> None:
        """Take up a process with the threads that it has now."""
        self._is_member[process.pid] = True
        try:
            tids = self._context.target.procfs.tids(process.pid)
        except ProcessLookupError:
            return
        self._pid[tids] = process.pid

    def is_process(self, pid: int) -> bool:
        """Whether a process is known to belong to the target."""
        return bool(self._is_member[pid])

    def fork(self, fork: Fork) -> bool:
        """Take up a new thread or process; return whether it is a new process of the target."""
        self._track[fork.tid] = self._pid[fork.tid] = 0  # whoever had the id before
        self._names.pop(fork.tid, None)
        if not self._is_member[fork.parent_pid]:
            self._is_member[fork.pid] = False
            return False
        self._pid[fork.tid] = fork.pid
        if self._is_member[fork.pid]:
            return False
        self._is_member[fork.pid] = True
        self._births[fork.pid] = fork
        return True

    def rename(self, naming: Naming) -> None:
        """Note the new name of a thread of the target."""
        if self._is_member[naming.pid]:
            self._names[naming.tid] = naming.name

    def is_thread(self, tid: I64) -> Flags:
        """Return which threads belong to the target."""
        is_ours: Flags = self._pid[_index(tid)] != 0
        return is_ours

    def pids(self, pid: I64, tid: I64) -> I64:
        """Return the processes of threads of the target, 0 for all others.

        ``pid`` as the record says, `UNSEEN` where it does not.
        """
        known = (pid > 0) & self._is_member[_index(pid)]
        pids = np.where(known, pid, self._pid[_index(tid)])
        fresh = known & (tid > 0) & (self._pid[_index(tid)] != pids)
        self._pid[tid[fresh]] = pids[fresh]
        return pids

    def adopted(self, pid: I64) -> Flags:
        """Return which processes the session knows, so that their threads can have tracks.

        One that is gone before the session looked, or that it does not find, is registered here.
        """
        for one in np.unique(pid[~self._is_adopted[pid]]).tolist():
            self._is_adopted[one] = self._adopt(one)
        is_adopted: Flags = self._is_adopted[pid]
        return is_adopted

    def _adopt(self, pid: int) -> bool:
        if pid in self._context.tracks:
            return True
        birth = self._births.get(pid)
        born_ns = birth.time_ns if birth else 0
        target = self._context.target
        try:
            stat = target.procfs.stat(pid)
        except ProcessLookupError:
            start_ticks = (born_ns + _boot_offset_ns()) // NS_PER_TICK
            name = self._names.get(pid, "")
        else:
            if time.monotonic_ns() - born_ns < ADOPTION_NS:
                return False
            start_ticks, name = stat.start_ticks, stat.comm
        self._context.tracks[pid] = self._context.recorder.process_track(
            pid, start_ticks, name=name, role=roles.OTHER,
            parent=self._context.tracks.get(birth.parent_pid) if birth else None,
        )  # fmt: skip
        return True

    def of_threads(self, tid: I64) -> NDArray[np.int32]:
        """Return the tracks of threads of adopted processes of the target."""
        self._know(tid)
        return self._track[tid] - 1

    def of_next(self, tid: I64) -> NDArray[np.int32]:
        """Return the tracks of whoever came next, `NONE` where that is not known."""
        self._know(tid[tid > 0])
        track = np.where(tid > 0, self._track[_index(tid)] - 1, NONE)
        if self._sees_all:
            idle = self._context.recorder.idle_track() if (tid == IDLE_TID).any() else NONE
            track[tid == IDLE_TID] = idle
        return track.astype(np.int32)

    def _know(self, tid: I64) -> None:
        for one in np.unique(tid[self._track[tid] == 0]).tolist():
            self._track[one] = self._find(one) + 1

    def _find(self, tid: int) -> int:
        recorder = self._context.recorder
        pid = int(self._pid[tid])
        if pid == 0:
            return recorder.outsider_track(tid, name=self._name(tid, tid))
        process = self._context.tracks.get(pid)
        if process is None:
            return NONE  # it will be adopted, and asked for again
        known = self._context.target.processes.get(pid)
        role = known.role if known else roles.OTHER
        return recorder.thread_track(process, pid, tid, name=self._name(pid, tid), role=role)

    def _name(self, pid: int, tid: int) -> str:
        if tid in self._names:
            return self._names[tid]
        try:
            return self._context.target.procfs.stat(pid, None if pid == tid else tid).comm
        except OSError:  # it has ended since
            return ""


def _index(ids: I64) -> I64:
    """Return ids to look up in a table; those that are none are looked up as 0."""
    return np.where((ids > 0) & (ids < PID_LIMIT), ids, 0)


def _boot_offset_ns() -> int:
    """Return what the clock of process start times is ahead of ours: time spent suspended."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
