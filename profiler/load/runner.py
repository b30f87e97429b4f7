"""Run a scenario in a process of its own, and get its results."""

from __future__ import annotations

import json
import os
import secrets
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from collectors.errors import CputaxError, output_error
from collectors.schema import OK
from profiler.load.failures import Failure
from profiler.load.meter import ClientLoad
from profiler.load.plan import Plan
from profiler.load.results import STREAM_FILE, Results, finish_rows, make_directory
from profiler.load.scenario import Scenario
from profiler.load.site import Site

_POLL_S: Final = 0.1
_END_TIMEOUT_S: Final = 10.0  # for a load process that was told to stop


class LoadCrashed(CputaxError):
    """The load process ended without being told to."""

    slug = "load-crashed"

    def __init__(self, exit_code: int | None, directory: Path) -> None:
        super().__init__(
            f"the load process ended early, with exit code {exit_code}",
            f"what it had seen is kept in {directory}; report this with the lines above",
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: requests begun, and those that are over by status."""

    begun_count: int = 0
    statuses: Mapping[str, int] = field(default_factory=dict)

    @property
    def over_count(self) -> int:
        """Requests that are over, well or not."""
        return sum(self.statuses.values())

    @property
    def failed_count(self) -> int:
        """Requests that are over and failed."""
        ok_count = self.statuses.get(OK, 0)
        return self.over_count - ok_count - self.statuses.get(Failure.INTERRUPTED, 0)


def do_nothing() -> None:
    """Do nothing: the default hook."""


def run_scenario(
    scenario: Scenario,
    site: Site,
    directory: Path,
    *,
    before: Callable[[], None] = do_nothing,
    after: Callable[[], None] = do_nothing,
    watch: Callable[[Progress], None] = lambda _progress: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Results:
    """Run ``scenario`` against ``site`` and keep its requests in ``directory``, a new one.

    ``before`` is called when the server is warm, right before the first request that counts, and
    ``after`` right after the last one; ``watch`` a few times a second. Once ``should_stop`` says
    so, the requests in flight are given up and what was seen is the result.

    Raises:
        CputaxError: the server is not there, cannot be asked so (`Site.prepare`), or the results
            cannot be written.
        LoadCrashed: the load process died; the rows until then are in ``directory``.
    """
    make_directory(directory)
    pool = site.prepare(scenario)
    plan = Plan(
        endpoint=site.endpoint,
        scenario=scenario,
        pool=pool,
        run=secrets.token_hex(4),
        nonce=site.make_nonce(),
        rows_path=directory / STREAM_FILE,
    )
    with _worker(plan) as worker:
        end = worker.follow(watch, should_stop)
        if end is not None and end["event"] == "ready":
            before()
            worker.tell(b"go\n")
            end = worker.follow(watch, should_stop)
            after()
    rows = finish_rows(directory)
    if end is None:
        if not worker.was_stopped:
            raise LoadCrashed(worker.exit_code, directory)
        end = {"is_whole": False, "client": None, "details": {}, "write_errno": None}
    if end["write_errno"] is not None:
        raise output_error(OSError(end["write_errno"], "write"), str(directory))
    return Results(
        scenario=scenario,
        url=site.endpoint.url,
        model=site.endpoint.model,
        rows=rows,
        client=None if end["client"] is None else ClientLoad(**end["client"]),
        details=end["details"],
        is_whole=end["is_whole"],
        directory=directory,
    )


class _Worker:
    """The load process, seen from the one that started it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._input = process.stdin
        self._output = process.stdout.fileno()
        self._rest = b""
        self._messages: list[dict[str, Any]] = []
        self._give_up_s: float | None = None

    @property
    def was_stopped(self) -> bool:
        """Whether it was told to stop."""
        return self._give_up_s is not None

    @property
    def exit_code(self) -> int | None:
        """How it ended; None while it runs."""
        return self._process.poll()

    def tell(self, order: bytes) -> None:
        """Give an order; one that is gone takes none."""
        with suppress(BrokenPipeError):
            self._input.write(order)
            self._input.flush()

    def follow(
        self, watch: Callable[[Progress], None], should_stop: Callable[[], bool]
    ) -> dict[str, Any] | None:
        """Return its next message but progress; None when it ended, or would not stop."""
        while True:
            while self._messages:
                message = self._messages.pop(0)
                if message["event"] == "progress":
                    watch(Progress(message["begun_count"], message["statuses"]))
                else:
                    return message
            if not self.was_stopped and should_stop():
                self.tell(b"stop\n")
                self._give_up_s = time.monotonic() + _END_TIMEOUT_S
            if self._give_up_s is not None and time.monotonic() > self._give_up_s:
                return None
            if not self._read():
                return None

    def _read(self) -> bool:
        """Take what it says within `_POLL_S`; False when it will say no more."""
        if select.select([self._output], [], [], _POLL_S)[0]:
            said = os.read(self._output, 1 << 16)
            if not said:
                return False
            *lines, self._rest = (self._rest + said).split(b"\n")
            self._messages += map(json.loads, lines)
        return True


@contextmanager
def _worker(plan: Plan) -> Iterator[_Worker]:
    """Start the load process, and end it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "profiler.load.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is ours; it hears of it by `stop`
    )
    worker = _Worker(process)
    try:
        worker.tell(plan.to_line())
        yield worker
    finally:
        with suppress(BrokenPipeError):
            process.stdin.close()  # type: ignore[union-attr]
        try:
            process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()  # type: ignore[union-attr]
