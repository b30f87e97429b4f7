"""Start a server, wait until it answers, and end it when the recording is over."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from rich.console import Console

from collectors.errors import CputaxError, ExitCode, TargetExited, TargetNotPython
from probes import roles
from probes.server_metrics import fetch, server_urls
from probes.target import Target, find_target

READY_TIMEOUT_S: Final = 1800.0  # a large model takes its time to load
PYTHON_TIMEOUT_S: Final = 60.0  # until anything that was started is Python
POLL_S: Final = 0.5
END_TIMEOUT_S: Final = 20.0


class CommandNotFound(CputaxError):
    """The command to start does not exist or may not be run."""

    slug = "command-not-found"
    exit_code = ExitCode.USAGE


class ServerNotReady(CputaxError):
    """The server that was started never answered."""

    slug = "server-not-ready"
    exit_code = ExitCode.TARGET


@contextmanager
def launch(
    command: Sequence[str], out: Console, environment: Mapping[str, str] | None = None
) -> Iterator[Target]:
    """Start ``command`` and yield its tree once it serves; a plain Python program at once.

    ``environment`` is set on top of our own.

    Raises:
        CommandNotFound: it cannot be started.
        TargetExited: it ended before it was ready.
        TargetNotPython: after a minute nothing of it is Python.
        ServerNotReady: it never answered /health.
    """
    try:
        process = subprocess.Popen(
            command, start_new_session=True, env={**os.environ, **(environment or {})}
        )
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise CommandNotFound(
            f"cannot start {command[0]!r}: {reason}", "check its name and that it is on PATH"
        ) from error
    try:
        with out.status(f"waiting for {command[0]} (PID {process.pid}) to be ready"):
            target = _wait_ready(process)
        yield target
    finally:
        _end(process)


def _wait_ready(process: subprocess.Popen[bytes]) -> Target:
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    python_deadline_s = time.monotonic() + PYTHON_TIMEOUT_S
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            raise TargetExited(
                f"the command ended with exit code {process.returncode} before it was ready",
                "run it by itself first; its output above says why it ended",
            )
        try:
            target = find_target(process.pid)
        except TargetNotPython:
            if time.monotonic() > python_deadline_s:
                raise
            time.sleep(POLL_S)  # the shell or launcher has not become Python yet
            continue
        except CputaxError:
            time.sleep(POLL_S)
            continue
        if target.kind == roles.PYTHON or any(_is_healthy(url) for url in server_urls(target)):
            return target
        time.sleep(POLL_S)
    raise ServerNotReady(
        f"the server did not answer /health within {READY_TIMEOUT_S:.0f} s",
        "start it by itself and attach when it is ready: cputax attach PID",
    )


def _is_healthy(url: str) -> bool:
    try:
        return fetch(url, "/health", POLL_S)[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """We started it, so we end it, politely first."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
