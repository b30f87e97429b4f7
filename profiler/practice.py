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
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from collectors.errors import CputaxError
from probes.server_metrics import fetch
from profiler.load.endpoint import Endpoint
from profiler.load.runner import run_scenario
from profiler.load.scenario import Scenario
from profiler.load.site import Site
from profiler.oracle.model_card import MODEL_NAME

MAX_SECONDS: Final = 300.0
READY_TIMEOUT_S: Final = 60.0
END_TIMEOUT_S: Final = 10.0
TRUTH_TIMEOUT_S: Final = 30.0
LOOK_S: Final = 0.1


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
    """Load the server from a process of its own, for ``seconds`` or until the block ends.

    The block begins with the first request.

    Raises:
        CputaxError: the load could not be made.
    """
    scenario = Scenario(
        name="practice",
        users=load.users,
        prompt_chars=load.prompt_chars,
        max_tokens=load.max_tokens,
        seconds=seconds,
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
            yield
        finally:
            ending.set()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_TIMEOUT_S)
        return
    process.kill()
    process.wait()
