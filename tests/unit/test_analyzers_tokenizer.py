"""The tokenizer convoy: found where it is, and not where it is not."""

from __future__ import annotations

import pytest
from captures import DETOKENIZE, LOOP_IDLE, POOL_IDLE, TOKENIZE, CaptureBuilder

from analyzers.analysis import Analysis, analyze
from analyzers.findings import Finding
from analyzers.server import E2E, PREFILL, QUEUE, TTFT


def bursts(
    *, size: int, service_ms: float, every_ms: int = 1000, seconds: int = 10, ttft: float,
    queue: float = 0.00003, prefill: float = 0.010, engine_ms: float = 20.0,
    finishes: bool = True,
) -> CaptureBuilder:  # fmt: skip
    """A server that gets ``size`` prompts at once, again and again, with one tokenizer thread."""
    made = CaptureBuilder(seconds=seconds)
    process = made.process("api_server", pid=4321)
    loop = made.thread(process, tid=1, name="MainThread")
    pool = made.thread(process, tid=2, name="ThreadPoolExecutor-0_0")
    busy_ms = size * service_ms
    for ms in range(0, seconds * 1000 + 1, 50):
        burst, into = divmod(ms, every_ms)
        run = burst * busy_ms + min(into, busy_ms)
        made.look(pool, ms, run=run * 0.9, wait=run * 0.1)
        made.look(loop, ms, run=ms * engine_ms / 1000)
    for burst in range(seconds * 1000 // every_ms):
        begin = burst * every_ms
        made.run(pool, begin, begin + busy_ms, TOKENIZE)
        made.run(pool, begin + busy_ms, begin + every_ms, POOL_IDLE)
        made.run(loop, begin, begin + every_ms / 2, DETOKENIZE)
        made.run(loop, begin + every_ms / 2, begin + every_ms, LOOP_IDLE)
    for ms in range(0, seconds * 1000 + 1, 1000):
        count = size * (ms // every_ms)
        made.histogram(process, ms, TTFT, ttft * count, count)
        if not finishes:
            continue
        made.histogram(process, ms, QUEUE, queue * count, count)
        made.histogram(process, ms, PREFILL, prefill * count, count)
        made.histogram(process, ms, E2E, 2 * ttft * count, count)
    return made


def convoy(analysis: Analysis) -> Finding | None:
    return next(
        (one for one in analysis.findings if one.slug == "tokenizer-convoy" and not one.abstained),
        None,
    )


def test_a_burst_behind_one_tokenizer_thread_is_the_first_finding() -> None:
    # The measured case: 32 prompts of 17 ms, FIFO: mean (N + 1) / 2 x s = 280 ms and the way.
    analysis = analyze(bursts(size=32, service_ms=17, ttft=0.356).build())
    first = analysis.findings[0]
    assert first.slug == "tokenizer-convoy"
    assert "API server (PID 4321)" in first.statement
    assert "queue wait is 0.03 ms" in first.statement
    assert "17 ms each (1.7 ms of it waiting for a CPU)" in first.statement
    tokenizer = analysis.sections["tokenizer"]
    assert tokenizer["service_seconds_per_request"] == pytest.approx(0.017, rel=0.03)
    assert tokenizer["thread_utilisation_ratio"] == pytest.approx(0.544, rel=0.03)
    assert tokenizer["busy_stretch_seconds"] == pytest.approx(0.544, rel=0.03)
    assert tokenizer["requests_in_front_count"] == pytest.approx(32 * 0.346, rel=0.03)
    assert first.quantity is not None
    assert first.quantity.value == pytest.approx(0.280, rel=0.03)
    assert first.quantity.high == pytest.approx(0.346, rel=0.03)  # no more than was there
    assert tokenizer["unattributed_seconds"] == pytest.approx(0.066, rel=0.1)


def test_prompts_released_together_wait_for_the_whole_batch() -> None:
    made = bursts(size=32, service_ms=15.6, ttft=0.417)
    made.run(2, 9_900, 9_901, [*LOOP_IDLE, ("AsyncMicrobatchTokenizer._batch_encode_loop", "x.py")])
    found = convoy(analyze(made.build()))
    assert found is not None
    assert found.quantity is not None
    assert found.quantity.value == pytest.approx(0.407, rel=0.01)


def test_a_tokenizer_that_never_rests_explains_all_that_stands_in_front_of_it() -> None:
    analysis = analyze(bursts(size=58, service_ms=1000 / 58, ttft=0.5).build())
    tokenizer = analysis.sections["tokenizer"]
    assert analysis.findings[0].slug == "tokenizer-convoy"
    assert tokenizer["thread_utilisation_ratio"] == pytest.approx(1.0, rel=0.01)
    assert tokenizer["unattributed_seconds"] == pytest.approx(0.0, abs=0.005)
    assert tokenizer["predicted_steady_seconds"] == pytest.approx(0.49, rel=0.02)


def test_a_residual_longer_than_the_busy_stretches_is_not_the_tokenizer_s() -> None:
    # 4 prompts of 10 ms keep the thread busy for 40 ms; requests spent 400 ms in front.
    analysis = analyze(bursts(size=4, service_ms=10, ttft=0.41).build())
    assert convoy(analysis) is None
    assert analysis.findings[0].slug == "ttft-unattributed"
    assert analysis.findings[0].quantity is not None
    assert analysis.findings[0].quantity.value >= 0.35


def test_one_request_at_a_time_is_no_line() -> None:
    analysis = analyze(bursts(size=1, service_ms=17, ttft=0.034, prefill=0.010).build())
    assert convoy(analysis) is None
    assert analysis.sections["tokenizer"]["is_convoy"] is False


def test_the_engine_stands_first_when_it_costs_more() -> None:
    analysis = analyze(bursts(size=32, service_ms=17, ttft=2.346, prefill=2.0).build())
    slugs = [one.slug for one in analysis.findings if not one.abstained]
    assert slugs[:2] == ["engine-prefill", "tokenizer-convoy"]


def test_without_metrics_the_cost_is_known_and_the_line_is_not() -> None:
    made = CaptureBuilder()
    process = made.process("api_server")
    thread = made.thread(process, tid=1)
    made.look(thread, 0, run=0)
    made.look(thread, 1000, run=500)
    made.run(thread, 0, 1000, TOKENIZE)
    made.probe("server_metrics", "unavailable", reason="no port", remedy="--metrics-url")
    analysis = analyze(made.build())
    assert analysis.sections["tokenizer"]["tokenize_cpu_seconds"] == pytest.approx(0.5)
    assert analysis.sections["tokenizer"]["service_seconds_per_request"] is None
    abstained = next(one for one in analysis.findings if one.slug == "tokenizer-convoy")
    assert abstained.abstained
    assert "no port" in abstained.statement


def test_requests_that_never_finished_leave_the_line_unknown() -> None:
    made = bursts(size=32, service_ms=17, ttft=0.356, finishes=False)
    analysis = analyze(made.build())
    abstained = next(one for one in analysis.findings if one.slug == "tokenizer-convoy")
    assert abstained.abstained
    assert "0 finished" in abstained.statement


def test_a_plain_program_has_no_requests_to_tokenize() -> None:
    made = CaptureBuilder(kind="python")
    thread = made.thread(made.process("python"), tid=1)
    made.look(thread, 0, run=0)
    made.look(thread, 1000, run=500)
    made.run(thread, 0, 1000, TOKENIZE)
    abstained = next(
        one for one in analyze(made.build()).findings if one.slug == "tokenizer-convoy"
    )
    assert abstained.abstained
    assert "no API server" in abstained.statement
