"""The oracle as a whole: three real processes under a little load, and an end without remains."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from profiler.load.prompts import make_prompt
from tests.commands import CPUTAX

pytestmark = pytest.mark.truth

DEADLINE_S = 20.0
PROMPT_CHARS = 4_000
ENGINE_HISTOGRAMS = (
    "time_to_first_token",
    "request_queue_time",
    "request_prefill_time",
    "request_decode_time",
    "request_inference_time",
    "e2e_request_latency",
)


class Oracle:
    """A running oracle."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "profiler.oracle", "--max-seconds", "60", "--die-with-parent",
             *arguments],
            stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self.process.stdout is not None
        ready = json.loads(self.process.stdout.readline())
        self.url: str = ready["url"]
        self.pids: dict[str, int] = ready["pids"]
        self.processes = [psutil.Process(pid) for pid in self.pids.values()]

    def load(self, *arguments: str) -> dict[str, Any]:
        finished = subprocess.run(
            [CPUTAX, "load", "run", "--url", self.url, "--json", "-q",
             "--prompt-chars", str(PROMPT_CHARS), "--max-tokens", "4", *arguments],
            stdout=subprocess.PIPE, timeout=60, check=True,
        )  # fmt: skip
        counts: dict[str, Any] = json.loads(finished.stdout)["requests"]
        return counts

    def metric(self, name: str) -> float:
        for family in text_string_to_metric_families(httpx.get(f"{self.url}/metrics").text):
            for sample in family.samples:
                if sample.name == name:
                    return sample.value
        raise KeyError(name)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs; one that only waits to be reaped by whoever adopted it does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def eventually(is_true: Any) -> bool:
    """Poll until it is true or the deadline has passed."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        if is_true():
            return True
        time.sleep(0.02)
    return False


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    oracle = Oracle()
    yield oracle
    oracle.end()


@pytest.fixture(scope="module")
def loaded(oracle: Oracle) -> dict[str, Any]:
    """The truth of a window with load, and the load client's own counts beside it."""
    httpx.post(f"{oracle.url}/truth/start").raise_for_status()
    counts = oracle.load("--users", "4", "-d", "2s")
    truth: dict[str, Any] = httpx.post(f"{oracle.url}/truth/stop").raise_for_status().json()
    return {"truth": truth, "load": counts}


def test_three_roles_are_processes_of_their_own(oracle: Oracle) -> None:
    commands = {role: psutil.Process(pid).cmdline() for role, pid in oracle.pids.items()}

    assert "profiler.oracle" in commands["api_server"]
    assert "profiler.oracle.engine_core" in commands["engine_core"]
    assert "profiler.oracle.worker" in commands["worker"]


def test_every_request_is_in_the_truth_and_in_the_metrics(
    oracle: Oracle, loaded: dict[str, Any]
) -> None:
    count = loaded["load"]["ok_count"]

    assert loaded["load"]["failed_count"] == 0
    assert count > 0
    assert loaded["truth"]["request_summary"]["request_count"] == count
    for name in ENGINE_HISTOGRAMS:
        assert oracle.metric(f"vllm:{name}_seconds_count") >= count
    assert oracle.metric("vllm:generation_tokens_total") >= 4 * count
    assert oracle.metric("vllm:prefix_cache_queries_total") > 0


def test_the_boundaries_of_a_request_pass_in_order(loaded: dict[str, Any]) -> None:
    for request in loaded["truth"]["requests"]:
        tokenizing = request["tokenizing"]
        boundaries = [
            request["arrived_ns"], request["parsed_ns"], request["validated_ns"],
            tokenizing["submitted_ns"], tokenizing["started_ns"], tokenizing["ended_ns"],
            request["headers_ns"], request["engine_sent_ns"], request["queued_ns"],
            request["scheduled_ns"], request["first_token_ns"], request["first_token_seen_ns"],
            request["last_token_seen_ns"], request["done_ns"],
        ]  # fmt: skip
        assert boundaries == sorted(boundaries)


def test_the_books_add_up(loaded: dict[str, Any]) -> None:
    truth = loaded["truth"]
    assert {process["role"] for process in truth["processes"]} == {
        "api_server", "engine_core", "worker",
    }  # fmt: skip
    for process in truth["processes"]:
        # No thread works outside the books.
        threads = sum(thread["cpu_seconds"] for thread in process["threads"])
        assert threads == pytest.approx(process["cpu_seconds"], rel=0.02, abs=0.002)
        held = sum(thread["gil_held_ratio"] for thread in process["threads"])
        assert 0 < held <= 1 + sum(t["gil_uncertainty_ratio"] for t in process["threads"])
        for thread in process["threads"]:
            stages = sum(stage["cpu_seconds"] for stage in thread["stages"].values())
            assert stages == pytest.approx(thread["cpu_seconds"], abs=1e-6)


def test_a_past_window_can_be_asked_for(oracle: Oracle, loaded: dict[str, Any]) -> None:
    whole = loaded["truth"]
    middle_ns = (whole["start_ns"] + whole["end_ns"]) // 2
    halves = [
        httpx.get(f"{oracle.url}/truth", params={"start_ns": start, "end_ns": end}).json()
        for start, end in ((whole["start_ns"], middle_ns), (middle_ns, whole["end_ns"]))
    ]

    for index, process in enumerate(whole["processes"]):
        parts = [half["processes"][index]["cpu_seconds"] for half in halves]
        assert sum(parts) == pytest.approx(process["cpu_seconds"], rel=0.01, abs=1e-4)


def test_the_truth_holds_no_prompt(loaded: dict[str, Any]) -> None:
    assert "summarise what this code does" in make_prompt(PROMPT_CHARS, "0-1")
    assert "summarise" not in json.dumps(loaded["truth"])


def test_a_shared_prompt_hits_the_prefix_cache(oracle: Oracle) -> None:
    before = oracle.metric("vllm:prefix_cache_hits_total")

    counts = oracle.load("--rate", "20", "-d", "1s", "--shared-prompt")

    assert counts["failed_count"] == 0
    assert oracle.metric("vllm:prefix_cache_hits_total") > before


def test_a_whole_answer_counts_its_tokens(oracle: Oracle) -> None:
    body = {"prompt": "import os", "max_tokens": 3}

    answer = httpx.post(f"{oracle.url}/v1/completions", json=body).json()

    assert answer["usage"]["completion_tokens"] == 3
    assert answer["choices"][0]["text"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/health", 200),
        ("GET", "/v1/models", 200),
        ("GET", "/nothing", 404),
        ("POST", "/v1/chat/completions", 400),
        ("GET", "/truth?start_ns=5", 400),
        ("GET", "/truth?start_ns=1&end_ns=2", 400),
    ],
)
def test_other_endpoints(oracle: Oracle, method: str, path: str, status: int) -> None:
    assert httpx.request(method, oracle.url + path).status_code == status


def test_a_client_that_goes_away_frees_its_request(oracle: Oracle) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 60_000, "stream": True}

    with httpx.stream("POST", f"{oracle.url}/v1/chat/completions", json=body) as response:
        next(response.iter_lines())
        assert eventually(lambda: oracle.metric("vllm:num_requests_running") == 1)

    # The gauge moves with the engine's next step, so give it one.
    def is_free() -> bool:
        httpx.post(f"{oracle.url}/v1/completions", json={"prompt": "x", "max_tokens": 1})
        return oracle.metric("vllm:num_requests_running") == 0

    assert eventually(is_free)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_polite_end_writes_the_truth_and_leaves_no_process(
    number: signal.Signals, tmp_path: Path
) -> None:
    file = tmp_path / "truth.json"
    oracle = Oracle("--truth", str(file))
    try:
        oracle.process.send_signal(number)
        assert oracle.process.wait(DEADLINE_S) == 0
        assert len(json.loads(file.read_text())["processes"]) == 3
        assert eventually(lambda: not any(map(is_alive, oracle.processes)))
    finally:
        oracle.end()


@pytest.mark.parametrize("victim", ["api_server", "engine_core", "worker"])
def test_no_process_outlives_a_killed_one(victim: str) -> None:
    oracle = Oracle()
    try:
        os.kill(oracle.pids[victim], signal.SIGKILL)
        oracle.process.wait(DEADLINE_S)
        assert eventually(lambda: not any(map(is_alive, oracle.processes)))
        assert oracle.process.returncode != 0
    finally:
        oracle.end()


def test_it_ends_by_itself() -> None:
    oracle = Oracle("--max-seconds", "1")
    try:
        assert oracle.process.wait(DEADLINE_S) == 0
        assert eventually(lambda: not any(map(is_alive, oracle.processes)))
    finally:
        oracle.end()
