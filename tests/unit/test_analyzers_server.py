"""What the server's metrics say about a window."""

from __future__ import annotations

import pytest
from captures import CaptureBuilder

from analyzers.analysis import analyze
from analyzers.server import PREFILL, QUEUE, TTFT, ServerMetrics, measure_server
from analyzers.timeline import Timeline


def measured(made: CaptureBuilder) -> ServerMetrics:
    server = measure_server(Timeline(made.build()))
    assert server is not None
    return server


def test_means_are_of_what_was_observed_in_the_window() -> None:
    made = CaptureBuilder()
    process = made.process("api_server")
    made.histogram(process, 0, TTFT, total=100.0, count=50)
    made.histogram(process, 1000, TTFT, total=103.0, count=60)
    assert measured(made).mean(TTFT) == pytest.approx(0.3)
    assert measured(made).mean(QUEUE) is None
    assert measured(made).residual_seconds is None


def test_label_sets_add_up_and_a_new_one_began_at_zero() -> None:
    made = CaptureBuilder()
    process = made.process("api_server")
    for ms, value in ((0, 5.0), (1000, 7.0)):
        made.counter(process, ms, "vllm:prompt_tokens_total", value)
    made.counter(process, 1000, "vllm:prompt_tokens_total", 4.0, labels='engine="1"')
    assert measured(made).rise("vllm:prompt_tokens") == 6
    assert measured(made).rise("vllm:generation_tokens") is None


def test_a_total_that_fell_began_anew() -> None:
    made = CaptureBuilder()
    process = made.process("api_server")
    for ms, value in ((0, 50.0), (1000, 60.0), (2000, 3.0), (3000, 8.0)):
        made.counter(process, ms, "vllm:prompt_tokens_total", value)
    assert measured(made).rise("vllm:prompt_tokens") == 18
    assert measured(made).reset_count == 1


def test_gauges_add_up_over_engines_and_ratios_are_averaged() -> None:
    made = CaptureBuilder()
    process = made.process("api_server")
    for engine, running, usage in (("0", 4.0, 0.2), ("1", 6.0, 0.6)):
        labels = f'engine="{engine}"'
        for ms in (0, 1000):
            made.counter(process, ms, "vllm:num_requests_running", running + ms / 1000,
                         labels=labels, kind="level")  # fmt: skip
            made.counter(
                process, ms, "vllm:kv_cache_usage_perc", usage, labels=labels, kind="level"
            )
    levels = measured(made).levels
    assert levels["vllm:num_requests_running"].mean == 11
    assert levels["vllm:num_requests_running"].highest == 12
    assert levels["vllm:kv_cache_usage_perc"].mean == pytest.approx(0.4)
    assert levels["vllm:kv_cache_usage_perc"].highest == 0.6


def test_one_scrape_is_no_window() -> None:
    made = CaptureBuilder()
    made.histogram(made.process("api_server"), 0, TTFT, total=1.0, count=1)
    analysis = analyze(made.build())
    assert analysis.sections["server"] is None
    assert any(one.slug == "server" and one.abstained for one in analysis.findings)


def test_the_engine_s_own_parts_are_named_when_they_are_large() -> None:
    made = CaptureBuilder()
    process = made.process("api_server")
    for ms, count in ((0, 0), (5000, 100)):
        made.histogram(process, ms, TTFT, total=1.0 * count, count=count)
        made.histogram(process, ms, QUEUE, total=0.6 * count, count=count)
        made.histogram(process, ms, PREFILL, total=0.05 * count, count=count)
    findings = [one for one in analyze(made.build()).findings if not one.abstained]
    assert [one.slug for one in findings] == ["engine-queue"]
    assert findings[0].cost_seconds == pytest.approx(60)


def test_counters_of_the_host_alone_are_no_metrics_of_the_server() -> None:
    made = CaptureBuilder()
    for ms in (0, 1000):
        made.counter(made.process("api_server"), ms, "cpu_time", ms)
    made.probe("server_metrics", "not applicable", reason="the target is no inference server")
    (finding,) = (one for one in analyze(made.build()).findings if one.slug == "server")
    assert finding.abstained
    assert "no inference server" in str(finding.to_json())
