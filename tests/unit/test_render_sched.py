"""What is printed of waits for a CPU: within 100 columns, causes only where they were recorded."""

from __future__ import annotations

import pytest
from captures import SCHEDULE
from sched_captures import BLOCKED, PREEMPTED, YIELDED, SchedBuilder

from analyzers.analysis import analyze
from collectors.host_counters import (
    CGROUP_PERIODS,
    CGROUP_QUOTA,
    CGROUP_THROTTLED,
    CGROUP_THROTTLED_PERIODS,
    CYCLES,
    INSTRUCTIONS,
    NUMA_PAGES,
)
from profiler.render.console import console
from profiler.render.sched import print_scheduling


def printed(
    made: SchedBuilder, capsys: pytest.CaptureFixture[str], *, show_all: bool = False
) -> str:
    print_scheduling(console(), analyze(made.build()).to_json(), show_all=show_all)
    text = capsys.readouterr().out
    assert all(len(line) <= 100 for line in text.splitlines())
    return text


@pytest.fixture
def counted() -> SchedBuilder:
    """A worker that ran half of the time and waited for a CPU a quarter of it."""
    made = SchedBuilder(seconds=10)
    thread = made.thread(made.process("worker", pid=77), tid=1, name="MainThread")
    for ms in range(0, 10_001, 50):
        made.look(thread, ms, run=ms / 2, wait=ms / 4)
    return made


@pytest.fixture
def switched(counted: SchedBuilder) -> SchedBuilder:
    """The same, its switches seen: pushed off by cron for 150 ms of each 600, or gives way."""
    cron = counted.outsider(900, "cron[nasty]")
    thread = 1
    for ms in range(0, 9_600, 600):
        counted.stay(thread, ms, ms + 100, PREEMPTED, to=cron)
        counted.stay(thread, ms + 250, ms + 400, YIELDED, to=cron)
        counted.stay(thread, ms + 401, ms + 450, BLOCKED, woken=None)
    counted.probe("stacks", "works", achieved_hz=100.0)
    counted.run(thread, 0, 10_000, SCHEDULE)
    return counted


def test_without_switches_the_kernel_s_totals_are_told(
    counted: SchedBuilder, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(counted, capsys)

    assert "Who was ready to run and waited for a CPU" in text
    assert "2.50 s" in text
    assert "Who pushed whom off" not in text
    assert "threads that wanted a CPU: 0.8 on average" in text


def test_with_switches_their_causes_are_told(
    switched: SchedBuilder, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(switched, capsys)

    assert "Who pushed whom off a CPU  16 times, 2.40 s lost; yields are not counted" in text
    assert "cron[nasty] not the server's" in text
    assert text.count("2.40 s") >= 2  # pushed off: of the thread, and of the pair
    assert "0.02 s" in text  # yielded
    assert "In which stage threads waited for a CPU" in text


def test_a_wake_up_that_was_not_seen_is_not_zero(
    counted: SchedBuilder, capsys: pytest.CaptureFixture[str]
) -> None:
    counted.stay(1, 0, 100, BLOCKED)
    counted.stay(1, 300, 400, BLOCKED)

    text = printed(counted, capsys)

    assert "waits after wake-ups were not seen" in text or "inferred" in text
    assert "never" in text  # pushed off


def test_a_quota_and_memory_on_several_nodes_are_told(
    counted: SchedBuilder, capsys: pytest.CaptureFixture[str]
) -> None:
    process = 0
    labels = "cgroup=/kubepods/pod7"
    counted.level(process, 0, CGROUP_QUOTA, labels, 1.5)
    counted.level(process, 10_000, CGROUP_QUOTA, labels, 1.5)
    counted.total(process, CGROUP_THROTTLED, labels, 0, 3)
    counted.total(process, CGROUP_PERIODS, labels, 0, 100)
    counted.total(process, CGROUP_THROTTLED_PERIODS, labels, 0, 40)
    counted.level(process, 5_000, NUMA_PAGES, "node=0", 3000)
    counted.level(process, 5_000, NUMA_PAGES, "node=1", 1000)
    counted.machine(nodes={0: [0], 1: [1]}, gpus={"g": 1}, processes={77: {"gpus": ["g"]}})

    text = printed(counted, capsys)

    assert "CPU quota of /kubepods/pod7: 1.5 CPUs; stopped in 40.0% of periods, 3.00 s in" in text
    assert "0: 75%, 1: 25%" in text
    assert "75% (74% to 76%)" in text


def test_what_the_cpu_counted_is_told(
    counted: SchedBuilder, capsys: pytest.CaptureFixture[str]
) -> None:
    counted.total(1, CYCLES, "", 0, 3e9)
    counted.total(1, INSTRUCTIONS, "", 0, 1.5e9)

    line = next(line for line in printed(counted, capsys).splitlines() if "3.00e+09" in line)

    assert line.split()[-3:] == ["0.50", "?", "?"]


def test_nothing_recorded_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(SchedBuilder(seconds=1), capsys) == ""
