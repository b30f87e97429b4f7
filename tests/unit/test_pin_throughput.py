"""Windows between two looks at a server's counters, and results made of windows."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import pytest

from profiler.pin.throughput import THROUGHPUT, Look, MetricsLost, Window, look, window_of
from profiler.pin.trial import Result, StopReason
from profiler.pin.trial_tables import masks, verdict

PAGE = """\
# TYPE vllm:generation_tokens counter
vllm:generation_tokens_total{engine="0"} 1000.0
vllm:generation_tokens_total{engine="1"} 500.0
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0"} 3.0
"""


class Handler(http.server.BaseHTTPRequestHandler):
    answers: dict[str, tuple[int, str]]

    def do_GET(self) -> None:
        status, body = self.answers[self.path]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    Handler.answers = {"/metrics": (200, PAGE)}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def at(second: float, **values: float) -> Look:
    return Look(round(second * 1e9), {f"vllm:{name}": value for name, value in values.items()})


def test_a_look_adds_up_what_several_engines_say(url):
    seen = look(url)
    assert seen.values["vllm:generation_tokens_total"] == 1500.0


def test_a_page_that_is_gone_is_an_error_that_says_so(url):
    Handler.answers = {"/metrics": (503, "")}
    with pytest.raises(MetricsLost, match="503"):
        look(url)


def test_a_server_that_is_gone_is_an_error_that_says_so():
    with pytest.raises(MetricsLost, match="ConnectionRefusedError"):
        look("http://127.0.0.1:1")


def test_rates_are_per_second_and_latencies_means_of_what_the_window_saw():
    before = at(
        1.0, generation_tokens_total=100, prompt_tokens_total=0, request_success_total=5,
        time_to_first_token_seconds_sum=10, time_to_first_token_seconds_count=5,
        e2e_request_latency_seconds_sum=0, e2e_request_latency_seconds_count=0,
        num_requests_running=4, num_requests_waiting=2,
    )  # fmt: skip
    after = at(
        3.0, generation_tokens_total=300, prompt_tokens_total=5000, request_success_total=7,
        time_to_first_token_seconds_sum=11, time_to_first_token_seconds_count=7,
        e2e_request_latency_seconds_sum=0, e2e_request_latency_seconds_count=0,
        num_requests_running=6, num_requests_waiting=0,
    )  # fmt: skip

    window = window_of(3, True, before, after)

    assert (window.index, window.is_pinned, window.seconds) == (3, True, 2.0)
    assert window.values == {
        "output tokens": 100.0,
        "prompt tokens": 2500.0,
        "requests": 1.0,
        "mean TTFT": 0.5,
        "mean latency": None,  # nothing was finished
    }
    assert window.request_count == 6
    assert window.has_load


def test_what_the_server_does_not_count_is_unknown_and_not_zero():
    window = window_of(0, False, at(0.0), at(1.0))
    assert set(window.values.values()) == {None}
    assert window.request_count is None
    assert not window.has_load


def test_counters_that_fell_belong_to_another_server():
    window = window_of(
        0, False, at(0.0, generation_tokens_total=9), at(1.0, generation_tokens_total=1)
    )
    assert window.values[THROUGHPUT.name] is None


def made(rates: list[float], order: list[bool]) -> Result:
    """Make a result of windows with these rates of output tokens."""
    windows = [
        Window(index, is_pinned, 1.0, {THROUGHPUT.name: rate, "mean TTFT": None}, None)
        for index, (rate, is_pinned) in enumerate(zip(rates, order, strict=True))
    ]
    return Result(windows)


def test_pairs_stand_side_by_side_whichever_came_first():
    result = made([100, 110, 220, 200], [False, True, True, False])
    assert [(one.values[THROUGHPUT.name], two.values[THROUGHPUT.name]) for one, two in result.pairs]
    gain = result.throughput
    assert gain is not None
    assert gain.ratio == pytest.approx(1.1)
    assert gain.pair_count == 2


def test_a_pair_with_a_pause_in_the_load_does_not_count():
    result = made([100, 0, 100, 110], [False, True, False, True])
    assert result.throughput is not None
    assert result.throughput.pair_count == 1


def test_a_window_without_its_partner_does_not_count():
    assert made([100, 110, 100], [False, True, False]).pairs[-1][1].index == 1


def test_a_load_that_went_away_cannot_be_told():
    assert made([0, 0], [False, True]).throughput is None
    assert verdict(made([0, 0], [False, True])).startswith("Cannot be told")


@pytest.mark.parametrize(("ratio", "begins"), [(1.2, "A gain"), (0.8, "A loss"), (1.0, "No gain")])
def test_the_verdict_is_a_sentence(ratio, begins):
    noise = [1.0, 1.005, 0.995, 1.0, 1.002, 0.998]
    rates = [rate for one in noise for rate in (100.0, 100.0 * ratio * one)]
    assert verdict(made(rates, [False, True] * 6)).startswith(begins)


@pytest.mark.parametrize(("spread", "remedy"), [(0.05, "--windows"), (0.3, "steadier")])
def test_what_cannot_be_told_says_what_would_help(spread, remedy):
    noise = [1 + spread, 1 - spread] * 3
    rates = [rate for one in noise for rate in (100.0, 100.0 * one)]
    said = verdict(made(rates, [False, True] * 6))
    assert "Cannot be told at this load" in said
    assert remedy in said


def test_masks_that_are_not_as_before_are_named():
    result = Result([], thread_count=12, process_count=2)
    assert masks(result) == "Masks: all as before (12 threads of 2 processes)."
    result.newborn = [(7, 1), (7, 2), (7, 3)]
    assert "3 born meanwhile" in masks(result)
    result.foreign = [(7, 70 + index) for index in range(10)]
    assert "as before but for those below" in masks(result)
    assert "7/70" in masks(result)
    assert "2 more" in masks(result)
    result.stop_reason = StopReason.TARGET_EXITED
    assert "exited" in masks(result)
