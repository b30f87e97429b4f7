"""A real vLLM server for the tests beside this file; made on first use, ended at the end."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "examples" / "vllm_cpu"))

from serve import Server, running_server  # noqa: E402  (the example is no package)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this directory as live."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.live)


@pytest.fixture(scope="session")
def vllm() -> Iterator[Server]:
    """Yield a server that answers; tests leave it so."""
    with running_server() as running:
        yield running
