"""cputax is killed, frozen or robbed of its recorders, and the target must not notice.

``CPUTAX_ROBUSTNESS_RUNS`` sets how many runs of each kind are made (two by default);
``robustness_runs.py`` beside it does hundreds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from serve import Server

from tests.live.driving import chat_load
from tests.live.hurt_targets import HurtTarget, plain_server
from tests.live.robustness_runs import HURTS, hurt_runs

RUN_COUNT = int(os.environ.get("CPUTAX_ROBUSTNESS_RUNS", "2"))


@pytest.fixture(scope="module")
def plain() -> Iterator[HurtTarget]:
    with plain_server() as target:
        yield target


@pytest.fixture
def loaded_vllm(vllm: Server) -> Iterator[HurtTarget]:
    with chat_load(vllm.url, seconds=600.0):
        yield HurtTarget(vllm.pid, f"{vllm.url}/health")


@pytest.mark.parametrize("hurt", HURTS)
def test_a_plain_program_does_not_notice(plain: HurtTarget, hurt: str, tmp_path: Path) -> None:
    problems = [
        (run.name, run.problems)
        for run in hurt_runs(plain, hurt, RUN_COUNT, tmp_path, seed=1)
        if run.problems
    ]
    assert problems == []


@pytest.mark.parametrize("hurt", HURTS)
def test_a_loaded_vllm_does_not_notice(loaded_vllm: HurtTarget, hurt: str, tmp_path: Path) -> None:
    problems = [
        (run.name, run.problems)
        for run in hurt_runs(loaded_vllm, hurt, 1, tmp_path, seed=2)
        if run.problems
    ]
    assert problems == []
