"""What is said of a GPU that had work."""

from __future__ import annotations

from typing import Any

import pytest

from analyzers.gpu.busy_findings import BUSY, COMMUNICATION, busy_findings

MS = 1_000_000


def gpu(
    *, busy_ms: float, exposed_ms: float = 0.0, communication_ms: float = 0.0
) -> dict[str, Any]:
    kernel = {"name": "gemm", "busy_ratio": 0.5, "launch_count": 12, "mean_ns": 2_500.0}
    return {
        "device": 3,
        "rank": 1,
        "span_ns": 100 * MS,
        "busy_ns": round(busy_ms * MS),
        "busy_ratio": busy_ms / 100,
        "compute_ns": round((busy_ms - exposed_ms) * MS),
        "communication_ns": round(communication_ms * MS),
        "exposed_communication_ns": round(exposed_ms * MS),
        "kernels": [kernel],
        "communication_kernels": [{**kernel, "name": "ncclDevKernel_AllReduce"}],
    }


def test_a_gpu_with_gaps_has_no_say_here():
    assert busy_findings(gpu(busy_ms=94.9)) == []


def test_a_busy_gpu_is_told_with_its_first_kernel():
    (finding,) = busy_findings(gpu(busy_ms=99.0))

    assert finding.slug == BUSY
    assert finding.statement.startswith("GPU 3 of rank 1 was busy 99.0% of 100.0 ms")
    assert "50% of that in gemm (12 launches, 2.5 us each)" in finding.statement


@pytest.mark.parametrize(("exposed_ms", "is_told"), [(9.9, False), (10.0, True)])
def test_communication_that_nothing_hides_is_told(exposed_ms, is_told):
    found = busy_findings(gpu(busy_ms=50.0, exposed_ms=exposed_ms, communication_ms=40.0))

    assert [one.slug for one in found] == [COMMUNICATION] * is_told


def test_it_says_how_much_was_hidden():
    (finding,) = busy_findings(gpu(busy_ms=50.0, exposed_ms=30.0, communication_ms=40.0))

    assert "communicate for 30% of 100.0 ms" in finding.statement
    assert "25% of its communication was hidden" in finding.statement
