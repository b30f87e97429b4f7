"""The server's own figures, from a page that may be anything."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collectors.capture import open_capture
from probes import server_metrics
from probes.base import Context, Level
from probes.governor import WakeGovernor
from probes.server_metrics import ServerMetricsProbe, fetch, parse_metrics, server_urls
from probes.target import find_target
from tests.fakeproc import PYTHON, FakeProc
from tests.recordings import PID, make_recorder

PAGE = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0"} %(running)d
vllm:num_requests_running{engine="1"} 1
# TYPE vllm:prefix_cache_hits_total counter
vllm:prefix_cache_hits_total{engine="0"} %(hits)d
vllm:prefix_cache_hits_created{engine="0"} 1.7e9
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0"} 0.25
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.1"} 3
vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf"} 4
vllm:time_to_first_token_seconds_count{engine="0"} 4
vllm:time_to_first_token_seconds_sum{engine="0"} %(ttft)f
# TYPE vllm:nobody_asked_for_this gauge
vllm:nobody_asked_for_this 1
# TYPE python_gc_objects_collected_total counter
python_gc_objects_collected_total 5
"""

Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


def say(status: int, body: str | bytes) -> Answer:
    data = body.encode() if isinstance(body, str) else body

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.end_headers()
        handler.wfile.write(data)

    return answer


@dataclass
class FakeServer:
    """Gives the answers in turn, and the last one for ever."""

    url: str = ""
    answers: list[Answer] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)

    def say_slowly(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        """One byte now and then, until the test is over."""
        handler.send_response(200)
        handler.end_headers()
        while not self.closing.wait(0.02):
            handler.wfile.write(b"#")

    def say_nothing(self, _handler: http.server.BaseHTTPRequestHandler) -> None:
        self.closing.wait(60)


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    fake = FakeServer()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            fake.asked.append(self.path)
            answer = fake.answers.pop(0) if len(fake.answers) > 1 else fake.answers[0]
            with contextlib.suppress(ConnectionError):  # the probe has heard enough
                answer(self)

        def log_message(self, *_arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_port}"
    yield fake
    fake.closing.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def a_target(tmp_path):
    proc = FakeProc(tmp_path / "proc")
    return find_target(proc.add(PID, [PYTHON, "/usr/bin/vllm", "serve", "m"]), proc.procfs)


def scrape(fake: FakeServer, target, tmp_path, *, times: int = 1):
    """Let the probe scrape so often, without its thread; return the capture."""
    recorder = make_recorder(tmp_path / "c")
    probe = ServerMetricsProbe(fake.url)
    probe._context = Context(target, recorder, keeper=None, tracks={PID: 0})  # type: ignore[arg-type]
    for _ in range(times):
        probe._scrape()
    recorder.close()
    return probe, open_capture(recorder.directory)


def test_levels_and_totals_are_told_apart_and_have_units(fake, a_target, tmp_path):
    fake.answers = [say(200, PAGE % {"running": 2, "hits": 3, "ttft": 1.5})]

    _, capture = scrape(fake, a_target, tmp_path)

    types = {
        (row["name"], row["labels"]): (row["kind"], row["unit"])
        for row in capture.table("counter_types").to_pylist()
    }
    assert types == {
        ("vllm:num_requests_running", 'engine="0"'): ("level", "requests"),
        ("vllm:num_requests_running", 'engine="1"'): ("level", "requests"),
        ("vllm:prefix_cache_hits_total", 'engine="0"'): ("total", "tokens"),
        ("vllm:kv_cache_usage_perc", 'engine="0"'): ("level", "ratio"),
        ("vllm:time_to_first_token_seconds_count", 'engine="0"'): ("total", "requests"),
        ("vllm:time_to_first_token_seconds_sum", 'engine="0"'): ("total", "s"),
    }


def test_two_scrapes_give_the_difference(fake, a_target, tmp_path):
    fake.answers = [
        say(200, PAGE % {"running": 2, "hits": 3, "ttft": 1.5}),
        say(200, PAGE % {"running": 1, "hits": 10, "ttft": 4.0}),
    ]

    probe, capture = scrape(fake, a_target, tmp_path, times=2)

    names = {
        row["counter"]: row["name"] + row["labels"]
        for row in capture.table("counter_types").to_pylist()
    }
    values: dict[str, list[float]] = {}
    for row in capture.table("counters").to_pylist():
        values.setdefault(names[row["counter"]], []).append(row["value"])
        assert row["track"] == 0
    assert values['vllm:prefix_cache_hits_totalengine="0"'] == [3, 10]
    assert values['vllm:time_to_first_token_seconds_sumengine="0"'] == [1.5, 4.0]
    assert values['vllm:num_requests_runningengine="0"'] == [2, 1]
    assert probe.latest["vllm:num_requests_running"] == 2, "summed over the engines"
    times_ns = capture.table("counters")["time_ns"].to_pylist()
    assert times_ns == sorted(times_ns)
    assert len(set(times_ns)) == 2


@pytest.mark.parametrize(
    "answer",
    [
        say(404, "nothing here"),
        say(500, PAGE),
        say(200, "vllm:num_requests_running{ this is no metric\n"),
        say(200, 'vllm:num_requests_running{a="b"} not-a-number\n'),
    ],
    ids=["404", "500", "torn", "no number"],
)
def test_an_answer_without_figures_is_a_gap(fake, a_target, tmp_path, answer):
    fake.answers = [answer]

    _, capture = scrape(fake, a_target, tmp_path)

    assert capture.table("counters").num_rows == 0
    gaps = [g for g in capture.table("gaps").to_pylist() if g["probe"] == "server_metrics"]
    assert len(gaps) == 1
    assert gaps[0]["end_ns"] > gaps[0]["start_ns"]
    assert "no metrics" in gaps[0]["reason"]


def test_a_page_of_something_else_gives_no_rows(fake, a_target, tmp_path):
    fake.answers = [say(200, b"\xff\x00<html>" * 1000)]

    assert scrape(fake, a_target, tmp_path)[1].table("counters").num_rows == 0


@pytest.mark.parametrize("how", ["say_slowly", "say_nothing"])
def test_a_slow_server_is_a_gap_not_a_hang(fake, a_target, tmp_path, monkeypatch, how):
    monkeypatch.setattr(server_metrics, "TIMEOUT_S", 0.2)
    fake.answers = [getattr(fake, how)]

    _, capture = scrape(fake, a_target, tmp_path)

    reasons = [row["reason"] for row in capture.table("gaps").to_pylist()]
    assert any("TimeoutError" in reason for reason in reasons)


def test_a_page_without_end_is_not_read_to_its_end(fake, monkeypatch):
    monkeypatch.setattr(server_metrics, "MAX_PAGE_BYTES", 100_000)
    fake.answers = [say(200, b"#" * 300_000)]

    with pytest.raises(http.client.HTTPException, match="too long"):
        fetch(fake.url, "/metrics", 20.0)


def test_a_server_with_vllms_names_works(fake, a_target):
    fake.answers = [say(200, PAGE % {"running": 2, "hits": 3, "ttft": 1.5})]

    assert ServerMetricsProbe(fake.url).check(a_target).level is Level.WORKS
    assert fake.asked == ["/metrics"]


@pytest.mark.parametrize("answer", [say(404, ""), say(200, "python_info 1")], ids=["404", "other"])
def test_a_server_without_vllms_names_is_unavailable(fake, a_target, answer):
    fake.answers = [answer]

    capability = ServerMetricsProbe(fake.url).check(a_target)

    assert capability.level is Level.UNAVAILABLE
    assert fake.url in (capability.reason or "")
    assert "--metrics-url" in (capability.remedy or "")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1", "http://127.0.0.1:what", "http://[::1", "http://.:80", "nonsense"]
)
def test_a_url_that_leads_nowhere_is_unavailable(a_target, url, monkeypatch):
    monkeypatch.setattr(server_metrics, "LOOK_TIMEOUT_S", 0.2)

    capability = ServerMetricsProbe(url).check(a_target)

    assert capability.level is Level.UNAVAILABLE
    assert url in (capability.reason or "")


def test_a_server_that_cannot_be_seen_says_why(a_target):
    capability = ServerMetricsProbe().check(a_target)

    assert capability.level is Level.UNAVAILABLE
    assert capability.reason
    assert capability.remedy


def test_the_port_is_found_from_the_process(server):
    target = find_target(server.pid)

    assert list(server_urls(target)) == [f"http://127.0.0.1:{server.hello['port']}"]


LINES = st.text(st.sampled_from('vllm:{}="#,+-.\\ \t0123456789eaNInf_'), max_size=40)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(PAGE.splitlines()) | LINES.map("vllm:prompt_tokens".__add__)))
def test_a_hostile_page_is_refused_or_gives_numbers(lines):
    try:
        found = list(parse_metrics("\n".join(lines)))
    except ValueError:
        return
    assert all(isinstance(value, float) for _, _, value, _ in found)


@pytest.mark.parametrize(("idle_cores", "scrape_count"), [(2.0, 41), (0.5, 3)])
def test_a_host_without_idle_cpu_is_asked_less_often(monkeypatch, idle_cores, scrape_count):
    # Given a second's tick for forty seconds
    class Host:
        now_ns = 0

        def idle_ns(self) -> tuple[int, int]:
            return int(self.now_ns * idle_cores), 0

    host = Host()
    probe = ServerMetricsProbe("http://127.0.0.1:1")
    probe._governor = WakeGovernor(1.0, host, server_metrics.SCARCE_DIVISOR)  # type: ignore[arg-type]
    monkeypatch.setattr(probe, "_scrape", lambda: probe._scraped_ns.append(host.now_ns))

    for second in range(41):
        host.now_ns = second * 1_000_000_000
        probe._tick(host.now_ns)

    # Then it is scraped at once, and from then on as it may
    assert len(probe._scraped_ns) == scrape_count
