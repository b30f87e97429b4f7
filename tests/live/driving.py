"""Drive the real command line and the real load client, as a user at a shell would."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
COMMAND_LIMIT_S = 120.0
PROMPT_CHARS = 32_000
USER_COUNT = 32
STREAMED_TOKEN_COUNT = 16


def cputax(*arguments: str | int | Path) -> subprocess.CompletedProcess[str]:
    """Run ``cputax`` to its end; the caller judges the exit code."""
    return subprocess.run(
        cputax_command(*arguments),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=COMMAND_LIMIT_S,
    )


def cputax_command(*arguments: str | int | Path) -> list[str]:
    """Return the command line of ``cputax``, run from this checkout by this interpreter."""
    return [sys.executable, "-m", "profiler", *map(str, arguments)]


def analysis(capture: Path) -> dict[str, Any]:
    """Return what ``cputax analyze --json`` says of a capture."""
    finished = cputax("analyze", capture, "--json")
    assert finished.returncode == 0, finished.stderr
    document: dict[str, Any] = json.loads(finished.stdout)
    return document


@contextlib.contextmanager
def chat_load(
    url: str,
    seconds: float,
    *,
    user_count: int = USER_COUNT,
    max_tokens: int = STREAMED_TOKEN_COUNT,
) -> Iterator[subprocess.Popen[str]]:
    """Keep ``user_count`` users chatting over one shared prompt of 32,000 characters.

    The load ends after ``seconds`` or at the end of the block, whichever comes first.
    """
    client = [sys.executable, "-m", "profiler.load.client", "--url", url, "--model", "tiny"]
    shape = ["--users", user_count, "--prompt-chars", PROMPT_CHARS, "--max-tokens", max_tokens]
    process = subprocess.Popen(
        [*client, "--shared-prompt", *map(str, shape), "--seconds", str(seconds)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def processes_marked(name: str, value: str) -> dict[int, str]:
    """Return PID -> command line of live processes that carry ``name=value`` in their environment.

    The mark is inherited by every child, so it also finds those whose parent is gone.
    """
    mark = f"{name}={value}".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                found[int(entry.name)] = command.strip()
    return found
