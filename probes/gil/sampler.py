"""The sampling child: looks at the GILs of all processes of a server in one loop.

Run as ``python -m probes.gil.sampler``; `probes.gil.probe` does. Descriptor 1 is a connected
stream socket: commands come in, one JSON list of `GilLayout` fields a line (take up this process),
and batches (`probes.gil.wire`) go out. It ends when the other end closes, its parent dies, all
processes have exited, or its time is up.

Priority: normal, with the shortest slice (Linux 6.12), which lets it run sooner after its timer
without a larger share; or real-time on request, since on a saturated host the normal one is not
only late: it runs when the target yields, which is when the target has let go of the GIL. See
docs/gil.md for figures of both, and for what each costs.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import struct
import sys
import time
from typing import Final

from probes.gil import wire
from probes.gil.layout import GilLayout, from_fields
from probes.gil.reader import GilReader, TargetGone

CHANNEL: Final = 1
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_TIMERSLACK: Final = 29
_PR_SET_NAME: Final = 15
_SCHED_SETATTR: Final = 314  # x86-64
_SLICE_NS: Final = 100_000  # the shortest that the kernel grants
REALTIME: Final = "realtime"
_REALTIME_LIMIT_US: Final = 500_000  # between two sleeps
LATE_LIMIT_NS: Final = (1 << 32) - 1
_MASK_64: Final = (1 << 64) - 1


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


class Sampler:
    """The loop and its state."""

    def __init__(self, channel: int, rate_hz: float, look_hz: float) -> None:
        self._channel = channel
        self._output = Output(channel)
        self._look_hz = look_hz
        self._set_rate(rate_hz)
        self._readers: list[GilReader] = []
        self._command_text = b""
        self._samples = bytearray()
        self._waiters: list[int] = []
        self._events = bytearray()
        self._missed_count = 0
        self._largest_gap_ns = 0
        self._last_ns = 0
        self._random = time.monotonic_ns() | 1

    def _set_rate(self, rate_hz: float) -> None:
        self._period_ns = max(1, round(1e9 / rate_hz))
        # Each sample with a waiter is looked into with this probability (of 2**32): a fixed beat
        # would lock onto the interpreter's own switch interval of 5 ms.
        self._look_below = min(1 << 32, round((1 << 32) * self._look_hz / rate_hz))

    def run(self, end_ns: int, parent_pid: int) -> None:
        """Sample until there is nothing left to do.

        Time is cut into slots of one period; each is sampled once, at a random instant within it.
        That keeps the rate without drift, gives every instant the same chance, and cannot lock
        onto a rhythm of the target's. A slot that was slept through is missed, never made up for.
        """
        clock = time.monotonic_ns
        if not self._take_commands():
            return
        slot_ns = clock()
        batch_end_ns = slot_ns + wire.BATCH_NS
        while self._readers:
            period_ns = self._period_ns
            now_ns = clock()
            begin_ns = slot_ns
            if now_ns > slot_ns:
                begin_ns = now_ns
                if now_ns >= slot_ns + period_ns:
                    missed = (now_ns - slot_ns) // period_ns
                    self._missed_count += missed
                    slot_ns += missed * period_ns
            left_ns = slot_ns + period_ns - begin_ns
            wake_ns = begin_ns + (left_ns * self._next_random() >> 32)
            if wake_ns > now_ns:
                time.sleep((wake_ns - now_ns) / 1e9)
            slot_ns += period_ns
            now_ns = self._sample_all(wake_ns)
            if now_ns >= batch_end_ns:
                batch_end_ns = now_ns + wire.BATCH_NS
                self._flush()
                if now_ns >= end_ns or os.getppid() != parent_pid or not self._take_commands():
                    return
        self._flush()

    def _next_random(self) -> int:
        """Return a number below 2**32 (Knuth's MMIX generator; importing random costs 10 ms)."""
        self._random = (self._random * 6364136223846793005 + 1442695040888963407) & _MASK_64
        return self._random >> 32

    def _sample_all(self, wake_ns: int) -> int:
        """Look at every process once; return when. ``wake_ns`` is when that should have been."""
        now_ns = first_ns = time.monotonic_ns()
        if self._last_ns and first_ns - self._last_ns > self._largest_gap_ns:
            self._largest_gap_ns = first_ns - self._last_ns
        self._last_ns = first_ns
        late_ns = min(max(0, first_ns - wake_ns), LATE_LIMIT_NS)
        gone: list[GilReader] = []
        for reader in self._readers:
            now_ns = time.monotonic_ns()
            try:
                state = reader.read()
                holder = reader.holder_tid(state, now_ns)
                _, _, switch_count, waiter_count = state
                looked = -1
                if waiter_count > 0 and self._next_random() < self._look_below:
                    waiters = reader.waiters(waiter_count)
                    looked = len(waiters)
                    self._waiters += waiters
            except TargetGone:
                gone.append(reader)
                self._event(reader.layout.pid, wire.EXITED)
                continue
            except OSError as error:
                gone.append(reader)
                self._event(reader.layout.pid, wire.REFUSED, error.errno or 0)
                continue
            self._samples += wire.SAMPLE.pack(
                now_ns, switch_count, reader.layout.pid, holder, waiter_count, looked, late_ns
            )
        for reader in gone:
            reader.close()
            self._readers.remove(reader)
        return now_ns

    def _event(self, pid: int, code: int, error: int = 0) -> None:
        self._events += wire.EVENT.pack(time.monotonic_ns(), pid, code, error)

    def _flush(self) -> None:
        sample_count = len(self._samples) // wire.SAMPLE.size
        header = wire.HEADER.pack(
            wire.MAGIC,
            sample_count,
            len(self._waiters),
            len(self._events) // wire.EVENT.size,
            self._output.dropped_count,
            self._missed_count,
            self._largest_gap_ns,
            time.process_time_ns(),
        )
        waiters = b"".join(map(wire.WAITER.pack, self._waiters))
        batch = b"".join((header, self._samples, waiters, self._events))
        if self._output.write(batch, sample_count):
            self._events.clear()  # else they wait for the next batch: they are few
            self._largest_gap_ns = 0
        self._samples.clear()
        self._waiters.clear()

    def _take_commands(self) -> bool:
        """Take up the processes and the rate sent since last time; False once the end is closed.

        The first call waits for the first command.
        """
        while True:
            try:
                chunk = os.read(self._channel, 65536)
            except BlockingIOError:
                return True
            if not chunk:
                return False
            *lines, self._command_text = (self._command_text + chunk).split(b"\n")
            for line in lines:
                command = json.loads(line)
                if isinstance(command, list):
                    self._take_up(from_fields(command))
                else:
                    self._set_rate(command)
            os.set_blocking(self._channel, False)

    def _take_up(self, layout: GilLayout) -> None:
        try:
            self._readers.append(GilReader(layout))
        except TargetGone:
            self._event(layout.pid, wire.EXITED)
        except OSError as error:
            self._event(layout.pid, wire.REFUSED, error.errno or 0)
        else:
            self._event(layout.pid, wire.TAKEN_UP)


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


def main(arguments: list[str]) -> None:
    """Run with ``RATE_HZ LOOK_HZ DURATION_S PRIORITY``, the last one ``normal`` or ``realtime``."""
    rate_hz, look_hz, duration_s = map(float, arguments[:3])
    libc = ctypes.CDLL(None, use_errno=True)
    _die_with_parent(libc)
    if arguments[3] != REALTIME or not _become_realtime():
        _prefer_short_slices(libc)
    libc.prctl(_PR_SET_NAME, b"cputax-gil", 0, 0, 0)
    # The default slack of 50 us is half a period at 10 kHz.
    libc.prctl(_PR_SET_TIMERSLACK, min(50_000, int(1e8 / rate_hz)), 0, 0, 0)
    sampler = Sampler(CHANNEL, rate_hz, look_hz)
    with contextlib.suppress(ConnectionError, KeyboardInterrupt):
        sampler.run(time.monotonic_ns() + int(duration_s * 1e9), os.getppid())


if __name__ == "__main__":
    main(sys.argv[1:])
