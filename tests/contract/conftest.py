"""What the contracts are kept with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.programs import TARGETS, Program, start_program


@pytest.fixture(scope="session")
def flaky() -> Iterator[Program]:
    """Yield an OpenAI-compatible server that fails as its path says."""
    server = start_program(TARGETS / "flaky_server.py")
    yield server
    server.end()
