"""Latency with a tool at work and with it paused, in turn, every two seconds.

A virtual machine's speed drifts by a fifth within a minute, so windows of many seconds measure the
machine. Here the tool stays attached to the end, and is stopped (SIGSTOP) in every second block: a
stopped process costs nothing, and the drift is the same for both. A block is shorter than the time
after which cputax's keeper takes a silent cputax for dead.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from pathlib import Path
from typing import Final

import psutil
from load_window import LoadWindow, Situation
from overhead_windows import CPUTAX, OFF, OFF_AGAIN, Meter, Window, attached, report_of

BLOCK_S: Final = 2.0
ORDER: Final = (OFF, CPUTAX, OFF_AGAIN, CPUTAX)  # one round
START_S: Final = 8.0  # until py-spy has had its look and the governors have settled
# A request that is due so near a block's edge is served in two of them.
HEAD_S: Final = 0.3  # what was paused catches up
TAIL_S: Final = 0.25


class Switch:
    """Pauses the tool's processes and lets them go on, block by block, in a thread of its own."""

    def __init__(self, server: list[psutil.Process], tool_pid: int, round_count: int) -> None:
        self._server = server
        self._tool = psutil.Process(tool_pid)
        self._round_count = round_count
        self.meters: list[Meter] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def begin(self) -> None:
        """Begin the first block."""
        self._begin_s = time.monotonic()
        self._thread.start()

    def end(self) -> None:
        """Wait for the last one's end."""
        self._thread.join()

    def _run(self) -> None:
        for number, variant in enumerate(ORDER * self._round_count):
            self._send(signal.SIGCONT if variant == CPUTAX else signal.SIGSTOP)
            meter = Meter(self._server, [self._tool])
            meter.begin()
            end_s = self._begin_s + (number + 1) * BLOCK_S
            time.sleep(max(0.0, end_s - time.monotonic()))
            meter.end()
            self.meters.append(meter)
        self._send(signal.SIGCONT)

    def _send(self, number: signal.Signals) -> None:
        for process in [self._tool, *self._tool.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                os.kill(process.pid, number)


def measure_blocks(
    url: str, pids: list[int], situation: Situation, round_count: int, place: Path
) -> list[dict[str, Window]]:
    """Measure ``round_count`` rounds of blocks; ``place`` takes the capture."""
    seconds = round_count * len(ORDER) * BLOCK_S
    load = LoadWindow(url, situation, 0, seconds, START_S)
    with attached(CPUTAX, pids, seconds + START_S, place) as tools:
        switch = Switch([psutil.Process(pid) for pid in pids], tools[0], round_count)
        asyncio.run(load.run(switch))
    report = report_of(place)
    rounds: list[dict[str, Window]] = []
    for number, meter in enumerate(switch.meters):
        index, within = divmod(number, len(ORDER))
        start_s = number * BLOCK_S
        latencies_s = load.latencies_between_s(
            load.begin_ns + round((start_s + HEAD_S) * 1e9),
            load.begin_ns + round((start_s + BLOCK_S - TAIL_S) * 1e9),
        )
        window = Window(
            situation.name, ORDER[within], index, BLOCK_S, latencies_s, len(latencies_s),
            load.error_count if number == 0 else 0, meter.idle_ratio, meter.server_cores,
            meter.tool_cores, meter.pyspy_cores, meter.other_cores,
            report if ORDER[within] == CPUTAX else {},
        )  # fmt: skip
        if within == 0:
            rounds.append({})
        rounds[-1][ORDER[within]] = _joined(rounds[-1].get(ORDER[within]), window)
    return rounds


def _joined(first: Window | None, second: Window) -> Window:
    """Return two windows of one variant in one round as one."""
    if first is None:
        return second
    second.latencies_s += first.latencies_s
    second.finished_count += first.finished_count
    second.seconds += first.seconds
    for name in ("idle_ratio", "server_cores", "tool_cores", "pyspy_cores", "other_cores"):
        setattr(second, name, (getattr(first, name) + getattr(second, name)) / 2)
    return second
