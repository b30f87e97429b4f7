"""Plan and trial on the real server: it goes on serving, and every mask is as it was."""

from __future__ import annotations

import json
import os
import random

import pytest
from serve import Server

from tests.commands import run_cputax
from tests.live.driving import chat_load
from tests.live.pin_kill_runs import kill_once
from tests.masks import displaced, masks_of

CPUS = sorted(os.sched_getaffinity(0))
OWN = ("--cpus", f"api_server={CPUS[-1]}", "--cpus", f"engine_core={CPUS[-1]}")

pytestmark = pytest.mark.skipif(len(CPUS) < 2, reason="needs two CPUs")


def test_a_plan_names_every_part_of_the_server(vllm: Server) -> None:
    before = masks_of(vllm.pid)
    planned = run_cputax("pin", "--plan", vllm.pid, "--json")
    assert planned.returncode == 0, planned.stderr
    found = json.loads(planned.stdout)
    roles = [placement["role"] for placement in found["placements"]]
    assert {"api_server", "engine_core", "worker"} <= set(roles)
    assert all(placement["why"] for placement in found["placements"])
    assert masks_of(vllm.pid) == before


def test_a_trial_compares_windows_and_leaves_every_mask_as_it_was(vllm: Server) -> None:
    before = masks_of(vllm.pid)
    with chat_load(vllm.url, seconds=90.0):
        tried = run_cputax(
            "pin", "--trial", vllm.pid, *OWN, "--windows", "12", "--window", "2s",
            "--settle", "500ms", "--json", limit_s=90.0,
        )  # fmt: skip
    assert tried.returncode == 0, tried.stderr
    assert not displaced(before, masks_of(vllm.pid))
    found = json.loads(tried.stdout)
    gain = found["gains"]["output tokens"]
    assert gain["low"] < gain["ratio"] < gain["high"]
    assert gain["pair_count"] == 6
    assert found["masks"]["foreign"] == found["masks"]["refused"] == []
    assert vllm.is_answering()


def test_killed_trials_leave_every_mask_as_it_was(vllm: Server) -> None:
    chooser = random.Random(5)
    with chat_load(vllm.url, seconds=60.0):
        for _ in range(3):
            run = kill_once(vllm.pid, list(OWN), chooser)
            assert run.is_held, run
    assert vllm.is_answering()


def test_an_idle_server_is_not_tried(vllm: Server) -> None:
    refused = run_cputax("pin", "--trial", vllm.pid, *OWN)
    assert refused.returncode == 3
    assert "[no-load]" in refused.stderr
