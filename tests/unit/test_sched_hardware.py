"""The CPU's own counters per thread: ratios of what was counted, null where it was not."""

from __future__ import annotations

from typing import Any

import pytest
from sched_captures import SchedBuilder

from analyzers.analysis import analyze
from collectors.host_counters import (
    CYCLES,
    DRAM_LOCAL,
    DRAM_REMOTE,
    INSTRUCTIONS,
    LLC_MISSES,
)


@pytest.fixture
def made() -> SchedBuilder:
    return SchedBuilder(seconds=10)


def rows(made: SchedBuilder) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = analyze(made.build()).to_json()["cpu_counters"]
    return found


def test_a_thread_s_counts_become_ratios(made: SchedBuilder) -> None:
    thread = made.thread(made.process("worker", pid=7), tid=8, name="MainThread")
    made.total(thread, CYCLES, "", 1e9, 3e9)
    made.total(thread, INSTRUCTIONS, "", 0, 1e9)
    made.total(thread, LLC_MISSES, "", 0, 5e6)
    made.total(thread, DRAM_LOCAL, "", 0, 3e6)
    made.total(thread, DRAM_REMOTE, "", 0, 1e6)

    assert rows(made) == [
        {
            "pid": 7, "role": "worker", "tid": 8, "name": "MainThread",
            "cycles": 2e9, "instructions": 1e9, "instructions_per_cycle": 0.5,
            "llc_misses_per_1000_instructions": 5.0, "dram_remote_ratio": 0.25,
        }
    ]  # fmt: skip


def test_what_the_cpu_does_not_count_is_unknown(made: SchedBuilder) -> None:
    process = made.process("worker")
    slow, busy = made.thread(process, tid=1), made.thread(process, tid=2)
    made.total(slow, CYCLES, "", 0, 1e6)
    made.total(busy, CYCLES, "", 0, 1e9)
    made.total(busy, INSTRUCTIONS, "", 0, 2e9)

    first, second = rows(made)

    assert (first["tid"], second["tid"]) == (2, 1)
    assert (first["instructions_per_cycle"], second["instructions_per_cycle"]) == (2.0, None)
    assert first["llc_misses_per_1000_instructions"] is None
    assert first["dram_remote_ratio"] is None


def test_a_counter_read_once_says_nothing(made: SchedBuilder) -> None:
    thread = made.thread(made.process("worker"), tid=1)
    made.counter(thread, 0, CYCLES, 1e9)

    assert rows(made) == []
