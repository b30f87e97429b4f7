"""Run a session in the foreground: signals, the live view, and the work after it."""

from __future__ import annotations

from rich.console import Console
from rich.live import Live

from collectors.errors import CputaxError
from profiler.render.live import LiveView
from profiler.session import Session, StopReason
from profiler.signals import setting_on_signals


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
        return session.run(duration_s, lambda: live.update(view.render(), refresh=True))
