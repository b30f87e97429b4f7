"""The sampling child: looks at the Python stacks of all processes of a server in one loop.

Run as ``python -m probes.stacks.sampler``; `probes.stacks.probe` does. Descriptor 1 is a connected
stream socket: commands come in, one JSON value a line (a list: take up the process with these
`StackLayout` fields; a number: the rate), and batches (`probes.stacks.wire`) go out. It ends when
the other end closes, its parent dies, all processes have exited, or its time is up.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from typing import Any, Final

from probes.sampling import Output, Slots, TargetGone, become_child
from probes.stacks import wire
from probes.stacks.layout import StackLayout, from_fields
from probes.stacks.reader import NOT_READ, UNKNOWN_TID, StackReader
from probes.stacks.table import ROOT, Interned

CHANNEL: Final = 1
# Silence longer than this, and than ten periods, is a gap and no longer a long look.
GAP_MIN_NS: Final = 100_000_000
GAP_MIN_PERIODS: Final = 10
LATE: Final = "the sampler got no CPU"
DROPPED: Final = "samples were dropped: nobody read them in time"


class _Watched:
    """One process: its reader, and which stack each of its threads shows since when."""

    def __init__(self, reader: StackReader) -> None:
        self.reader = reader
        self.pid = reader.layout.pid
        self.open: dict[int, tuple[int, int]] = {}  # tid -> stack, since when
        self.look_count = 0
        self.first_ns = 0
        self.last_ns = 0
        self.largest_gap_ns = 0

    def close_runs(self, end_ns: int, runs: list[tuple[int, int, int, int, int]]) -> None:
        """Add what every thread showed until now, and go on from here."""
        for tid, (stack, start_ns) in self.open.items():
            if stack >= 0 and start_ns < end_ns:
                runs.append((self.pid, tid, start_ns, end_ns - start_ns, stack))
            self.open[tid] = (stack, end_ns)


class Sampler:
    """The loop and its state."""

    def __init__(self, channel: int, rate_hz: float) -> None:
        self._channel = channel
        self._output = Output(channel)
        self._slots = Slots(rate_hz)
        self._interned = Interned()
        self._watched: list[_Watched] = []
        self._command_text = b""
        self._runs: list[tuple[int, int, int, int, int]] = []
        self._gaps: list[tuple[int, int, int, str]] = []
        self._events: list[tuple[int, str, int]] = []

    def run(self, end_ns: int, parent_pid: int) -> None:
        """Sample until there is nothing left to do."""
        if not self._take_commands():
            return
        batch_end_ns = self._slots.begin() + wire.BATCH_NS
        while self._watched:
            self._slots.sleep()
            now_ns = self._look()
            if now_ns >= batch_end_ns:
                batch_end_ns = now_ns + wire.BATCH_NS
                self._flush()
                if now_ns >= end_ns or os.getppid() != parent_pid or not self._take_commands():
                    return
        self._flush()

    def _look(self) -> int:
        """Look at every process once; return when."""
        now_ns = time.monotonic_ns()
        for one in list(self._watched):
            now_ns = time.monotonic_ns()
            try:
                seen = one.reader.read(now_ns)
            except (TargetGone, OSError) as error:
                self._let_go(one, error)
            else:
                self._note(one, now_ns, seen)
        return now_ns

    def _note(self, one: _Watched, now_ns: int, seen: list[tuple[int, int]]) -> None:
        """Turn one look into runs: from the look that first saw a stack to the one that did not."""
        if not one.look_count:
            one.first_ns = one.last_ns = now_ns
        silence_ns = now_ns - one.last_ns
        one.largest_gap_ns = max(one.largest_gap_ns, silence_ns)
        if silence_ns > max(GAP_MIN_NS, GAP_MIN_PERIODS * self._slots.period_ns):
            one.close_runs(one.last_ns, self._runs)
            self._gaps.append((one.pid, one.last_ns, now_ns, LATE))
            one.open.clear()
        one.look_count += 1
        one.last_ns = now_ns
        before = one.open
        after = {}
        for tid, stack in seen:
            if tid == UNKNOWN_TID:
                continue
            was = before.pop(tid, None)
            if was is None:
                after[tid] = (stack, now_ns)
            elif was[0] == stack:
                after[tid] = was
            else:
                self._close_run(one.pid, tid, was, now_ns)
                after[tid] = (stack, now_ns)
        for tid, was in before.items():  # these threads have ended
            self._close_run(one.pid, tid, was, now_ns)
        one.open = after

    def _close_run(self, pid: int, tid: int, was: tuple[int, int], now_ns: int) -> None:
        stack, start_ns = was
        if stack not in (ROOT, NOT_READ):
            self._runs.append((pid, tid, start_ns, now_ns - start_ns, stack))

    def _let_go(self, one: _Watched, error: Exception) -> None:
        one.close_runs(one.last_ns, self._runs)
        one.reader.close()
        self._watched.remove(one)
        refusal = error.errno or 0 if isinstance(error, OSError) else 0
        self._events.append((one.pid, wire.REFUSED if refusal else wire.EXITED, refusal))

    def _flush(self) -> None:
        for one in self._watched:
            one.close_runs(one.last_ns, self._runs)
        batch: dict[str, Any] = {
            "seen": [
                (one.pid, one.look_count, one.first_ns, one.last_ns, one.largest_gap_ns)
                for one in self._watched
            ],
            "runs": self._runs,
            "frames": self._interned.new_frames,
            "stacks": self._interned.new_stacks,
            "gaps": self._gaps,
            "events": self._events,
            "unread": [(one.pid, one.reader.unread_count) for one in self._watched],
            "missed": self._slots.missed_count,
            "cpu_ns": time.process_time_ns(),
        }
        line = json.dumps(batch, separators=(",", ":")).encode() + b"\n"
        if self._output.write(line, len(self._runs)):
            self._gaps.clear()
            self._events.clear()
            self._interned.new_frames.clear()
            self._interned.new_stacks.clear()
        elif self._runs:
            # The rest waits for the next batch; the runs do not, or memory would grow.
            start_ns = min(run[2] for run in self._runs)
            end_ns = max(run[2] + run[3] for run in self._runs)
            self._gaps += [(pid, start_ns, end_ns, DROPPED) for pid in {r[0] for r in self._runs}]
        self._runs.clear()

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
                    self._slots.set_rate(command)
            os.set_blocking(self._channel, False)

    def _take_up(self, layout: StackLayout) -> None:
        try:
            self._watched.append(_Watched(StackReader(layout, self._interned)))
        except TargetGone:
            self._events.append((layout.pid, wire.EXITED, 0))
        except OSError as error:
            self._events.append((layout.pid, wire.REFUSED, error.errno or 0))
        else:
            self._events.append((layout.pid, wire.TAKEN_UP, 0))


def main(arguments: list[str]) -> None:
    """Run with ``RATE_HZ DURATION_S``."""
    rate_hz, duration_s = map(float, arguments)
    become_child("cputax-stacks", rate_hz)
    sampler = Sampler(CHANNEL, rate_hz)
    with contextlib.suppress(ConnectionError, KeyboardInterrupt):
        sampler.run(time.monotonic_ns() + int(duration_s * 1e9), os.getppid())


if __name__ == "__main__":
    main(sys.argv[1:])
