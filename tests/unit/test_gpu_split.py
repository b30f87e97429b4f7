"""The server's view of its GPUs: which rung it stands on, over which window."""

from __future__ import annotations

from typing import Any

import pytest
from captures import SITE, CaptureBuilder
from hypothesis import given
from hypothesis import strategies as st

from analyzers.gpu.split import BIN_COUNT, run
from analyzers.timeline import Timeline
from collectors.schema import CLIENT

US = 1e-3
RUNNER = f"{SITE}/vllm/v1/worker/gpu_model_runner.py"
SYNC = [("Worker.execute_model", RUNNER), ("Event.synchronize", f"{SITE}/torch/cuda/streams.py")]
CPU_MODEL = [
    ("CPUWorker.execute_model", f"{SITE}/vllm/v1/worker/cpu_worker.py"),
    ("LlamaMLP.forward", f"{SITE}/vllm/model_executor/models/llama.py"),
]


@pytest.fixture
def made() -> CaptureBuilder:
    """A capture of 100 ms of a worker."""
    made = CaptureBuilder(seconds=0.1)
    made.thread(made.process("worker"), tid=1)
    return made


def split(made: CaptureBuilder) -> dict[str, Any]:
    section = run(Timeline(made.build())).sections["gpu_split"]
    assert isinstance(section, dict)
    return section


def gpu(made: CaptureBuilder, *kernels: tuple[float, float]) -> int:
    device = made.device(0, name="MI300X")
    stream = made.stream(device, process=0)
    for start, end in kernels:
        made.slice(stream, start, end)
    return device


def test_a_trace_of_kernels_is_exact(made: CaptureBuilder) -> None:
    gpu(made, (10, 30), (20, 40), (60, 70))

    found = split(made)

    assert found["rung"] == "kernel_trace"
    assert found["window"]["basis"] == "capture"
    (row,) = found["devices"]
    assert (row["busy_ns"], row["idle_ns"]) == (40_000_000, 60_000_000)
    assert row["busy_ratio"] == row["low_ratio"] == row["high_ratio"] == 0.4


def test_only_the_window_with_a_request_counts(made: CaptureBuilder) -> None:
    gpu(made, (10, 30), (60, 70))
    made.request(20, 40)
    made.request(30, 62)

    found = split(made)

    assert found["window"]["basis"] == "requests"
    assert found["window"]["seconds"] == pytest.approx(0.042)
    assert found["devices"][0]["busy_ns"] == 12_000_000
    assert found["bins"]["in_flight_ratio"][0] == 0.0
    assert found["bins"]["devices"][0]["busy_ratio"][0] is None  # unknown is not zero


def test_a_clients_request_is_with_the_server_from_when_it_was_sent(made: CaptureBuilder) -> None:
    made.request(20, 40, source=CLIENT)
    capture = made.build()
    requests = capture.tables["requests"]
    sent = requests.column_names.index("sent_ns")
    capture.tables["requests"] = requests.set_column(
        sent, requests.schema.field(sent), [[made.at(25)]]
    )

    window = run(Timeline(capture)).sections["gpu_split"]["window"]

    assert window["seconds"] == pytest.approx(0.015)


def test_the_servers_own_counters_tell_when_it_had_requests(made: CaptureBuilder) -> None:
    gpu(made, (10, 30))
    for ms, running in ((0, 0), (20, 0), (40, 2), (60, 0), (80, 0)):
        made.counter(0, ms, "vllm:num_requests_running", running, kind="level")

    window = split(made)["window"]

    assert window["basis"] == "server_counters"
    assert window["seconds"] == pytest.approx(0.04)


def test_idle_time_under_replays_that_were_not_recorded_is_only_bounded(
    made: CaptureBuilder,
) -> None:
    gpu(made, (10, 30), (90, 91))
    for call in (40, 50, 60):
        made.call(1, call, call + 1, "hipGraphLaunch", correlation=call)

    (row,) = split(made)["devices"]

    assert row["busy_ratio"] is None
    assert row["low_ratio"] == pytest.approx(0.21)
    assert row["high_ratio"] is None


def test_without_a_trace_the_drivers_counter_is_asked(made: CaptureBuilder) -> None:
    device = made.device(3, name="MI300X")
    for tick in range(11):
        made.counter(
            device, 10 * tick, "gpu_utilization_ratio", 1.0 if tick < 6 else 0.0, kind="level",
            labels="",
        )  # fmt: skip

    found = split(made)

    assert found["rung"] == "gpu_busy_counter"
    (row,) = found["devices"]
    assert (row["device"], row["name"]) == (3, "MI300X")
    assert row["busy_ratio"] == pytest.approx(0.55)


def test_stacks_that_wait_for_the_gpu_are_a_lower_bound(made: CaptureBuilder) -> None:
    made.run(1, 0, 30, SYNC)
    made.run(1, 30, 100, [("main", "/srv/app.py")])

    found = split(made)

    assert found["rung"] == "device_sync_frames"
    (row,) = found["devices"]
    assert (row["busy_ns"], row["busy_ratio"], row["high_ratio"]) == (None, None, None)
    assert row["low_ratio"] == pytest.approx(0.3)
    assert row["pid"] == 100


def test_the_servers_counters_are_an_upper_bound(made: CaptureBuilder) -> None:
    made.request(0, 100)
    for ms, running in ((0, 0), (20, 1), (50, 1), (70, 0), (100, 0)):
        made.counter(0, ms, "vllm:num_requests_running", running, kind="level")

    found = split(made)

    assert found["rung"] == "server_counters"
    assert found["devices"][0]["high_ratio"] == pytest.approx(0.7)
    assert found["devices"][0]["busy_ratio"] is None


def test_a_model_on_the_cpu_is_no_gpu_and_no_zero(made: CaptureBuilder) -> None:
    made.run(1, 0, 60, CPU_MODEL)
    made.counter(0, 0, "vllm:num_requests_running", 1, kind="level")
    made.counter(0, 100, "vllm:num_requests_running", 1, kind="level")

    found = split(made)

    assert found["rung"] == "model_on_cpu"
    (row,) = found["devices"]
    assert row["device"] is None
    assert row["busy_ratio"] == pytest.approx(0.6)
    reasons = [one["reason"] for one in found["rungs"] if not one["is_available"]]
    assert all("no GPU" in reason for reason in reasons)


def test_what_nobody_saw_is_said_with_every_rungs_reason(made: CaptureBuilder) -> None:
    made.probe("gpu_counters", "unavailable", reason="no GPU: no card below /sys")

    found = split(made)

    assert found["rung"] is None
    assert found["devices"] == []
    assert "no GPU: no card below /sys" in found["reason"]


@given(
    st.lists(st.tuples(st.integers(0, 90), st.integers(1, 30)), min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(0, 90), st.integers(1, 30)), max_size=4),
)
def test_bins_add_up_to_the_window(
    kernels: list[tuple[int, int]], requests: list[tuple[int, int]]
) -> None:
    made = CaptureBuilder(seconds=0.1)
    made.process("worker")
    gpu(made, *((start, start + length) for start, length in kernels))
    for start, length in requests:
        made.request(start, start + length)

    found = split(made)

    def lit(parts: list[tuple[int, int]]) -> set[int]:
        return {at for start, length in parts for at in range(start, min(start + length, 100))}

    window = lit(requests) if requests else set(range(100))
    assert found["devices"][0]["busy_ns"] == len(lit(kernels) & window) * 1_000_000
    ratios = found["bins"]["devices"][0]["busy_ratio"]
    weights = found["bins"]["in_flight_ratio"]
    assert len(ratios) == len(weights) == BIN_COUNT
    assert sum((one or 0.0) * of for one, of in zip(ratios, weights, strict=True)) == pytest.approx(
        len(lit(kernels) & window)
    )
