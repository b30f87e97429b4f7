"""Running targets for the tests of all directories; each ends with its test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.programs import TARGETS, Program, start_program


@pytest.fixture
def program() -> Iterator[Program]:
    """Yield a plain Python program with a busy and an idle thread."""
    running = start_program(TARGETS / "python_threads.py")
    yield running
    running.end()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Program]:
    """Yield a program that is ``vllm serve tiny`` to whoever looks from outside."""
    link = tmp_path / "bin" / "vllm"
    link.parent.mkdir()
    link.symlink_to(TARGETS / "metrics_server.py")
    running = start_program(link, "serve", "tiny")
    yield running
    running.end()
