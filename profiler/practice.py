"""The practice ground: the oracle under load, for the demo and the self-test.

Everything started here ends with the ``with`` block, and by itself when this process dies or after
`MAX_SECONDS`.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from rich.console import Console

from collectors.capture import Capture, open_capture
from collectors.errors import CputaxError
from probes.server_metrics import fetch
from probes.target import find_target
from profiler.load.endpoint import Endpoint
from profiler.load.runner import run_scenario
from profiler.load.scenario import Scenario
from profiler.load.site import Site
from profiler.oracle.model_card import MODEL_NAME
from profiler.probe_set import Rates, make_probes
from profiler.recording import record
from profiler.session import Session

MAX_SECONDS: Final = 300.0
READY_TIMEOUT_S: Final = 60.0
END_TIMEOUT_S: Final = 10.0
TRUTH_TIMEOUT_S: Final = 30.0
LOOK_S: Final = 0.1
SPARE_S: Final = 30.0  # how much longer the load could last: probes take their time to start


class OracleFailed(CputaxError):
    """The practice server did not start or did not answer."""

    slug = "oracle-failed"

    def __init__(self, what: str) -> None:
        super().__init__(
            f"the practice server {what}",
            f"run it by itself to see why: {sys.executable} -m profiler.oracle --max-seconds 20",
        )


@dataclass(frozen=True, slots=True)
class Load:
    """A closed loop: users who each send the next prompt when the last answer is whole."""

    users: int
    prompt_chars: int
    max_tokens: int
    warm_up_s: float


@dataclass(frozen=True, slots=True)
class Oracle:
    """A running practice server."""

    url: str
    pid: int

    def truth(self, start_ns: int, end_ns: int) -> dict[str, Any]:
        """Return what the server itself knows of ``[start_ns, end_ns)`` (CLOCK_MONOTONIC).

        Raises:
            OracleFailed: it did not answer.
        """
        query = f"/truth?start_ns={start_ns}&end_ns={end_ns}"
        try:
            status, body = fetch(self.url, query, TRUTH_TIMEOUT_S)
            document: dict[str, Any] = json.loads(body)
        except (OSError, ValueError) as error:
            raise OracleFailed("did not tell its truth") from error
        if status != 200:
            raise OracleFailed(f"did not tell its truth: {document}")
        return document


@contextmanager
def running_oracle(*options: str) -> Iterator[Oracle]:
    """Start the practice server with more ``options`` of its own, and end it.

    Raises:
        OracleFailed: it was not ready in time.
    """
    command = [sys.executable, "-m", "profiler.oracle", "--die-with-parent"]
    command += ["--max-seconds", str(MAX_SECONDS), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], READY_TIMEOUT_S)
        line = process.stdout.readline() if ready else b""
        if not line:
            raise OracleFailed("did not become ready")
        document = json.loads(line)
        yield Oracle(document["url"], document["pids"]["api_server"])
    finally:
        _end(process)


@contextmanager
def under_load(oracle: Oracle, load: Load, seconds: float) -> Iterator[None]:
    """Load the server from a process of its own until the block ends, which lasts ``seconds``.

    The block begins when the load has lasted as long as its warm-up.

    Raises:
        CputaxError: the load could not be made.
    """
    scenario = Scenario(
        name="practice",
        users=load.users,
        prompt_chars=load.prompt_chars,
        max_tokens=load.max_tokens,
        seconds=seconds + SPARE_S,
    )
    begun, ending = threading.Event(), threading.Event()
    with TemporaryDirectory(prefix="cputax-practice-") as scratch, ThreadPoolExecutor(1) as pool:
        running = pool.submit(
            run_scenario, scenario, Site(Endpoint(oracle.url, MODEL_NAME)),
            Path(scratch) / "load", before=begun.set, should_stop=ending.is_set,
        )  # fmt: skip
        try:
            while not begun.wait(LOOK_S) and not running.done():
                pass
            if not begun.is_set():
                running.result()
            time.sleep(load.warm_up_s)
            yield
        finally:
            ending.set()


def record_oracle(
    oracle: Oracle, directory: Path, seconds: float, out: Console, rates: Rates | None = None
) -> Capture:
    """Attach to the server by its PID, as a user does, and return the capture.

    Raises:
        CputaxError: nothing could be recorded, or not all of it.
    """
    target = find_target(oracle.pid)
    problem = record(Session(target, directory, make_probes(target, rates=rates)), seconds, out)
    if problem is not None:
        raise problem
    return open_capture(directory)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_TIMEOUT_S)
        return
    process.kill()
    process.wait()
