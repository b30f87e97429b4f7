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
import json
import os
import sys
import time
from typing import Final

from probes.gil import wire
from probes.gil.layout import GilLayout, from_fields
from probes.gil.reader import GilReader
from probes.sampling import Output, Slots, TargetGone, become_child

CHANNEL: Final = 1
REALTIME: Final = "realtime"
LATE_LIMIT_NS: Final = (1 << 32) - 1


class Sampler:
    """The loop and its state."""

    def __init__(self, channel: int, rate_hz: float, look_hz: float) -> None:
        self._channel = channel
        self._output = Output(channel)
        self._look_hz = look_hz
        self._slots = Slots(rate_hz)
        self._set_rate(rate_hz)
        self._readers: list[GilReader] = []
        self._command_text = b""
        self._samples = bytearray()
        self._waiters: list[int] = []
        self._events = bytearray()
        self._largest_gap_ns = 0
        self._last_ns = 0

    def _set_rate(self, rate_hz: float) -> None:
        self._slots.set_rate(rate_hz)
        # Each sample with a waiter is looked into with this probability (of 2**32): a fixed beat
        # would lock onto the interpreter's own switch interval of 5 ms.
        self._look_below = min(1 << 32, round((1 << 32) * self._look_hz / rate_hz))

    def run(self, end_ns: int, parent_pid: int) -> None:
        """Sample until there is nothing left to do."""
        if not self._take_commands():
            return
        batch_end_ns = self._slots.begin() + wire.BATCH_NS
        while self._readers:
            now_ns = self._sample_all(self._slots.sleep())
            if now_ns >= batch_end_ns:
                batch_end_ns = now_ns + wire.BATCH_NS
                self._flush()
                if now_ns >= end_ns or os.getppid() != parent_pid or not self._take_commands():
                    return
        self._flush()

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
                if waiter_count > 0 and self._slots.next_random() < self._look_below:
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
            self._slots.missed_count,
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


def main(arguments: list[str]) -> None:
    """Run with ``RATE_HZ LOOK_HZ DURATION_S PRIORITY``, the last one ``normal`` or ``realtime``."""
    rate_hz, look_hz, duration_s = map(float, arguments[:3])
    become_child("cputax-gil", rate_hz, is_realtime=arguments[3] == REALTIME)
    sampler = Sampler(CHANNEL, rate_hz, look_hz)
    with contextlib.suppress(ConnectionError, KeyboardInterrupt):
        sampler.run(time.monotonic_ns() + int(duration_s * 1e9), os.getppid())


if __name__ == "__main__":
    main(sys.argv[1:])
