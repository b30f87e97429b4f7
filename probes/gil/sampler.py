"""The sampling child: looks at the GILs of all processes of a server in one loop.

Run as ``python -m probes.gil.sampler``; `probes.gil.probe` does. Descriptor 1 is a connected
stream socket: commands come in (`probes.sampling.ChildSampler`; a process is its `GilLayout`), and
batches (`probes.gil.wire`) go out.

Priority: normal, with the shortest slice (Linux 6.12), which lets it run sooner after its timer
without a larger share; or real-time on request, since on a saturated host the normal one is not
only late: it runs when the target yields, which is when the target has let go of the GIL. See
docs/gil.md for figures of both, and for what each costs.
"""

from __future__ import annotations

import sys
import time
from typing import Any, Final

from probes.gil import wire
from probes.gil.layout import from_fields
from probes.gil.reader import GilReader
from probes.sampling import CHANNEL, ChildSampler, TargetGone, become_child, run_for

REALTIME: Final = "realtime"
LATE_LIMIT_NS: Final = (1 << 32) - 1


class Sampler(ChildSampler):
    """Looks at GILs."""

    def __init__(self, channel: int, rate_hz: float, look_hz: float) -> None:
        super().__init__(channel, rate_hz, wire.BATCH_NS)
        self._look_hz = look_hz
        self.set_rate(rate_hz)
        self._readers: list[GilReader] = []
        self._samples = bytearray()
        self._waiters: list[int] = []
        self._events = bytearray()
        self._largest_gap_ns = 0
        self._last_ns = 0

    @property
    def has_work(self) -> bool:
        """Whether a process is left to look at."""
        return bool(self._readers)

    def set_rate(self, rate_hz: float) -> None:
        """Look so often from the next slot on."""
        super().set_rate(rate_hz)
        # Each sample with a waiter is looked into with this probability (of 2**32): a fixed beat
        # would lock onto the interpreter's own switch interval of 5 ms.
        self._look_below = min(1 << 32, round((1 << 32) * self._look_hz / rate_hz))

    def look(self, wake_ns: int) -> int:
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
                if waiter_count > 0 and self.slots.next_random() < self._look_below:
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

    def flush(self) -> None:
        """Send what was seen since the last batch."""
        sample_count = len(self._samples) // wire.SAMPLE.size
        header = wire.HEADER.pack(
            wire.MAGIC,
            sample_count,
            len(self._waiters),
            len(self._events) // wire.EVENT.size,
            self.output.dropped_count,
            self.slots.missed_count,
            self._largest_gap_ns,
            time.process_time_ns(),
        )
        waiters = b"".join(map(wire.WAITER.pack, self._waiters))
        batch = b"".join((header, self._samples, waiters, self._events))
        if self.output.write(batch, sample_count):
            self._events.clear()  # else they wait for the next batch: they are few
            self._largest_gap_ns = 0
        self._samples.clear()
        self._waiters.clear()

    def take_up(self, fields: list[Any]) -> None:
        """Begin to look at the process with these fields of a `GilLayout`."""
        layout = from_fields(fields)
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
    run_for(Sampler(CHANNEL, rate_hz, look_hz), duration_s)


if __name__ == "__main__":
    main(sys.argv[1:])
