"""The line before the oracle's tokenizer: predicted and measured, against what it says itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from collectors.capture import open_capture
from profiler.practice import running_oracle
from tests.commands import run_cputax
from tests.live.driving import analysis

pytestmark = pytest.mark.truth

NAME = "line"
MEASURED_RATIO = 0.15
PREDICTED_RATIO = 0.25
ATTEMPTS = 3
TRACES = ("--otlp-endpoint", "http://127.0.0.1:4318/v1/traces", "--otlp-delay-ms", "200")
SCENARIO = """
[[scenario]]
name = "line"
users = {users}
{length}
prompt_chars = 32000
max_tokens = 2
warm_up = 2
"""


@pytest.mark.parametrize(
    ("users", "length"), [(8, "batches = 4"), (32, "batches = 2"), (8, "requests = 64")]
)
def test_both_waits_are_near_the_true_one(users: int, length: str, tmp_path: Path) -> None:
    said = []
    for attempt in range(ATTEMPTS):
        directory = tmp_path / str(attempt)
        directory.mkdir()
        row, true_ns = record(SCENARIO.format(users=users, length=length), directory)
        measured = row["measured_wait_seconds"] * 1e9 / true_ns - 1
        predicted = row["predicted_wait_seconds"] * 1e9 / true_ns - 1
        said.append(
            f"{users:3} users, {length}: {true_ns / 1e6:.1f} ms of waiting, "
            f"measured {measured:+.1%}, predicted {predicted:+.1%}"
        )
        print(f"\n{said[-1]}", end="")
        if abs(measured) <= MEASURED_RATIO and abs(predicted) <= PREDICTED_RATIO:
            return
    pytest.fail("\n".join(said))


def record(scenario: str, directory: Path) -> tuple[dict[str, Any], float]:
    """Return the tokenizer's row of one load, and the mean wait that was."""
    file = directory / "scenario.toml"
    file.write_text(scenario)
    with running_oracle(*TRACES) as oracle:
        finished = run_cputax(
            "load", "matrix", "--url", oracle.url, "--scenarios", file, "--attach", oracle.pid,
            "--otlp", "-o", directory / "out", "-q",
        )  # fmt: skip
        assert finished.returncode == 0, finished.stderr
        path = directory / "out" / NAME / "server.capture"
        capture = open_capture(path)
        truth = oracle.truth(capture.start_ns, capture.end_ns)["requests"]
    own = {
        one["request"]
        for one in capture.table("requests").to_pylist()
        if one["scenario"] == NAME and one["status"] == "ok"
    }
    # From its arrival in the frontend, as the analysis counts: queueing for the thread comes next.
    waits = [
        one["tokenizing"]["started_ns"] - one["validated_ns"]
        for one in truth
        if one["client_id"] in own
    ]
    assert len(waits) == len(own) > 0
    (found,) = analysis(path)["convoys"]
    (row,) = [one for one in found["resources"] if one["resource"] == "tokenizer"]
    assert row["reason"] is None, row
    return row, float(np.mean(waits))
