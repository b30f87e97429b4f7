"""``cputax doctor`` on a real vLLM: silent on a healthy one, and exact about planted mistakes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serve import Server, running_server

from profiler.doctor.catalogue import CHECKS
from tests.commands import run_cputax

# Three mistakes that vLLM for CPU accepts: a KV connector without the prefix cache, more OpenMP
# threads than CPUs, and a profiler that was left configured.
PLANTED = {"prefix-caching-off", "omp-threads", "profiling-on"}
THREADS = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "64"}
MAX_SECONDS = 240.0


@pytest.fixture(scope="module")
def mistaken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Yield a server that was started with the three mistakes."""
    directory: Path = tmp_path_factory.mktemp("mistaken")
    connector = {
        "kv_connector": "ExampleConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"shared_storage_path": str(directory / "kv")},
    }
    profiler = {"profiler": "torch", "torch_profiler_dir": str(directory / "traces")}
    arguments = [
        "--no-enable-prefix-caching",
        "--kv-transfer-config", json.dumps(connector),
        "--profiler-config", json.dumps(profiler),
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("PYTHONHASHSEED", raising=False)
        for name, value in THREADS.items():
            patched.setenv(name, value)
        with running_server(arguments=arguments, max_seconds=MAX_SECONDS) as server:
            yield server


def examine(server: Server, *options: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Return the doctor's exit code and its checks by slug."""
    finished = run_cputax("doctor", server.pid, "--json", *options)
    assert finished.stderr == ""
    document = json.loads(finished.stdout)
    return finished.returncode, {check["slug"]: check for check in document["checks"]}


def fired(checks: dict[str, dict[str, Any]]) -> set[str]:
    return {slug for slug, check in checks.items() if check["outcome"] == "fires"}


def test_a_healthy_server_raises_no_alarm(vllm: Server) -> None:
    exit_code, checks = examine(vllm, "--fail-on", "info")

    assert fired(checks) == set()
    assert set(checks) == {check.slug for check in CHECKS}
    assert exit_code == 0
    # Nor does a check hide behind what it could not see: all was there to be read.
    unknown = {slug for slug, check in checks.items() if check["outcome"] == "unknown"}
    assert unknown == set()


def test_what_only_costs_on_a_gpu_does_not_apply(vllm: Server) -> None:
    # Given a CPU server in eager mode, where vLLM leaves async scheduling off
    _, checks = examine(vllm)

    outcomes = {slug: check["outcome"] for slug, check in checks.items()}
    for slug in ("eager-mode", "partial-graphs", "async-scheduling-off", "few-cpus"):
        assert outcomes[slug] == "not_applicable"


def test_exactly_the_planted_mistakes_are_named(mistaken: Server) -> None:
    exit_code, checks = examine(mistaken)

    assert fired(checks) == PLANTED
    assert exit_code == 1  # one of them is critical
    assert "ExampleConnector" in " ".join(checks["prefix-caching-off"]["evidence"])
    assert "64" in checks["omp-threads"]["evidence"][0]
    # vLLM 0.32 seeds its hashes itself, and this connector has keys of its own
    assert checks["hash-seed"]["outcome"] == "fine"


def test_people_are_told_the_fix(mistaken: Server) -> None:
    finished = run_cputax("doctor", mistaken.pid, "--fail-on", "never")

    assert finished.returncode == 0
    for slug in PLANTED:
        assert slug in finished.stdout
    assert "remove --no-enable-prefix-caching" in finished.stdout
    assert max(map(len, finished.stdout.splitlines())) <= 100
