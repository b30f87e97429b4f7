"""The load of the tokenizer convoy, and what tests need to see of captures and of processes."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.commands import CPUTAX, run_cputax

ROOT = Path(__file__).parents[2]
PROMPT_CHARS = 32_000
USER_COUNT = 32
MAX_TOKENS = 16


def analysis(capture: Path) -> dict[str, Any]:
    """Return what ``cputax analyze --json`` says of a capture."""
    finished = run_cputax("analyze", capture, "--json")
    assert finished.returncode == 0, finished.stderr
    document: dict[str, Any] = json.loads(finished.stdout)
    return document


@contextlib.contextmanager
def chat_load(url: str, seconds: float, *, shares_prompt: bool = True) -> Iterator[None]:
    """Keep 32 users chatting over prompts of 32,000 characters, 16 tokens an answer.

    They share one prompt, which the prefix cache then holds, or each request has one of its own.
    The load ends after ``seconds`` or at the end of the block, whichever comes first.
    """
    shape = ["--users", USER_COUNT, "--prompt-chars", PROMPT_CHARS, "--max-tokens", MAX_TOKENS]
    prompt = ["--shared-prompt"] if shares_prompt else []
    length = ["-d", f"{seconds:.0f}s"]
    process = subprocess.Popen(
        [CPUTAX, "load", "run", "--url", url, "-q", *map(str, shape), *prompt, *length]
    )
    try:
        yield
    finally:
        process.terminate()
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
