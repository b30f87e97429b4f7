"""Is the client itself what is being measured? Its event loop's lag, its CPU, its wait for one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from probes.procfs import Procfs
from profiler.load.alarm import Alarm

TICK_NS: Final = 20_000_000
_PEAK_WINDOW_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class ClientLoad:
    """What the load cost the client; shares of one core."""

    wall_seconds: float
    cpu_ratio: float
    cpu_peak_ratio: float  # in its busiest second
    run_queue_wait_ratio: float | None  # ready to run, and no CPU free; None: the kernel won't say
    loop_lag_p50_ns: int  # how late the event loop got to what was due; of each tick
    loop_lag_p99_ns: int
    loop_lag_max_ns: int


class Meter:
    """Measures the process from `start` to `stop`, and calls ``on_tick`` at each tick.

    Create it in the event loop whose lag is meant.
    """

    def __init__(self, on_tick: Callable[[], None]) -> None:
        self._on_tick = on_tick
        self._alarm = Alarm(self._tick)
        self._lags_ns: list[int] = []
        self._peak_ratio = 0.0
        self._due_ns = 0
        self._start = self._window = (0, 0)  # wall, CPU
        self._start_wait_ns: int | None = None

    def start(self) -> None:
        """Begin to measure."""
        self._start = self._window = (time.monotonic_ns(), time.process_time_ns())
        self._start_wait_ns = _run_queue_wait_ns()
        self._due_ns = self._start[0] + TICK_NS
        self._alarm.set(self._due_ns)

    def stop(self) -> ClientLoad:
        """Return what was measured since `start`."""
        self._alarm.close()
        wall_ns = max(1, time.monotonic_ns() - self._start[0])
        cpu_ratio = (time.process_time_ns() - self._start[1]) / wall_ns
        waited_ns = _run_queue_wait_ns()
        wait_ratio = None
        if waited_ns is not None and self._start_wait_ns is not None:
            wait_ratio = (waited_ns - self._start_wait_ns) / wall_ns
        # Stopped before its first tick, the loop has shown no lag.
        lags_ns = sorted(self._lags_ns) or [0]
        return ClientLoad(
            wall_seconds=wall_ns / 1e9,
            cpu_ratio=cpu_ratio,
            cpu_peak_ratio=max(self._peak_ratio, cpu_ratio),
            run_queue_wait_ratio=wait_ratio,
            loop_lag_p50_ns=lags_ns[len(lags_ns) // 2],
            loop_lag_p99_ns=lags_ns[len(lags_ns) * 99 // 100],
            loop_lag_max_ns=lags_ns[-1],
        )

    def _tick(self) -> None:
        now_ns = time.monotonic_ns()
        self._lags_ns.append(now_ns - self._due_ns)
        passed_ns = now_ns - self._window[0]
        if passed_ns >= _PEAK_WINDOW_NS:
            cpu_ns = time.process_time_ns()
            self._peak_ratio = max(self._peak_ratio, (cpu_ns - self._window[1]) / passed_ns)
            self._window = (now_ns, cpu_ns)
        self._due_ns = now_ns + TICK_NS
        self._alarm.set(self._due_ns)
        self._on_tick()


def _run_queue_wait_ns() -> int | None:
    """How long this process's main thread, which runs the loop, has waited for a CPU so far."""
    try:
        return Procfs().schedstat(os.getpid(), os.getpid())[1]
    except (OSError, ValueError):
        return None  # a kernel without CONFIG_SCHED_INFO
