"""What the sampling children share: their loop, output, instants, priority, and targets' identity.

Part of the sampler children: the standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import resource
import signal
import struct
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final

CHANNEL: Final = 1  # the descriptor of a child's connected stream socket
# Why a child did not see a process for a while.
LATE: Final = "the sampler got no CPU"
DROPPED: Final = "samples were dropped: nobody read them in time"

_COMMAND_BYTES: Final = 65536
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_TIMERSLACK: Final = 29
_PR_SET_NAME: Final = 15
_SCHED_SETATTR: Final = 314  # x86-64
_SLICE_NS: Final = 100_000  # the shortest that the kernel grants
_REALTIME_LIMIT_US: Final = 500_000  # between two sleeps
_DEFAULT_SLACK_NS: Final = 50_000
_MASK_64: Final = (1 << 64) - 1


class TargetGone(Exception):
    """The process exited or replaced its program (exec); its memory is no longer there."""


class Output:
    """Batches onto a socket that may be full: what does not fit is dropped and counted."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._rest = b""
        self.dropped_count = 0

    def write(self, batch: bytes, sample_count: int) -> bool:
        """Write a batch; False when it was dropped, with its samples counted.

        Raises:
            ConnectionError: nobody will ever read it.
        """
        if self._rest:
            self._rest = self._rest[self._push(self._rest) :]
        # A batch that was begun must end, or the reader loses its place: keep that one's rest.
        written = 0 if self._rest else self._push(batch)
        if written == 0:
            self.dropped_count += sample_count
            return False
        self._rest = batch[written:]
        return True

    def _push(self, data: bytes) -> int:
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            return 0


class Slots:
    """Time cut into slots of one period, each sampled once, at a random instant within it.

    That keeps the rate without drift, gives every instant the same chance, and cannot lock onto a
    rhythm of the target's. A slot that was slept through is missed, never made up for.
    """

    def __init__(self, rate_hz: float, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock = clock
        self._random = clock() | 1
        self._slot_ns = 0
        self.missed_count = 0
        self.set_rate(rate_hz)

    def set_rate(self, rate_hz: float) -> None:
        """Use another rate from the next slot on."""
        self.period_ns = max(1, round(1e9 / rate_hz))

    def begin(self) -> int:
        """Let the first slot begin now; return when that is."""
        self._slot_ns = self._clock()
        return self._slot_ns

    def sleep(self) -> int:
        """Sleep to the instant chosen in the next slot; return when that should have been."""
        period_ns = self.period_ns
        now_ns = self._clock()
        begin_ns = self._slot_ns
        if now_ns > begin_ns:
            missed_count = (now_ns - begin_ns) // period_ns
            self.missed_count += missed_count
            self._slot_ns += missed_count * period_ns
            begin_ns = now_ns
        left_ns = self._slot_ns + period_ns - begin_ns
        wake_ns = begin_ns + (left_ns * self.next_random() >> 32)
        if wake_ns > now_ns:
            time.sleep((wake_ns - now_ns) / 1e9)
        self._slot_ns += period_ns
        return wake_ns

    def next_random(self) -> int:
        """Return a number below 2**32 (Knuth's MMIX generator; importing random costs 10 ms)."""
        self._random = (self._random * 6364136223846793005 + 1442695040888963407) & _MASK_64
        return self._random >> 32


class ChildSampler(ABC):
    """A child's loop: look, send what was seen in batches, hear commands between them.

    Commands come on ``channel``, one JSON value a line: a list is the fields of a process's layout
    (take it up), a number the rate. The loop ends when the other end closes, the parent dies, all
    processes have exited, or the time is up.
    """

    def __init__(self, channel: int, rate_hz: float, batch_ns: int) -> None:
        self.output = Output(channel)
        self.slots = Slots(rate_hz)
        self._channel = channel
        self._batch_ns = batch_ns
        self._command_text = b""

    @property
    @abstractmethod
    def has_work(self) -> bool:
        """Whether a process is left to look at."""

    @abstractmethod
    def look(self, wake_ns: int) -> int:
        """Look at every process once; return when. ``wake_ns`` is when that should have been."""

    @abstractmethod
    def flush(self) -> None:
        """Send what was seen since the last batch."""

    @abstractmethod
    def take_up(self, fields: list[Any]) -> None:
        """Begin to look at the process with these fields of a layout."""

    def set_rate(self, rate_hz: float) -> None:
        """Look so often from the next slot on."""
        self.slots.set_rate(rate_hz)

    def run(self, end_ns: int) -> None:
        """Sample until there is nothing left to do, or ``end_ns`` (CLOCK_MONOTONIC)."""
        parent_pid = os.getppid()
        if not self._take_commands():
            return
        batch_end_ns = self.slots.begin() + self._batch_ns
        while self.has_work:
            now_ns = self.look(self.slots.sleep())
            if now_ns >= batch_end_ns:
                batch_end_ns = now_ns + self._batch_ns
                self.flush()
                if now_ns >= end_ns or os.getppid() != parent_pid or not self._take_commands():
                    return
        self.flush()

    def _take_commands(self) -> bool:
        """Obey what was sent since last time; False once the other end is closed.

        The first call waits for the first command.
        """
        while True:
            try:
                chunk = os.read(self._channel, _COMMAND_BYTES)
            except BlockingIOError:
                return True
            if not chunk:
                return False
            *lines, self._command_text = (self._command_text + chunk).split(b"\n")
            for line in lines:
                command = json.loads(line)
                if isinstance(command, list):
                    self.take_up(command)
                else:
                    self.set_rate(command)
            os.set_blocking(self._channel, False)


def run_for(sampler: ChildSampler, duration_s: float) -> None:
    """Run ``sampler`` to its end; nobody reading any more, or Ctrl-C, is an end like any other."""
    with contextlib.suppress(ConnectionError, KeyboardInterrupt):
        sampler.run(time.monotonic_ns() + int(duration_s * 1e9))


def become_child(name: str, rate_hz: float, *, is_realtime: bool = False) -> None:
    """Die with the parent, and ask for what lets a sampler keep its instants.

    Priority: normal, with the shortest slice, which lets it run sooner after its timer without a
    larger share; or real-time on request, where that is allowed.
    """
    gc.disable()  # nothing here makes cycles, and a pause is a late sample
    libc = ctypes.CDLL(None, use_errno=True)
    _die_with_parent(libc)
    if not is_realtime or not _become_realtime():
        _prefer_short_slices(libc)
    libc.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)
    # The default slack of 50 us is half a period at 10 kHz.
    libc.prctl(_PR_SET_TIMERSLACK, min(_DEFAULT_SLACK_NS, int(1e8 / rate_hz)), 0, 0, 0)


def _die_with_parent(libc: ctypes.CDLL) -> None:
    parent_pid = os.getppid()
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:  # it died just before
        sys.exit()


def _prefer_short_slices(libc: ctypes.CDLL) -> None:
    """Ask for the shortest slice at unchanged policy and nice value; older kernels ignore it."""
    policy = os.sched_getscheduler(0)
    if policy not in (os.SCHED_OTHER, os.SCHED_BATCH):
        return
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    # struct sched_attr (sched_setattr(2)): size, policy, flags, nice, priority, runtime (here the
    # slice), deadline, period.
    attributes = struct.pack("<IIQiIQQQ", 48, policy, 0, nice, 0, _SLICE_NS, 0, 0)
    libc.syscall(_SCHED_SETATTR, 0, attributes, 0)


def _become_realtime() -> bool:
    """Ask for the lowest real-time priority; False when that is not allowed (CAP_SYS_NICE).

    The kernel kills it should it ever run for long without sleeping.
    """
    resource.setrlimit(resource.RLIMIT_RTTIME, (_REALTIME_LIMIT_US, _REALTIME_LIMIT_US))
    try:
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except PermissionError:
        return False
    return True


def start_ticks(pid: int) -> int:
    """Return when the process began (/proc/PID/stat field 22): which life of its PID this is.

    Raises:
        TargetGone: there is no such process.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return int(stat.read().rpartition(b")")[2].split()[19])
    except OSError as error:
        raise TargetGone from error


def host_tids(pid: int, *, is_namespaced: bool) -> dict[int, int]:
    """Map the ids of the process's threads as itself sees them to those of this PID namespace."""
    task = f"/proc/{pid}/task"
    try:
        tids = [int(name) for name in os.listdir(task)]
    except OSError:
        return {}
    if not is_namespaced:
        return {tid: tid for tid in tids}
    return {_innermost_id(f"{task}/{tid}/status", tid): tid for tid in tids}


def _innermost_id(status_path: str, tid: int) -> int:
    try:
        with open(status_path, "rb") as status:
            for line in status:
                if line.startswith(b"NSpid:"):
                    return int(line.split()[-1])
    except OSError:
        pass
    return tid
