"""Run a session in the foreground: signals, the live view, and the work after it."""

from __future__ import annotations

import itertools
import os
from contextlib import suppress
from typing import Final

from rich.console import Console
from rich.live import Live

from collectors.errors import CputaxError
from profiler.render.live import LiveView
from profiler.session import Session, StopReason
from profiler.signals import setting_on_signals

# What reads counters, writes and draws has time: where no CPU is idle it lets the server run. The
# samplers are children of their own and look when they are due (`probes.keeper`).
NICE: Final = 10
BUSY_TICKS: Final = 5  # ticks from one picture to the next while the host is short of CPU


def record(session: Session, duration_s: float | None, out: Console | None) -> CputaxError | None:
    """Start, run and finish ``session``; ``out`` None shows nothing.

    SIGINT, SIGTERM and SIGHUP end the recording and keep it.

    Returns:
        What the user must be told when the capture is not a whole one.

    Raises:
        CputaxError: nothing could be recorded.
    """
    with setting_on_signals(session.stop_requested):
        session.start()
        _step_back()
        reason = StopReason.USER
        try:
            reason = _run(session, duration_s, out)
        finally:
            if out is not None:
                with out.status("writing the capture"):
                    problem = session.finish(reason)
            else:
                problem = session.finish(reason)
    return problem


def _run(session: Session, duration_s: float | None, out: Console | None) -> StopReason:
    if out is None:
        return session.run(duration_s, lambda: None)
    view = LiveView(session, duration_s)
    if not out.is_terminal:
        out.print(view.opening())
        return session.run(duration_s, lambda: None)
    with Live(console=out, auto_refresh=False, transient=True) as live:
        ticks = itertools.count()

        def draw() -> None:
            if next(ticks) % (BUSY_TICKS if session.is_host_busy else 1) == 0:
                live.update(view.render(), refresh=True)

        return session.run(duration_s, draw)


def _step_back() -> None:
    """Lower the priority of every thread of this process; threads to come inherit it."""
    for tid in map(int, os.listdir("/proc/self/task")):
        with suppress(ProcessLookupError):
            own = os.getpriority(os.PRIO_PROCESS, tid)
            os.setpriority(os.PRIO_PROCESS, tid, max(own, NICE))
