"""Attach to a real vLLM in the tokenizer convoy: the whole path, from PID to the first finding.

Thirty-two users stream chat completions over one prompt of 32,000 characters (about 8,200 tokens).
The prompt is in the prefix cache, so the engine has little to do and the tokenizer is what they
all wait for: measured, 90 % of the server's TTFT, with a queue wait of less than a millisecond.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from serve import Server

from tests.commands import run_cputax
from tests.live.driving import analysis, chat_load, processes_marked

ROLES = {"api_server", "engine_core", "worker"}
LEAST_CLASSIFIED_RATIO = 0.95
RECORDED_S = 15.0


@dataclass(frozen=True)
class Recorded:
    """A capture made under load, and its analysis."""

    path: Path
    found: dict[str, Any]


@pytest.fixture(scope="module")
def recorded(vllm: Server, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """Record the server for 15 s under the load of the convoy."""
    path = tmp_path_factory.mktemp("convoy") / "convoy.capture"
    with chat_load(vllm.url, seconds=60.0):
        finished = run_cputax("attach", vllm.pid, "-d", f"{RECORDED_S:.0f}s", "-o", path, "-q")
    assert finished.returncode == 0, finished.stderr
    return Recorded(path, analysis(path))


def test_all_three_processes_are_found_with_their_roles(recorded: Recorded) -> None:
    found = {one["role"]: one for one in recorded.found["target"]["processes"]}
    assert set(found) >= ROLES
    assert all(found[role]["cpu_seconds"] > 0 for role in ROLES)


@pytest.mark.parametrize("role", sorted(ROLES))
def test_nearly_all_busy_samples_are_classified(recorded: Recorded, role: str) -> None:
    coverage = next(one for one in recorded.found["coverage"] if one["role"] == role)
    assert coverage["classified_ratio"] >= LEAST_CLASSIFIED_RATIO, coverage


def test_the_first_finding_is_the_convoy_with_the_queue_wait_beside_it(recorded: Recorded) -> None:
    first = recorded.found["findings"][0]
    assert first["slug"] == "tokenizer-convoy", first
    assert not first["abstained"]
    evidence = first["evidence"]
    assert 0 <= evidence["queue_mean_seconds"] < 0.1 * evidence["ttft_mean_seconds"]


def test_the_convoy_is_not_blamed_for_a_queue_in_the_engine(vllm: Server, tmp_path: Path) -> None:
    # Without the prefix cache a prefill takes 0.3 s here, and requests wait in the engine's queue.
    path = tmp_path / "prefill.capture"
    with chat_load(vllm.url, seconds=60.0, shares_prompt=False):
        finished = run_cputax("attach", vllm.pid, "-d", f"{RECORDED_S:.0f}s", "-o", path, "-q")
    assert finished.returncode == 0, finished.stderr
    assert analysis(path)["findings"][0]["slug"] != "tokenizer-convoy"


def test_stage_shares_of_a_role_add_up_to_its_cpu_time(recorded: Recorded) -> None:
    for process in recorded.found["target"]["processes"]:
        if process["role"] not in ROLES:
            continue
        rows = [one for one in recorded.found["stages"] if one["role"] == process["role"]]
        total_s = sum(one["cpu_seconds"] for one in rows)
        assert total_s == pytest.approx(process["cpu_seconds"], rel=0.01)
        assert sum(one["share_ratio"] for one in rows) == pytest.approx(1.0, abs=0.01)


def test_no_thread_waited_or_held_for_longer_than_it_was_seen(recorded: Recorded) -> None:
    assert recorded.found["run_queue"]
    assert recorded.found["gil"]
    for row in recorded.found["run_queue"]:
        assert 0 <= row["wait_ratio"] <= 1.05, row
    for row in recorded.found["gil"]:
        assert 0 <= row["held_ratio"] <= 1, row


def test_the_workers_and_the_engines_pid_lead_to_the_same_tree(
    vllm: Server, recorded: Recorded, tmp_path: Path
) -> None:
    pids = {one["role"]: one["pid"] for one in recorded.found["target"]["processes"]}
    for role in ("engine_core", "worker"):
        path = tmp_path / f"{role}.capture"
        finished = run_cputax("attach", pids[role], "-d", "1s", "-o", path, "-q")
        assert finished.returncode == 0, finished.stderr
        found = analysis(path)["target"]["processes"]
        assert {one["role"]: one["pid"] for one in found} == pids


def test_the_server_still_answers_and_no_recorder_is_left(
    vllm: Server, recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CPUTAX_TEST_MARK", str(tmp_path))
    finished = run_cputax("attach", vllm.pid, "-d", "1s", "-o", tmp_path / "short.capture", "-q")
    assert finished.returncode == 0, finished.stderr
    assert processes_marked("CPUTAX_TEST_MARK", str(tmp_path)) == {}
    assert vllm.is_answering()
