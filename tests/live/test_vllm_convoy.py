"""The wait at the real tokenizer: predicted from arrivals and service times, beside measured.

N users send the same prompt of 32,000 characters (about 8,400 tokens) at the same time. The prefix
cache holds it, so that the engine has little to do, and all stand before one tokenizer thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serve import Server, running_server

from tests.commands import run_cputax
from tests.live.driving import PROMPT_CHARS, analysis

BATCHES = {4: 8, 16: 3, 32: 2}  # by users
TOLERANCE_RATIO = 0.25
# Other programs that take the CPUs in the middle of a burst make its service times unequal.
ATTEMPTS = 3
LEAST_COMPARED_RATIO = 0.5
SCENARIO = """
[[scenario]]
name = "users_{users}"
users = {users}
batches = {batches}
prompt_chars = {prompt_chars}
shared_prompt = true
max_tokens = 2
warm_up = 2
"""


@pytest.fixture(scope="module")
def traced() -> Iterator[Server]:
    """Yield a server that sends its traces to where ``cputax --otlp`` listens."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OTEL_BSP_SCHEDULE_DELAY", "500")  # ms
        endpoint = ("--otlp-traces-endpoint", "http://127.0.0.1:4317")
        with running_server(arguments=endpoint, max_seconds=600.0) as running:
            yield running


@pytest.mark.parametrize("users", BATCHES)
def test_the_predicted_wait_at_the_tokenizer_is_near_the_measured_one(
    users: int, traced: Server, tmp_path: Path
) -> None:
    said = []
    for attempt in range(ATTEMPTS):
        scenario = record(traced, users, tmp_path / str(attempt))
        row = next(one for one in scenario["resources"] if one["resource"] == "tokenizer")
        said.append(line(users, row))
        print(f"\n{said[-1]}", end="")
        if is_near(row, BATCHES[users] * users):
            assert scenario["resource"] == "tokenizer"
            assert scenario["coming"] == "batches"
            saved = {one["lever"]: one["saved_seconds"] for one in scenario["gains"]}
            assert saved["api_servers"] > 0
            assert saved["tokenizer_workers"] > 0
            return
    pytest.fail("\n".join(said))


def record(server: Server, users: int, directory: Path) -> dict[str, Any]:
    """Return the lines of one load of this many users."""
    directory.mkdir()
    file, name = directory / "scenario.toml", f"users_{users}"
    batches = BATCHES[users]
    file.write_text(SCENARIO.format(users=users, batches=batches, prompt_chars=PROMPT_CHARS))
    finished = run_cputax(
        "load", "matrix", "--url", server.url, "--scenarios", file, "--attach", server.pid,
        "--otlp", "-o", directory / "out", "-q",
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    found = analysis(directory / "out" / name / "server.capture")
    return next(one for one in found["convoys"] if one["name"] == name)


def is_near(row: dict[str, Any], request_count: int) -> bool:
    if row["reason"] is not None or row["compared_count"] < LEAST_COMPARED_RATIO * request_count:
        return False
    return bool(abs(row["predicted_to_measured_ratio"] - 1) <= TOLERANCE_RATIO)


def line(users: int, row: dict[str, Any]) -> str:
    if row["reason"] is not None:
        return f"{users:3} users: {row['reason']}"
    return (
        f"{users:3} users: predicted {row['predicted_wait_seconds'] * 1e3:6.1f} ms, "
        f"measured {row['measured_wait_seconds'] * 1e3:6.1f} ms "
        f"({row['predicted_to_measured_ratio'] - 1:+.1%}) of {row['compared_count']} requests, "
        f"service {row['service_mean_seconds'] * 1e3:.1f} ms, "
        f"busy {row['utilisation_ratio']:.0%}"
    )
