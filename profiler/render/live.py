"""What is shown while recording: how far, who has the CPU and the GIL, what the server says.

Built from numbers the probes keep anyway; a refresh is a few hundred microseconds.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TypeVar

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from probes.gil.probe import GilProbe
from probes.server_metrics import ServerMetricsProbe
from probes.threads import ThreadProbe
from profiler.render.console import safe
from profiler.session import Session

ProbeT = TypeVar("ProbeT")


class LiveView:
    """Renders a session's present state; each call shows the rates since the one before."""

    def __init__(self, session: Session, duration_s: float | None) -> None:
        self._session = session
        self._duration_s = duration_s
        self._threads = _find(session, ThreadProbe)
        self._gil = _find(session, GilProbe)
        self._metrics = _find(session, ServerMetricsProbe)
        self._before: tuple[int, Mapping[int, tuple[int, int]]] = (time.monotonic_ns(), {})

    def opening(self) -> str:
        """Say in one line what is about to be recorded, for logs and pipes."""
        target = self._session.target
        length = "until Ctrl-C" if self._duration_s is None else f"for {self._duration_s:g} s"
        count = len(target.python_processes)
        return f"recording {target.kind} server, PID {target.root_pid}, {count} processes, {length}"

    def render(self) -> RenderableType:
        """Return the present state as something rich can print."""
        elapsed_s = (time.monotonic_ns() - self._session.started_ns) / 1e9
        parts: list[RenderableType] = [self._progress(elapsed_s), self._process_table()]
        if self._metrics is not None and self._metrics.latest:
            parts.append(_server_line(self._metrics.latest))
        for probe, text in self._session.status.items():
            parts.append(Text(f"{probe}: {text}", style="yellow"))
        parts.append(Text("Ctrl-C ends the recording and keeps it", style="dim"))
        return Group(*parts)

    def _progress(self, elapsed_s: float) -> RenderableType:
        target = self._session.target
        row = Table.grid(padding=(0, 1))
        label = f"recording {target.kind} PID {target.root_pid}"
        if self._duration_s is None:
            row.add_row(label, f"{elapsed_s:.0f} s")
        else:
            bar = ProgressBar(total=self._duration_s, completed=elapsed_s, width=40)
            row.add_row(label, bar, f"{elapsed_s:.0f} / {self._duration_s:.0f} s")
        return row

    def _process_table(self) -> Table:
        now_ns = time.monotonic_ns()
        totals = self._threads.totals_ns() if self._threads else {}
        before_ns, before = self._before
        self._before = (now_ns, totals)
        held = self._gil.held_ratios() if self._gil else {}
        table = Table(box=None, pad_edge=False)
        table.add_column("process")
        for heading in ("PID", "CPU", "waits for CPU", "GIL held"):
            table.add_column(heading, justify="right")
        for process in self._session.target.python_processes:
            cells = ["-", "-"]
            if process.pid in totals and process.pid in before:
                window_ns = max(1, now_ns - before_ns)
                cells = [
                    f"{(now - then) / window_ns:.2f} cores"
                    for now, then in zip(totals[process.pid], before[process.pid], strict=True)
                ]
            ratio = held.get(process.pid)
            cells.append("-" if ratio is None else f"{ratio:.0%}")
            rank = "" if process.rank is None else f" {process.rank}"
            table.add_row(safe(process.role) + rank, str(process.pid), *cells)
        return table


def _server_line(latest: Mapping[str, float]) -> Text:
    def value(name: str) -> str:
        found = latest.get(f"vllm:{name}")
        return "-" if found is None else f"{found:g}"

    count = latest.get("vllm:time_to_first_token_seconds_count", 0.0)
    mean = latest.get("vllm:time_to_first_token_seconds_sum", 0.0) / count if count else None
    first_token = "-" if mean is None else f"{mean * 1e3:.0f} ms"
    return Text(
        f"server: {value('num_requests_running')} running, {value('num_requests_waiting')} waiting,"
        f" TTFT {first_token} (mean since it started)"
    )


def _find(session: Session, kind: type[ProbeT]) -> ProbeT | None:
    return next((probe for probe in session.probes if isinstance(probe, kind)), None)
