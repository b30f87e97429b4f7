"""``cputax ps`` on a machine where a real vLLM runs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from serve import MODEL_NAME, Server

from tests.commands import run_cputax


@pytest.fixture
def listed(vllm: Server) -> dict[str, Any]:
    """Return what ``ps`` says of our server."""
    finished = run_cputax("ps", "--json")
    assert finished.returncode == 0, finished.stderr
    servers = json.loads(finished.stdout)["servers"]
    return next(one for one in servers if one["pid"] == vllm.pid)


def test_it_names_model_url_and_version(listed: dict[str, Any], vllm: Server) -> None:
    assert listed["kind"] == "vllm"
    assert listed["model"] == MODEL_NAME
    assert listed["url"] == vllm.url
    # The version that the server itself reports, which for this build has a suffix.
    assert listed["version"].startswith("0.32.0")


def test_it_names_the_three_processes_by_role(listed: dict[str, Any], vllm: Server) -> None:
    roles = {process["role"]: process for process in listed["processes"]}
    assert set(roles) == {"api_server", "engine_core", "worker"}
    assert roles["api_server"]["pid"] == vllm.pid
    assert roles["worker"]["rank"] == 0


def test_the_table_shows_it_to_a_person(vllm: Server) -> None:
    finished = run_cputax("ps")
    assert finished.returncode == 0, finished.stderr
    row = next(line for line in finished.stdout.splitlines() if str(vllm.pid) in line)
    assert MODEL_NAME in row
