"""``cputax import`` and ``cputax analyze FILE``, as a user runs them on another tool's trace."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tests.commands import run_cputax, said_error

BASE_NS = 1_767_189_312_000_000_000


def kernel(name: str, start_us: float, duration_us: float, **arguments: Any) -> dict[str, Any]:
    own = {"device": 2, "stream": 7, "correlation": 11} | arguments
    times = {"ts": start_us, "dur": duration_us}
    return {"ph": "X", "cat": "kernel", "name": name, "pid": 2, "tid": 7, "args": own, **times}


def torch_trace(path: Path, *events: dict[str, Any]) -> Path:
    document = {"schemaVersion": 1, "traceEvents": events, "baseTimeNanoseconds": BASE_NS}
    path.write_bytes(gzip.compress(json.dumps(document).encode()))
    return path


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    launch = {
        "ph": "X", "cat": "cuda_runtime", "name": "hipLaunchKernel", "pid": 50, "tid": 51,
        "ts": 90.0, "dur": 5.0, "args": {"correlation": 11},
    }  # fmt: skip
    return torch_trace(
        tmp_path / "rank0.pt.trace.json.gz",
        launch,
        kernel("gemm", 100.0, 40.0),
        kernel("ncclDevKernel_AllReduce", 130.0, 30.5, stream=8),
        kernel("norm", 200.25, 9.75),
    )


def gpu_of(*arguments: object) -> list[dict[str, Any]]:
    ended = run_cputax("analyze", *arguments, "--json")
    assert ended.returncode == 0, ended.stderr
    gpu: list[dict[str, Any]] = json.loads(ended.stdout)["gpu"]
    return gpu


def test_a_trace_file_is_analyzed_as_it_is(trace):
    (device,) = gpu_of(trace)

    figures = {
        "device": 2,
        "span_ns": 110_000,
        "busy_ns": 70_250,
        "idle_ns": 39_750,
        "compute_ns": 49_750,
        "communication_ns": 30_500,
        "memcpy_ns": 0,
        "kernel_count": 3,
    }
    assert {key: device[key] for key in figures} == figures


def test_an_import_says_the_same_as_its_file(trace, tmp_path):
    ended = run_cputax("import", trace, "-o", tmp_path / "it.capture")

    assert ended.returncode == 0, ended.stderr
    assert "4 slices" in ended.stdout
    assert gpu_of(tmp_path / "it.capture") == gpu_of(trace)


def test_ranks_keep_their_gpus_apart(trace, tmp_path):
    other = torch_trace(tmp_path / "rank1.pt.trace.json.gz", kernel("gemm", 100.0, 10.0))

    gpus = gpu_of(trace, other)

    assert [one["busy_ns"] for one in gpus] == [70_250, 10_000]


def test_tables_of_an_import_fit_the_terminal(trace):
    ended = run_cputax("analyze", trace)

    assert ended.returncode == 0, ended.stderr
    assert "imported rank0.pt.trace.json.gz" in ended.stdout
    assert max(map(len, ended.stdout.splitlines())) <= 100


def test_a_file_of_no_known_format(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("hello\n\0")

    ended = run_cputax("analyze", path)

    error = said_error(ended.stderr)
    assert ended.returncode == 5
    assert error["slug"] == "import-invalid"
    assert "notes.txt" in error["message"]


def test_a_file_that_is_cut_off(trace, tmp_path):
    cut = tmp_path / "cut.json"
    cut.write_bytes(gzip.decompress(trace.read_bytes())[:-150])

    ended = run_cputax("import", cut, "-o", tmp_path / "it.capture")

    assert ended.returncode == 5
    assert said_error(ended.stderr)["slug"] == "import-invalid"
    assert not (tmp_path / "it.capture").exists()


def test_formats_do_not_mix(trace, tmp_path):
    stacks = tmp_path / "stacks.txt"
    stacks.write_text("main (a.py:1);work (a.py:2) 12\n")

    ended = run_cputax("import", trace, stacks, "-o", tmp_path / "it.capture")

    assert ended.returncode == 5
    assert "several formats" in said_error(ended.stderr)["message"]


def test_an_import_overwrites_nothing(trace, tmp_path):
    ended = run_cputax("import", trace, "-o", tmp_path)

    assert ended.returncode == 2
    assert said_error(ended.stderr)["slug"] == "output-exists"


def test_a_trace_without_gpu_work_says_so(tmp_path):
    operator = {
        "ph": "X", "cat": "cpu_op", "name": "aten::mm", "pid": 50, "tid": 51, "ts": 1.0, "dur": 5.0,
    }  # fmt: skip
    path = torch_trace(tmp_path / "cpu.json.gz", operator)

    ended = run_cputax("analyze", path, "--json")

    document = json.loads(ended.stdout)
    assert document["gpu"] == []
    reasons = [one["reason"] for one in document["findings"] if one["abstained"]]
    assert any("GPU" in reason for reason in reasons)
