"""A run in numbers, from rows whose numbers are known."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from rich.console import Console

from collectors.schema import REQUESTS, WARM_UP
from profiler.load.answer import Answer, to_batch
from profiler.load.failures import Failure, http_failure
from profiler.load.meter import ClientLoad
from profiler.load.results import Results
from profiler.load.scenario import Scenario
from profiler.load.summary import summarize
from profiler.load.tables import print_matrix, print_run

MS = 1_000_000
START_NS = 10**15
CLIENT = ClientLoad(10.0, 0.2, 0.3, 0.01, 50_000, 900_000, 2 * MS)
CLOSED = Scenario("closed", users=4, prompt_tokens=100, requests=10)
OPEN = Scenario("open", rate_hz=10.0, prompt_tokens=100, requests=10)


def answer(number: int, *, due_ms: int = 0, late_ms: int = 0, **fields: object) -> Answer:
    """An answer of 5 tokens: headers after 10 ms, then a token every 20 ms."""
    due_ns = START_NS + due_ms * MS
    tokens = [due_ns + (30 + 20 * token) * MS for token in range(5)]
    row = Answer(
        request=f"run-{number}",
        scenario="closed",
        time_ns=due_ns,
        prompt_tokens=100,
        output_tokens=5,
        begun_ns=due_ns + late_ms * MS,
        headers_ns=due_ns + 10 * MS,
        done_ns=due_ns + 120 * MS,
        token_ns=tokens,
    )
    return replace(row, **fields)  # type: ignore[arg-type]


def results(answers: list[Answer], scenario: Scenario = CLOSED, **fields: object) -> Results:
    rows = pa.Table.from_batches([to_batch(answers)], schema=REQUESTS)
    found = Results(scenario, "http://x", "tiny", rows, CLIENT, {}, True, Path("nowhere"))
    return replace(found, **fields)  # type: ignore[arg-type]


def test_latencies_count_from_when_a_request_was_due():
    latency = summarize(results([answer(1), answer(2, due_ms=500, late_ms=5)]))["latency"]

    assert latency["headers"]["p50_seconds"] == pytest.approx(0.010)
    assert latency["first_token"]["mean_seconds"] == pytest.approx(0.030)
    assert latency["end_to_end"]["max_seconds"] == pytest.approx(0.120)
    assert latency["inter_token"]["count"] == 8
    assert latency["inter_token"]["p99_seconds"] == pytest.approx(0.020)
    assert latency["per_output_token"]["p90_seconds"] == pytest.approx(0.020)


def test_time_per_token_counts_the_servers_tokens_and_events_only_without():
    # Given three events that hold nine tokens by the server's count, and by nobody's
    times = [START_NS, START_NS + 40 * MS, START_NS + 80 * MS]
    counted = summarize(results([answer(1, token_ns=times, output_tokens=9)]))
    uncounted = summarize(results([answer(1, token_ns=times, output_tokens=None)]))

    def per_token(summary):
        return summary["latency"]["per_output_token"]["mean_seconds"]

    assert per_token(counted) == pytest.approx(0.010)
    assert per_token(uncounted) == pytest.approx(0.040)


def test_throughput_is_over_the_time_from_the_first_due_to_the_last_end():
    throughput = summarize(results([answer(1), answer(2, due_ms=880)]))["throughput"]

    assert throughput["window_seconds"] == pytest.approx(1.0)
    assert throughput["requests_per_second"] == pytest.approx(2.0)
    assert throughput["prompt_tokens_per_second"] == pytest.approx(200.0)
    assert throughput["output_tokens_per_second"] == pytest.approx(10.0)


def test_an_unknown_token_count_makes_the_rate_unknown_and_not_lower():
    throughput = summarize(results([answer(1), answer(2, output_tokens=None)]))["throughput"]

    assert throughput["output_tokens_per_second"] is None
    assert throughput["prompt_tokens_per_second"] is not None


def test_failures_are_counted_by_kind_and_kept_out_of_the_latencies():
    late = {"done_ns": None, "token_ns": [], "headers_ns": None}
    rows = [
        answer(1),
        answer(2, status=http_failure(500), **late),
        answer(3, status=http_failure(500), **late),
        answer(4, status=Failure.TIMEOUT, **late),
        answer(5, status=Failure.INTERRUPTED, **late),
        answer(6, scenario=WARM_UP),
    ]

    summary = summarize(results(rows, details={"http-500": "out of order"}, is_whole=False))

    assert summary["failures"] == {"http-500": 2, "timeout": 1}
    assert summary["failure_details"]["http-500"] == "out of order"
    assert summary["requests"] == {
        "begun_count": 5,
        "ok_count": 1,
        "failed_count": 3,
        "interrupted_count": 1,
        "warm_up_count": 1,
    }
    assert summary["latency"]["headers"]["count"] == 1
    assert any("stopped" in warning for warning in summary["warnings"])


def test_a_run_in_which_nothing_was_answered_knows_no_latency():
    nothing = {"status": Failure.REFUSED, "headers_ns": None, "done_ns": None, "token_ns": []}
    summary = summarize(results([answer(1, **nothing)]))

    assert set(summary["latency"].values()) == {None}
    assert summary["throughput"]["requests_per_second"] is None
    json.dumps(summary, allow_nan=False)


def test_an_empty_run_can_be_summed_up():
    summary = summarize(results([], client=None))

    assert summary["requests"]["begun_count"] == 0
    assert summary["client"] is None
    json.dumps(summary, allow_nan=False)


def test_prompts_of_another_size_are_told():
    rows = [answer(1), answer(2, prompt_tokens=101), answer(3, prompt_tokens=None)]

    assert summarize(results(rows))["prompt_tokens"] == {
        "asked": 100,
        "counted_count": 2,
        "exact_count": 1,
    }


def test_lag_is_known_where_requests_are_due():
    rows = [answer(number, late_ms=number) for number in range(1, 4)]

    assert summarize(results(rows))["lag_seconds"] is None
    lag = summarize(results(rows, OPEN))["lag_seconds"]
    assert lag["p50"] == pytest.approx(0.002)
    assert lag["max"] == pytest.approx(0.003)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"cpu_ratio": 0.85}, "limit"),
        ({"cpu_peak_ratio": 0.95}, "limit"),
        ({"loop_lag_p99_ns": 6 * MS}, "late"),
        ({"run_queue_wait_ratio": 0.2}, "CPU"),
    ],
)
def test_a_client_that_is_the_limit_says_so(change, word):
    quiet = summarize(results([answer(1)]))["warnings"]
    warned = summarize(results([answer(1)], client=replace(CLIENT, **change)))["warnings"]

    assert quiet == []
    assert len(warned) == 1
    assert word in warned[0]


def test_late_requests_are_warned_of():
    warnings = summarize(results([answer(1, late_ms=9)], OPEN))["warnings"]

    assert any("9.0 ms late" in warning for warning in warnings)


def test_gaps_between_tokens_have_no_interval_for_they_depend_on_each_other():
    latency = summarize(results([answer(number) for number in range(50)]))["latency"]

    assert latency["end_to_end"]["p50_low_seconds"] is not None
    assert latency["inter_token"]["p50_low_seconds"] is None
    assert latency["inter_token"]["mean_high_seconds"] is None


def printed(show, *arguments) -> str:
    out = Console(width=100, record=True, file=io.StringIO())
    show(out, *arguments)
    return out.export_text()


def test_a_run_is_printed_with_what_failed_and_what_it_cost():
    failed = answer(2, status=http_failure(500), token_ns=[], done_ns=None)
    details = {"http-500": "out of order\n[red]" * 9}

    shown = printed(print_run, summarize(results([answer(1), failed], details=details)))

    assert "1 answered, 1 failed" in shown
    assert "1 x http-500 out of order" in shown
    assert "30.0 ms" in shown
    assert "20% of a core" in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_the_largest_row_of_the_study_fits_into_100_columns():
    large = Scenario("conc32_100k", users=32, prompt_tokens=100_000, batches=2)
    slow = {"headers_ns": START_NS + 123_456 * MS, "done_ns": START_NS + 999_999 * MS}
    rows = [answer(number, **slow) for number in range(96)]

    shown = printed(print_matrix, [summarize(results(rows, large)), summarize(results([]))])

    assert "…" not in shown
    assert "123.46 s" in shown
    assert max(map(len, shown.splitlines())) <= 100
    assert len(shown.splitlines()) == 4
