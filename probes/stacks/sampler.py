"""The sampling child: looks at the Python stacks of all processes of a server in one loop.

Run as ``python -m probes.stacks.sampler``; `probes.stacks.probe` does. Descriptor 1 is a connected
stream socket: commands come in (`probes.sampling.ChildSampler`; a process is its `StackLayout`),
and batches (`probes.stacks.wire`) go out.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any, Final

from probes.sampling import (
    CHANNEL,
    DROPPED,
    LATE,
    ChildSampler,
    TargetGone,
    become_child,
    run_for,
)
from probes.stacks import wire
from probes.stacks.layout import from_fields
from probes.stacks.reader import StackReader
from probes.stacks.table import Interned
from probes.stacks.threads import UNKNOWN_TID

# Silence longer than this, and than ten periods, is a gap and no longer a long look.
GAP_MIN_NS: Final = 100_000_000
GAP_MIN_PERIODS: Final = 10

Run = tuple[int, int, int, int, int]  # PID, thread id, start ns, duration ns, stack


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

    def close_run(self, tid: int, was: tuple[int, int], end_ns: int, runs: list[Run]) -> None:
        """Add what a thread showed; a thread outside Python, or not read, showed nothing."""
        stack, start_ns = was
        if stack >= 0 and start_ns < end_ns:
            runs.append((self.pid, tid, start_ns, end_ns - start_ns, stack))

    def close_runs(self, runs: list[Run]) -> None:
        """Add what every thread showed until the last look, and go on from there."""
        for tid, was in self.open.items():
            self.close_run(tid, was, self.last_ns, runs)
            self.open[tid] = (was[0], self.last_ns)


class Sampler(ChildSampler):
    """Looks at stacks."""

    def __init__(self, channel: int, rate_hz: float) -> None:
        super().__init__(channel, rate_hz, wire.BATCH_NS)
        self._interned = Interned()
        self._watched: list[_Watched] = []
        self._runs: list[Run] = []
        self._gaps: list[tuple[int, int, int, str]] = []
        self._events: list[tuple[int, str, int]] = []

    @property
    def has_work(self) -> bool:
        """Whether a process is left to look at."""
        return bool(self._watched)

    def look(self, wake_ns: int) -> int:
        """Look at every process once; return when. How late that is shows in the gaps."""
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
        if silence_ns > max(GAP_MIN_NS, GAP_MIN_PERIODS * self.slots.period_ns):
            one.close_runs(self._runs)
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
                one.close_run(tid, was, now_ns, self._runs)
                after[tid] = (stack, now_ns)
        for tid, was in before.items():  # these threads have ended
            one.close_run(tid, was, now_ns, self._runs)
        one.open = after

    def _let_go(self, one: _Watched, error: Exception) -> None:
        one.close_runs(self._runs)
        one.reader.close()
        self._watched.remove(one)
        refusal = error.errno or 0 if isinstance(error, OSError) else 0
        self._events.append((one.pid, wire.REFUSED if refusal else wire.EXITED, refusal))

    def flush(self) -> None:
        """Send what was seen since the last batch."""
        for one in self._watched:
            one.close_runs(self._runs)
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
            "missed": self.slots.missed_count,
            "cpu_ns": time.process_time_ns(),
        }
        line = json.dumps(batch, separators=(",", ":")).encode() + b"\n"
        if self.output.write(line, len(self._runs)):
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

    def take_up(self, fields: list[Any]) -> None:
        """Begin to look at the process with these fields of a `StackLayout`."""
        layout = from_fields(fields)
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
    run_for(Sampler(CHANNEL, rate_hz), duration_s)


if __name__ == "__main__":
    main(sys.argv[1:])
