"""The whole analysis: the document, and captures that hold little or nothing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from captures import TOKENIZE, CaptureBuilder

from analyzers.analysis import ANALYZERS, analyze
from collectors.schema import TABLES


def test_an_empty_capture_is_all_abstentions() -> None:
    analysis = analyze(CaptureBuilder().build())
    assert {one.slug for one in analysis.findings} == {
        analyzer.name for analyzer in ANALYZERS if analyzer.tables
    }
    assert all(one.abstained for one in analysis.findings)
    assert analysis.sections["stages"] == []


@pytest.mark.parametrize("left_out", sorted(TABLES))
def test_any_table_may_be_missing(left_out: str) -> None:
    capture = full().build()
    capture.tables[left_out] = TABLES[left_out].empty_table()
    json.dumps(analyze(capture).to_json(), allow_nan=False)


def test_a_capture_with_one_look_of_each_kind_abstains() -> None:
    made = CaptureBuilder()
    process = made.process("api_server")
    thread = made.thread(process, tid=1)
    made.look(thread, 0, run=5)
    made.gil(process, 0, holder=thread)
    made.gil(process, 0, holder=thread)
    made.counter(process, 0, "vllm:num_requests_running", float("nan"), kind="level")
    made.counter(process, 1000, "vllm:num_requests_running", float("nan"), kind="level")
    made.run(thread, 0, 10, TOKENIZE)
    analysis = analyze(made.build())
    json.dumps(analysis.to_json(), allow_nan=False)
    assert all(one.abstained for one in analysis.findings)
    assert len(analysis.findings) == len([one for one in ANALYZERS if one.tables])


def full() -> CaptureBuilder:
    made = CaptureBuilder()
    process = made.process("api_server")
    thread = made.thread(process, tid=1)
    for ms in range(0, 1001, 50):
        made.look(thread, ms, run=ms / 2, wait=ms / 4, involuntary=ms)
        made.gil(process, ms, holder=thread)
        made.histogram(process, ms, "vllm:time_to_first_token_seconds", ms * 0.01, ms)
    made.run(thread, 0, 1000, TOKENIZE)
    made.gap("gil", 100, 200)
    return made


def test_the_document_has_what_is_promised() -> None:
    document = analyze(full().build()).to_json()
    json.dumps(document, allow_nan=False)
    assert document["schema_version"] == 1
    process = document["target"]["processes"][0]
    assert (process["pid"], process["role"]) == (100, "api_server")
    assert process["cpu_seconds"] == pytest.approx(0.5)
    assert document["stages"][0].items() >= {
        "role": "api_server", "stage": "tokenize", "share_ratio": pytest.approx(1.0),
    }.items()  # fmt: skip
    assert document["coverage"][0]["classified_ratio"] == 1.0
    assert document["gil"][0]["held_ratio"] == 1.0
    assert document["run_queue"][0]["wait_ratio"] == pytest.approx(0.25)
    assert document["run_queue"][0]["involuntary_count"] == 1000
    for finding in document["findings"]:
        assert finding.keys() >= {
            "slug", "statement", "quantity", "evidence", "caveats", "abstained",
        }  # fmt: skip


def test_an_unknown_count_is_null_not_zero() -> None:
    made = CaptureBuilder()
    process = made.process("worker")
    thread = made.thread(process, tid=1)
    made.process("engine_core", pid=101)
    for ms in (0, 100):
        made.look(thread, ms, run=ms)
    document = analyze(made.build()).to_json()
    assert document["run_queue"][0]["involuntary_count"] is None
    assert document["target"]["processes"][1]["cpu_seconds"] is None


def test_a_capture_that_was_cut_off_says_so() -> None:
    findings = analyze(full().build(is_recovered=True)).findings
    partial = next(one for one in findings if one.slug == "capture-partial")
    assert "killed" in partial.statement


def test_only_large_gaps_make_a_finding() -> None:
    made = full()
    assert not [one for one in analyze(made.build()).findings if one.slug == "capture-partial"]
    made.gap("gil", 150, 2000)
    partial = next(one for one in analyze(made.build()).findings if one.slug == "capture-partial")
    assert "gil probe did not see 1.9 s (19%)" in partial.statement


def test_threads_that_waited_for_a_cpu_make_a_finding() -> None:
    finding = next(one for one in analyze(full().build()).findings if one.slug == "run-queue-wait")
    assert finding.quantity is not None
    assert finding.quantity.value == pytest.approx(0.25)
    assert "api_server" in finding.statement


def test_importing_analyzers_pulls_in_no_plotting_or_web_library() -> None:
    code = "import sys, analyzers.analysis; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"matplotlib", "pandas", "httpx", "requests", "rich", "click", "probes"}
