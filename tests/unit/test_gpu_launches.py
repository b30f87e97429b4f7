"""Who launched what, how long before, how much waited, and graphs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from captures import CaptureBuilder
from hypothesis import given
from hypothesis import strategies as st

from analyzers.gpu.graphs import measure_replays
from analyzers.gpu.launches import launch_row, measure_launches
from analyzers.gpu.work import measure_work
from analyzers.timeline import Timeline
from collectors.slices import MEMCPY

US = 1e-3  # in ms


class Server:
    """A process with one launching thread and one GPU."""

    def __init__(self, *, pid: int = 100, made: CaptureBuilder | None = None) -> None:
        self.made = made or CaptureBuilder()
        self.process = self.made.process("worker", pid=pid)
        self.thread = self.made.thread(self.process, tid=pid)
        self.device = self.made.device()
        self.stream = self.made.stream(self.device, process=self.process)

    def launch(self, call: float, start: float, end: float, correlation: int) -> None:
        self.made.call(self.thread, call, call + 0.005, correlation=correlation)
        self.made.slice(self.stream, start, end, correlation=correlation)

    def row(self) -> dict[str, Any]:
        timeline = Timeline(self.made.build())
        work = timeline.once(measure_work)
        rows = work.rows[self.device]
        start = work.slices.time_ns[rows]
        last = int((start + work.slices.duration_ns[rows]).max())
        launches = timeline.once(measure_launches)[self.device]
        return launch_row(work, rows, launches, int(start[0]), last)


@pytest.fixture
def server() -> Server:
    return Server()


def test_latency_is_from_the_call_to_the_kernel(server: Server) -> None:
    server.launch(1.000, 1.010, 1.1, 1)
    server.launch(1.020, 1.120, 1.2, 2)

    row = server.row()

    assert row["known_ratio"] == 1.0
    assert row["latency"]["mean_ns"] == pytest.approx(55_000)
    assert row["latency"]["max_ns"] == 100_000
    assert row["latency_after_call"]["max_ns"] == 95_000


def test_correlation_ids_mean_something_within_a_process_only() -> None:
    one = Server(pid=100)
    other = Server(pid=200, made=one.made)
    one.launch(1.0, 1.01, 1.1, 7)
    other.launch(5.0, 5.50, 5.6, 7)

    assert one.row()["latency"]["max_ns"] == 10_000
    assert other.row()["latency"]["max_ns"] == 500_000


def test_a_driver_call_in_a_runtime_call_is_not_the_launch(server: Server) -> None:
    server.made.call(server.thread, 1.002, 1.004, "cuLaunchKernel", correlation=3)
    server.made.call(server.thread, 1.000, 1.005, "cudaLaunchKernel", correlation=3)
    server.made.slice(server.stream, 1.010, 1.1, correlation=3)

    assert server.row()["latency"]["max_ns"] == 10_000


def test_work_without_a_call_keeps_the_thread_that_its_source_names(server: Server) -> None:
    server.made.slice(server.stream, 1.0, 1.1, launch_track=server.thread)
    server.made.slice(server.stream, 1.2, 1.3)

    row = server.row()

    assert (row["known_ratio"], row["known_thread_ratio"]) == (0.0, 0.5)
    assert row["latency"] is None
    assert row["queue"] is None


def test_a_kernel_before_its_call_shows_the_clocks_error_and_waits_for_nothing(
    server: Server,
) -> None:
    server.launch(1.010, 1.000, 1.1, 1)

    row = server.row()

    assert row["early_count"] == 1
    assert row["queue"]["mean_depth"] == 0.0


LAUNCH = st.tuples(st.integers(0, 40), st.integers(0, 20), st.integers(1, 9))


@given(st.lists(LAUNCH, min_size=1, max_size=12))
def test_the_queue_is_what_was_launched_and_had_not_begun(
    launches: list[tuple[int, int, int]],
) -> None:
    server = Server()
    for number, (call, wait, length) in enumerate(launches, 1):
        begun = call + wait
        server.launch(call * US, begun * US, (begun + length) * US, number)

    queue = server.row()["queue"]

    low = min(call + wait for call, wait, _ in launches)
    high = max(call + wait + length for call, wait, length in launches)
    depths = [
        sum(call <= at < call + wait for call, wait, _ in launches) for at in range(low, high)
    ]
    assert queue["mean_depth"] == pytest.approx(np.mean(depths))
    assert queue["max_depth"] == max(depths)
    assert queue["empty_ratio"] == pytest.approx(np.mean([depth == 0 for depth in depths]))
    assert np.mean(queue["bins"]) == pytest.approx(np.mean(depths), rel=1e-3, abs=1e-6)


def replay(server: Server, start: float, kernels: int, correlation: int) -> None:
    call = "hipGraphLaunch"
    server.made.call(server.thread, start, start + 0.005, call, correlation=correlation)
    for number in range(kernels):
        begin = start + 0.01 * (number + 1)
        server.made.slice(server.stream, begin, begin + 0.008, correlation=correlation)


def test_kernels_of_a_replay_are_of_its_call(server: Server) -> None:
    replay(server, 1.0, 5, 1)
    replay(server, 2.0, 5, 2)
    server.launch(3.0, 3.01, 3.02, 3)

    timeline = Timeline(server.made.build())
    replays = timeline.once(measure_replays)[server.device]

    assert timeline.once(measure_launches)[server.device].is_graph.tolist() == [True] * 10 + [False]
    assert (replays.call_count, replays.covered_count, replays.kernel_count) == (2, 2, 10)
    assert replays.is_trusted
    assert server.row()["call_count"] == 3  # latency is told of each call's first kernel


def test_replays_whose_kernels_are_not_in_the_trace_make_idle_time_untrusted(
    server: Server,
) -> None:
    for number in range(10):
        replay(server, 1.0 + number, 1 if number == 0 else 0, number + 1)
        server.made.slice(  # a copy between replays is seen, and linked
            server.stream, 1.5 + number, 1.6 + number, "Memcpy DtoH", kind=MEMCPY,
            correlation=100 + number,
        )  # fmt: skip
        copy = "hipMemcpyAsync"
        server.made.call(server.thread, 1.4 + number, 1.41 + number, copy, correlation=100 + number)

    replays = Timeline(server.made.build()).once(measure_replays)[server.device]

    assert replays.coverage_ratio == 0.1
    assert not replays.is_trusted


def test_kernels_that_no_call_claims_cover_the_replay_before_them(server: Server) -> None:
    for number in range(4):
        replay(server, 1.0 + number, 0, number + 1)
        server.made.slice(server.stream, 1.1 + number, 1.2 + number)

    replays = Timeline(server.made.build()).once(measure_replays)[server.device]

    assert replays.coverage_ratio == 1.0


def test_a_replay_after_the_last_work_could_not_be_seen(server: Server) -> None:
    replay(server, 1.0, 3, 1)
    replay(server, 9.0, 0, 2)

    replays = Timeline(server.made.build()).once(measure_replays)[server.device]

    assert (replays.call_count, replays.coverage_ratio) == (1, 1.0)


def test_kernels_of_one_launch_are_a_replay_even_without_its_call(server: Server) -> None:
    for number in range(3):
        server.made.slice(server.stream, 1.0 + number, 1.5 + number, correlation=9)
    server.made.slice(server.stream, 5.0, 5.5, graph=4)

    timeline = Timeline(server.made.build())

    assert timeline.once(measure_launches)[server.device].is_graph.all()
    assert timeline.once(measure_replays)[server.device].attributed_count == 0
