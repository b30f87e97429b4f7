"""Record the server while a scenario runs against it, and keep both sides in one capture."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from analyzers import requests
from analyzers.base import apply
from analyzers.timeline import Timeline
from collectors.capture import open_capture
from collectors.errors import CputaxError
from collectors.schema import OK, REQUESTS
from probes.base import Probe
from probes.otlp.probe import GRPC_PORT, HTTP_PORT, OtlpProbe
from probes.target import Target, find_target
from profiler.load.foreground import Foreground
from profiler.load.results import read_rows, write_summary
from profiler.load.scenario import Scenario
from profiler.load.site import Site
from profiler.probe_set import OtlpPorts, make_probes
from profiler.session import Session, StopReason

# vLLM sends spans in batches, by default after five seconds (OTEL_BSP_SCHEDULE_DELAY).
SPANS_WAIT_S: Final = 8.0
CAPTURE: Final = "server.capture"  # beside the scenario's results
_POLL_S: Final = 0.1


class Recording:
    """One capture of ``target``, from before a scenario's first request to after its last."""

    def __init__(self, target: Target, directory: Path, probes: list[Probe]) -> None:
        self._session = Session(target, directory, probes)
        self._otlp = next((one for one in probes if isinstance(one, OtlpProbe)), None)
        self._thread = threading.Thread(target=self._run, name="recording", daemon=True)
        self._reason = StopReason.USER

    @property
    def is_begun(self) -> bool:
        """Whether it was started."""
        return self._thread.ident is not None

    def start(self) -> None:
        """Begin to record.

        Raises:
            CputaxError: nothing can be recorded.
        """
        self._session.start()
        self._thread.start()

    def abandon(self) -> None:
        """End a recording whose load failed; what it holds is kept."""
        if self.is_begun:
            self.finish(REQUESTS.empty_table(), should_stop=lambda: True)

    def finish(self, rows: pa.Table, *, should_stop: Callable[[], bool]) -> CputaxError | None:
        """Wait for the server's spans of ``rows``, put those in, and end the recording.

        Args:
            rows: the client's requests, of `collectors.schema.REQUESTS`.
            should_stop: whether somebody is in a hurry.

        Returns what the user must be told when the capture is not a whole one.
        """
        ok_count = pc.sum(pc.equal(rows["status"], OK)).as_py() or 0
        deadline_s = time.monotonic() + SPANS_WAIT_S
        while (
            self._otlp is not None
            and self._otlp.kept_count < ok_count
            and time.monotonic() < deadline_s
            and not should_stop()
        ):
            time.sleep(_POLL_S)
        self._session.stop_requested.set()
        self._thread.join()
        self._session.add_requests(rows)
        return self._session.finish(self._reason)

    def _run(self) -> None:
        self._reason = self._session.run(None, lambda: None)


class MatrixRecorder:
    """Records one server while scenarios run against it, a capture for each."""

    def __init__(self, pid: int, *, with_otlp: bool) -> None:
        """Find the server.

        Raises:
            CputaxError: there is none with this PID, or it may not be looked at.
        """
        self._pid = pid
        self._ports = OtlpPorts(GRPC_PORT, HTTP_PORT) if with_otlp else None
        find_target(pid)

    def run(
        self, foreground: Foreground, scenario: Scenario, site: Site, directory: Path
    ) -> dict[str, Any]:
        """Run and record a scenario; return its summary, with what the capture says of it.

        That summary replaces the client's own, which `Foreground.run` has left beside the rows.

        Raises:
            CputaxError: see `Foreground.run`; or nothing can be recorded.
        """
        target = find_target(self._pid)
        probes = make_probes(target, otlp_ports=self._ports)
        capture = directory / CAPTURE
        recording = Recording(target, capture, probes)
        try:
            summary = foreground.run(scenario, site, directory, before=recording.start)
        except BaseException:
            recording.abandon()
            raise
        if not recording.is_begun:
            return summary
        problem = recording.finish(read_rows(directory), should_stop=lambda: foreground.is_stopping)
        summary["server"] = {
            "capture": str(capture),
            "problem": None if problem is None else problem.message,
            "waterfall": _waterfall(capture, scenario.name),
        }
        if problem is not None:
            summary["is_whole"] = False
            summary["warnings"].append(f"the capture is not a whole one: {problem.message}")
        write_summary(directory, summary)
        return summary


def _waterfall(capture: Path, scenario: str) -> dict[str, Any] | None:
    """Return where the scenario's requests spent their time; None when none of them ended well."""
    found = apply(requests.ANALYZER, Timeline(open_capture(capture))).sections.get("requests")
    scenarios = [] if found is None else found["scenarios"]
    return next((one for one in scenarios if one["name"] == scenario), None)
