"""Run a session in the foreground: signals, the live view, and the work after it."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType

from rich.console import Console
from rich.live import Live

from collectors.errors import CputaxError
from profiler.render.live import LiveView
from profiler.session import Session, StopReason

REFRESH_S = 0.5


def record(session: Session, duration_s: float | None, out: Console | None) -> CputaxError | None:
    """Start, run and finish ``session``; ``out`` None shows nothing.

    SIGINT, SIGTERM and SIGHUP end the recording and keep it.

    Returns:
        What the user must be told when the capture is not a whole one.

    Raises:
        CputaxError: nothing could be recorded.
    """
    with _stopping_on_signals(session):
        session.start()
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
    next_s = 0.0
    with Live(console=out, auto_refresh=False, transient=True) as live:

        def refresh() -> None:
            nonlocal next_s
            now_s = time.monotonic()
            if now_s >= next_s:
                next_s = now_s + REFRESH_S
                live.update(view.render(), refresh=True)

        return session.run(duration_s, refresh)


@contextlib.contextmanager
def _stopping_on_signals(session: Session) -> Iterator[None]:
    def stop(_number: int, _frame: FrameType | None) -> None:
        session.stop_requested.set()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
