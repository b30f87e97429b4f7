"""The GPU sections of the document, the finding, and what other tools would say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from captures import SCHEDULE, CaptureBuilder

from analyzers.analysis import Analysis, analyze
from analyzers.findings import Finding
from collectors.schema import TABLES
from collectors.slices import MEMCPY, OP

KEYS = {
    "device", "name", "rank", "span_ns", "busy_ns", "idle_ns", "compute_ns", "communication_ns",
    "memcpy_ns", "kernel_count", "busy_ratio", "exposed_communication_ns", "exposed_memcpy_ns",
    "streams", "launch", "gaps", "kernels", "peers_differ",
}  # fmt: skip


@pytest.fixture
def made() -> CaptureBuilder:
    """A worker and one GPU; its thread was scheduling while the GPU was idle from 20 to 80 ms."""
    made = CaptureBuilder(seconds=0.1)
    process = made.process("worker")
    thread = made.thread(process, tid=1)
    stream = made.stream(made.device(1, name="MI300X", rank=3), process=process)
    for number, (call, start, end) in enumerate([(9, 10, 20), (78, 80, 90)], 1):
        made.call(thread, call, call + 1, correlation=number)
        made.slice(stream, start, end, "void lib::gemm<float>(int)", correlation=number)
    made.probe("stacks", "works", achieved_hz=100.0)
    for tick in range(0, 100, 10):
        made.run(thread, tick, tick + 10, SCHEDULE)
    return made


def gpu(analysis: Analysis) -> dict[str, Any]:
    (row,) = analysis.to_json()["gpu"]
    assert isinstance(row, dict)
    return row


def idle_finding(analysis: Analysis) -> Finding:
    (found,) = [one for one in analysis.findings if one.slug == "gpu-idle"]
    return found


def test_the_document_has_what_is_promised(made: CaptureBuilder) -> None:
    document = analyze(made.build()).to_json()

    json.dumps(document, allow_nan=False)
    (row,) = document["gpu"]
    assert row.keys() >= KEYS
    assert (row["device"], row["name"], row["rank"]) == (1, "MI300X", 3)
    assert (row["span_ns"], row["busy_ns"], row["idle_ns"]) == (80e6, 20e6, 60e6)
    assert document["gpu_split"]["rung"] == "kernel_trace"
    (kernel,) = row["kernels"]
    assert kernel["name"] == "gemm<float>"
    assert kernel["full_name"] == "void lib::gemm<float>(int)"
    assert (kernel["launch_count"], kernel["total_ns"]) == (2, 20e6)
    assert (kernel["mean_ns"], kernel["min_ns"], kernel["max_ns"]) == (10e6, 10e6, 10e6)
    assert kernel["busy_ratio"] == 1.0


@pytest.mark.parametrize("left_out", sorted(TABLES))
def test_any_table_may_be_missing(made: CaptureBuilder, left_out: str) -> None:
    capture = made.build()
    capture.tables[left_out] = TABLES[left_out].empty_table()

    json.dumps(analyze(capture).to_json(), allow_nan=False)


def test_gaps_stand_by_size_cause_and_place(made: CaptureBuilder) -> None:
    gaps = gpu(analyze(made.build()))["gaps"]

    assert {one["class"]: one["count"] for one in gaps["classes"]} == {
        "under_10us": 0, "10us_to_100us": 0, "100us_to_1ms": 0, "over_1ms": 1,
    }  # fmt: skip
    assert [(one["cause"], one["ns"]) for one in gaps["causes"]] == [
        ("python", 58e6), ("launch_call", 1e6), ("queued", 1e6),
    ]  # fmt: skip
    assert gaps["causes"][0]["stages"] == [{"stage": "schedule", "ns": 58_000_000}]
    assert gaps["explained_ratio"] == 1.0
    assert gaps["host_ns"] == 59e6
    (site,) = gaps["sites"]
    assert (site["stage"], site["function"]) == ("schedule", "Scheduler.schedule")
    (longest,) = gaps["longest"]
    assert (longest["start_ns"], longest["length_ns"]) == (made.at(20), 60e6)
    assert (longest["ended_by"], longest["launch_call"]) == ("gemm<float>", "hipLaunchKernel")
    assert longest["tid"] == 1
    assert gaps["looks"]["count"] == 6
    assert gaps["looks"]["seen"][0]["function"] == "Scheduler.schedule"


def test_a_notably_idle_gpu_is_a_finding_with_its_cause(made: CaptureBuilder) -> None:
    finding = idle_finding(analyze(made.build()))

    assert finding.quantity is not None
    assert finding.quantity.value == 0.75
    assert finding.cost_seconds == pytest.approx(0.059)
    assert "GPU 1 of rank 3 was idle 75%" in finding.statement
    assert "Scheduler.schedule (schedule)" in finding.statement
    assert finding.remedy is not None


def test_a_busy_gpu_is_no_finding() -> None:
    made = CaptureBuilder(seconds=0.1)
    stream = made.stream(made.device())
    made.slice(stream, 0, 50)
    made.slice(stream, 51, 100)

    analysis = analyze(made.build())

    assert gpu(analysis)["idle_ns"] == 1e6
    assert not [one for one in analysis.findings if one.slug == "gpu-idle"]


def test_slices_without_a_gpus_work_abstain() -> None:
    made = CaptureBuilder(seconds=0.1)
    thread = made.thread(made.process("worker"), tid=1)
    made.slice(thread, 0, 10, "aten::mm", kind=OP)

    analysis = analyze(made.build())

    assert analysis.to_json()["gpu"] == []
    finding = idle_finding(analysis)
    assert finding.abstained
    assert "no GPU's work" in finding.statement


def test_idle_time_that_is_not_trusted_is_abstained_from(made: CaptureBuilder) -> None:
    for call in (30, 40, 50):
        made.call(1, call, call + 1, "hipGraphLaunch", correlation=call)

    analysis = analyze(made.build())

    row = gpu(analysis)
    assert row["gaps"] is None
    assert "3 graph replays" in row["gaps_reason"]
    assert row["launch"]["graph"]["coverage_ratio"] == 0.0
    assert row["idle_ns"] == 60e6  # what the trace says; that it is idle is not claimed
    assert idle_finding(analysis).abstained


def test_two_gpus_of_the_same_number_stand_apart() -> None:
    made = CaptureBuilder(seconds=0.1)
    for pid, length in ((100, 10), (200, 20)):
        stream = made.stream(made.device(0), process=made.process("worker", pid=pid))
        made.slice(stream, 0, length)

    rows = analyze(made.build()).to_json()["gpu"]

    assert [(row["device"], row["busy_ns"]) for row in rows] == [(0, 10e6), (0, 20e6)]
    assert rows[0]["track"] != rows[1]["track"]


def test_tools_that_count_linked_work_only_are_named_with_their_figures(
    made: CaptureBuilder,
) -> None:
    made.slice(3, 30, 40, "ncclDevKernel_Generic(int)")

    row = gpu(analyze(made.build()))

    tracelens = next(one for one in row["other_definitions"] if one["tool"] == "TraceLens")
    assert (row["busy_ns"], tracelens["busy_ns"]) == (30e6, 20e6)
    assert tracelens["communication_ns"] == 0
    assert "linked to a call on the CPU, 66.7% here" in row["peers_differ"]


def test_rocms_copy_kernels_are_kernels_here_and_copies_elsewhere(made: CaptureBuilder) -> None:
    made.call(1, 91, 92, "hipMemcpyAsync", correlation=7)
    made.slice(3, 93, 95, "__amd_rocclr_copyBuffer", correlation=7)

    row = gpu(analyze(made.build()))

    tracelens = next(one for one in row["other_definitions"] if one["tool"] == "TraceLens")
    assert (row["compute_ns"], row["memcpy_ns"]) == (22e6, 0)
    assert (tracelens["compute_ns"], tracelens["memcpy_ns"]) == (20e6, 2e6)


def test_rounding_to_microseconds_is_reproduced() -> None:
    made = CaptureBuilder(seconds=0.1)
    stream = made.stream(made.device())
    made.slice(stream, 0.0001, 0.0109)  # 0.1 to 10.9 us: 1 to 10
    made.slice(stream, 0.0111, 0.0209, "Memcpy DtoH", kind=MEMCPY)  # 12 to 20

    (hta,) = gpu(analyze(made.build()))["other_definitions"]

    assert (hta["tool"], hta["span_ns"], hta["busy_ns"], hta["idle_ns"]) == (
        "HTA", 19_000, 17_000, 2_000,
    )  # fmt: skip


def test_where_nothing_differs_nothing_is_said(made: CaptureBuilder) -> None:
    assert gpu(analyze(made.build()))["peers_differ"] is None
