"""Compares what samplers say of a process with the hold clock that was preloaded into it.

``python tests/truth/gil/compare.py PID PREFIX [SECONDS]``, PREFIX being the target's $HOLD_CLOCK.
Prints the main thread's held share as each sampler says it, and the clock's two bounds in the same
window. Wants root: the clock is read, and the real-time samplers run, at real-time priority.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tempfile
import threading
import time
from bisect import bisect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from probes.gil.link import SamplerLink
from probes.gil.runtime import find_gil
from probes.keeper import Keeper
from probes.pyspy import find_pyspy

SLOT = struct.Struct("<7q")  # tid, held, since, releases, restore, save, forced: see hold_clock.c
READ_INTERVAL_S = 0.02
PYSPY_HZ = 100
REALTIME = ["chrt", "--rr", "1"]
SCHED_RESET_ON_FORK = 0x40000000


class HoldClock:
    """Reads the clock of one process's main thread fifty times a second."""

    def __init__(self, pid: int, prefix: str) -> None:
        self._pid = pid
        self._path = Path(f"{prefix}.{pid}")
        self._times_ns: list[int] = []
        self._bounds_ns: list[tuple[int, int]] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Read it in the background."""
        self._thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            self._thread.join()

    def _run(self) -> None:
        # On a saturated host it would otherwise be read too seldom to know the window.
        os.sched_setscheduler(0, os.SCHED_FIFO | SCHED_RESET_ON_FORK, os.sched_param(2))
        while not self._stopping.wait(READ_INTERVAL_S):
            raw = self._path.read_bytes()
            now_ns = time.monotonic_ns()
            for tid, held, since, _, restore, save, _ in SLOT.iter_unpack(raw):
                if tid == self._pid:
                    low = held + (now_ns - since if since else 0)
                    self._times_ns.append(now_ns)
                    self._bounds_ns.append((low, low + restore + save))

    def held_ratio(self, start_ns: int, end_ns: int) -> tuple[float, float]:
        """Return the least and the largest share that the thread can have had in the window."""
        first = max(0, bisect(self._times_ns, start_ns) - 1)
        last = min(len(self._times_ns) - 1, bisect(self._times_ns, end_ns))
        length_ns = self._times_ns[last] - self._times_ns[first]
        low, high = (
            (after - before) / length_ns
            for before, after in zip(self._bounds_ns[first], self._bounds_ns[last], strict=True)
        )
        return low, high


def sample(
    pid: int, seconds: float, *, rate_hz: float, is_realtime: bool
) -> tuple[float, int, int]:
    """Return the held share that our sampler sees, and its window."""
    keeper = Keeper()
    link = SamplerLink(
        keeper, [find_gil(pid)], rate_hz=rate_hz, look_hz=rate_hz / 5, is_realtime=is_realtime
    )
    stopping = threading.Event()
    timer = threading.Timer(seconds, stopping.set)
    timer.start()
    rows = np.concatenate([batch.samples for batch in link.batches(stopping) if batch is not None])
    link.close()
    keeper.close()
    held = float((rows["holder_tid"] == pid).mean())
    return held, int(rows["time_ns"][0]), int(rows["time_ns"][-1])


def sample_by_pyspy(pid: int, seconds: int, prefix: list[str]) -> tuple[float, int, int]:
    """Return the share of py-spy's ticks in which it saw the main thread with the GIL."""
    with tempfile.NamedTemporaryFile("r", suffix=".txt") as output:
        command = [str(find_pyspy()), "record", "--gil", "--nonblocking", "--threads"]
        command += ["--format", "raw", "--rate", str(PYSPY_HZ), "--duration", str(seconds)]
        command += ["--pid", str(pid), "--output", output.name]
        start_ns = time.monotonic_ns()
        subprocess.run([*prefix, *command], check=True, capture_output=True)
        end_ns = time.monotonic_ns()
        stacks = [line.rpartition(" ") for line in output]
        count = sum(int(n) for stack, _, n in stacks if stack.startswith(f"thread ({pid})"))
    return count / (PYSPY_HZ * seconds), start_ns, end_ns


def main(pid: int, prefix: str, seconds: int = 6) -> None:
    """Print one line for each sampler."""
    samplers = {
        "cputax real-time 1000 Hz": lambda: sample(pid, seconds, rate_hz=1000, is_realtime=True),
        "cputax real-time 200 Hz": lambda: sample(pid, seconds, rate_hz=200, is_realtime=True),
        "cputax normal 1000 Hz": lambda: sample(pid, seconds, rate_hz=1000, is_realtime=False),
        "py-spy real-time": lambda: sample_by_pyspy(pid, seconds, REALTIME),
        "py-spy normal": lambda: sample_by_pyspy(pid, seconds, []),
    }
    for name, look in samplers.items():
        clock = HoldClock(pid, prefix)
        with clock.running():
            said, start_ns, end_ns = look()
        low, high = clock.held_ratio(start_ns, end_ns)
        print(f"{name:26} {said:6.1%}   truth {low:6.1%} to {high:6.1%}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:4]))
