"""The requests of a capture: joined, cut and put in figures; and what is said of missing sides."""

from __future__ import annotations

import io
import json
from typing import Any

import pyarrow as pa
import pytest
from captures import TOKENIZE, CaptureBuilder
from rich.console import Console

from analyzers.analysis import Analysis, analyze
from analyzers.request_rows import CONTRADICTION_NS
from collectors.capture import Capture
from collectors.schema import TABLES
from profiler.render.requests import print_requests

MS = 1_000_000
# One request, ms: due 0, parsed 100; tokenized from 22 to 40.
CLIENT = {
    "time": 0, "begun": 1, "built": 2, "serialised": 4, "connected": 5, "sent": 7, "headers": 41,
    "first_byte": 60, "first_token": 60, "last_token": 90, "done": 95, "parsed": 100,
}  # fmt: skip
SERVER = {
    "time": 10, "queued": 45, "scheduled": 48, "first_token": 58, "last_token": 88, "done": 89,
}  # fmt: skip
PARTS = {
    "lag": 1, "build": 1, "serialise": 2, "connect": 1, "wire": 5, "frontend": 35, "queue": 3,
    "prefill": 10, "first_output": 2, "decode": 28, "detokenize": 1, "sse": 6, "parse": 5,
    "unattributed": 0,
}  # fmt: skip


class Requests:
    """Builds a capture with requests; times are in ms."""

    def __init__(self) -> None:
        self.made = CaptureBuilder()
        self.api = self.made.process("api_server")
        self.rows: list[dict[str, Any]] = []

    def add(
        self, source: str, times: dict[str, float | None], *, request: str = "a", at: float = 0,
        **fields: Any,
    ) -> None:  # fmt: skip
        row: dict[str, Any] = dict.fromkeys(TABLES["requests"].names)
        row |= {"request": request, "source": source, "status": "ok"}
        row |= {
            f"{name}_ns": None if ms is None else self.made.at(at + ms)
            for name, ms in times.items()
        }
        if source == "client":
            row["scenario"] = "load"
        self.rows.append(row | fields)

    def both(self, request: str = "a", *, at: float = 0, **fields: Any) -> None:
        self.add("client", CLIENT, request=request, at=at, **fields)
        self.add("otlp", SERVER, request=request, at=at, output_tokens=4)

    def tokenizing(self, *runs: tuple[float, float]) -> None:
        thread = self.made.thread(self.api, tid=7, name="pool")
        for start, end in runs:
            self.made.run(thread, start, end, TOKENIZE)
        self.made.probe("stacks", "works", requested_hz=1000.0, achieved_hz=1000.0)

    def capture(self) -> Capture:
        capture = self.made.build()
        capture.tables["requests"] = pa.Table.from_pylist(self.rows, schema=TABLES["requests"])
        return capture

    def analysis(self) -> Analysis:
        analysis = analyze(self.capture())
        json.dumps(analysis.to_json(), allow_nan=False)
        return analysis


def scenarios(requests: Requests) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = requests.analysis().sections["requests"]["scenarios"]
    return found


def parts_of(scenario: dict[str, Any]) -> dict[str, float | None]:
    return {
        one["part"]: None if one["mean_seconds"] is None else round(one["mean_seconds"] * 1e3, 6)
        for one in scenario["parts"]
    }


def slugs(requests: Requests) -> dict[str, Any]:
    return {one.slug: one for one in requests.analysis().findings}


def test_a_request_seen_from_both_sides_is_cut_without_a_rest() -> None:
    requests = Requests()
    requests.both()

    (scenario,) = scenarios(requests)

    assert (scenario["name"], scenario["count"]) == ("load", 1)
    assert scenario["seen_from"] == "client and server"
    assert parts_of(scenario) == PARTS
    assert sum(one["share_ratio"] for one in scenario["parts"]) == pytest.approx(1)
    assert scenario["wall"]["mean_seconds"] == pytest.approx(0.1)
    assert scenario["ttft"]["p50_seconds"] == pytest.approx(0.060)
    assert scenario["e2e"]["p50_seconds"] == pytest.approx(0.095)
    assert scenario["tpot"]["p50_seconds"] == pytest.approx(0.010)
    assert scenario["device_ratio"] == pytest.approx(0.38)
    assert scenario["host_ratio"] == pytest.approx(0.62)
    assert "stamps" in scenario["device_basis"]
    # Serialise 2, to the headers 37, parse 5; of 98.
    assert scenario["proxy_ratio"] == pytest.approx(44 / 98)


def test_the_frontend_is_cut_by_the_tokenizer_s_stacks() -> None:
    requests = Requests()
    requests.both()
    requests.tokenizing((22, 40))

    (scenario,) = scenarios(requests)

    parts = parts_of(scenario)
    assert "frontend" not in parts
    # Half a tick is moved at the first edge; between arrival and the tokenizer nobody was seen.
    assert parts["tokenize"] == pytest.approx(18.5, abs=0.1)
    assert parts["hand_over"] == pytest.approx(5, abs=0.1)
    assert (parts["template"], parts["tokenize_wait"]) == (0, 0)
    assert parts["unattributed"] == 11.5
    assert scenario["unattributed_ratio"] == pytest.approx(0.115)
    assert "request-tokenizer-turns" not in slugs(requests)


def test_the_second_of_two_waits_for_the_first() -> None:
    requests = Requests()
    for number, request in enumerate("ab"):
        later = 30 * number
        client = {name: ms + later * (ms > 40) for name, ms in CLIENT.items()}
        server = {name: ms + later * (ms > 10) for name, ms in SERVER.items()}
        requests.add("client", client, request=request)
        requests.add("otlp", server, request=request)
    requests.tokenizing((10, 71))

    (scenario,) = scenarios(requests)

    rows = {one["part"]: one for one in scenario["parts"]}
    assert rows["tokenize"]["mean_seconds"] == pytest.approx(0.0305, abs=2e-4)
    assert rows["tokenize_wait"]["max_seconds"] == pytest.approx(0.031, abs=4e-4)


@pytest.mark.parametrize(
    ("reason", "runs"), [("holds no stacks", []), ("several threads", [(10, 40), (12, 40)])]
)
def test_a_frontend_that_cannot_be_cut_stays_one_part(
    reason: str, runs: list[tuple[float, float]]
) -> None:
    requests = Requests()
    requests.both()
    for number, (start, end) in enumerate(runs):
        thread = requests.made.thread(requests.api, tid=10 + number, name="pool")
        requests.made.run(thread, start, end, TOKENIZE)

    assert parts_of(scenarios(requests)[0]) == PARTS
    abstention = slugs(requests)["request-tokenizer-turns"]
    assert abstention.abstained
    assert reason in abstention.statement


def test_work_that_too_few_looks_saw_leaves_the_frontend_whole_and_says_so() -> None:
    requests = Requests()
    requests.both()
    requests.tokenizing((30, 31))

    assert parts_of(scenarios(requests)[0]) == PARTS
    assert "before enough stacks" in slugs(requests)["request-tokenizer-turns"].statement


def test_a_tokenizer_that_works_in_batches_gives_no_turns() -> None:
    requests = Requests()
    requests.both()
    thread = requests.made.thread(requests.api, tid=9, name="pool")
    batching = ("AsyncMicrobatchTokenizer._batch_encode_loop", "vllm/utils/async_utils.py")
    requests.made.run(thread, 10, 40, [batching])

    assert "batch" in slugs(requests)["request-tokenizer-turns"].statement


def test_without_the_server_s_rows_there_are_the_client_s_parts_and_an_abstention() -> None:
    requests = Requests()
    requests.add("client", CLIENT)

    (scenario,) = scenarios(requests)

    assert scenario["seen_from"] == "client"
    assert parts_of(scenario) == {
        "lag": 1, "build": 1, "serialise": 2, "connect": 1, "send": 2, "to_headers": 34,
        "to_first_token": 19, "stream": 30, "end": 5, "parse": 5, "unattributed": 0,
    }  # fmt: skip
    assert scenario["device_ratio"] is None
    assert scenario["host_ratio"] is None
    abstention = slugs(requests)["request-server-side"]
    assert "--otlp-traces-endpoint" in abstention.remedy


def by_client_with_means(**seconds: float) -> Requests:
    """Return a client's request, and the server's means in its metrics."""
    requests = Requests()
    requests.add("client", CLIENT)
    for ms, count in ((-1000, 0), (1000, 1)):
        for name, mean in seconds.items():
            requests.made.histogram(requests.api, ms, f"vllm:{name}_seconds", mean * count, count)
    return requests


ENGINE = {
    "request_queue_time": 0.003, "request_prefill_time": 0.010, "request_decode_time": 0.029,
}  # fmt: skip


def test_the_server_s_means_stand_inside_the_client_s_parts() -> None:
    (scenario,) = scenarios(by_client_with_means(**ENGINE))

    parts = parts_of(scenario)
    assert (parts["queue"], parts["prefill"], parts["decode"]) == (3, 10, 29)
    assert parts["unattributed"] == 7  # of 19 to the first token, and of 30 of stream
    assert sum(one["share_ratio"] for one in scenario["parts"]) == pytest.approx(1)
    assert scenario["device_ratio"] == pytest.approx(0.39)
    assert scenario["unattributed_ratio"] == pytest.approx(0.07)
    assert scenario["unattributed_of"] == "mean request"


def test_the_server_s_time_to_first_token_tells_the_hand_over_at_least() -> None:
    requests = by_client_with_means(**ENGINE, time_to_first_token=0.049)

    (scenario,) = scenarios(requests)

    parts = parts_of(scenario)
    assert parts["hand_over"] == 2  # 49 without queue and prefill, and 34 from sent to the headers
    assert parts["unattributed"] == 5
    names = [one["part"] for one in scenario["parts"]]
    assert names.index("hand_over") + 1 == names.index("queue")
    sources = requests.analysis().sections["requests"]["sources"]
    assert {"source": "metrics", "parts": ["hand_over", "queue", "prefill", "decode"]} in sources
    assert "stacks" not in {one["source"] for one in sources}


def test_a_decode_longer_than_the_rest_of_the_answer_tells_the_first_output_s_way() -> None:
    (scenario,) = scenarios(by_client_with_means(**ENGINE | {"request_decode_time": 0.037}))

    parts = parts_of(scenario)
    assert parts["first_output"] == 2  # 37, and 30 of stream and 5 of its end
    assert (parts["decode"], parts["end"]) == (30, 5)
    assert parts["unattributed"] == 4


def test_without_the_client_s_rows_the_server_s_time_is_cut() -> None:
    requests = Requests()
    requests.add("otlp", SERVER)

    (scenario,) = scenarios(requests)

    assert (scenario["name"], scenario["seen_from"]) == (None, "server")
    assert parts_of(scenario) == {
        "frontend": 35, "queue": 3, "prefill": 10, "decode": 30, "detokenize": 1, "unattributed": 0,
    }  # fmt: skip
    assert scenario["ttft"]["mean_seconds"] == pytest.approx(0.048)
    assert scenario["proxy_ratio"] is None


def test_an_unknown_boundary_is_null_and_its_time_unattributed() -> None:
    requests = Requests()
    requests.add("client", CLIENT)
    requests.add("otlp", SERVER | {"queued": None})

    (scenario,) = scenarios(requests)

    parts = parts_of(scenario)
    assert parts["queue"] is None
    assert parts["frontend"] is None
    assert parts["unattributed"] == 38


def test_failures_are_counted_and_have_no_waterfall() -> None:
    requests = Requests()
    requests.both("a")
    requests.add("client", CLIENT | {"first_token": None}, request="b", status="reset")
    requests.add("client", CLIENT | {"done": None}, request="c", status="interrupted")
    requests.add("client", CLIENT, request="d", scenario="warm-up")
    requests.add("client", CLIENT, request="e", at=200)

    (scenario,) = scenarios(requests)

    assert scenario["count"] == 1
    assert scenario["failed_count"] == 1
    assert scenario["interrupted_count"] == 1
    assert scenario["without_server_count"] == 1
    assert scenario["e2e"]["count"] == 2


def test_a_server_row_of_another_clock_is_dropped_and_counted() -> None:
    requests = Requests()
    requests.add("client", CLIENT)
    too_late = 95 - 88 + CONTRADICTION_NS / MS + 1
    requests.add("otlp", SERVER, at=too_late)

    section = requests.analysis().sections["requests"]

    assert section["contradicted_count"] == 1
    assert section["scenarios"][0]["seen_from"] == "client"


def test_the_largest_host_part_of_the_median_request_is_a_finding() -> None:
    requests = Requests()
    for number in range(5):
        requests.both(f"r{number}", at=200 * number)

    finding = slugs(requests)["request-largest-part"]

    assert "frontend" in finding.statement
    assert "35%" in finding.statement
    assert finding.quantity is not None
    assert finding.quantity.value == pytest.approx(0.035)
    assert finding.evidence["request_seconds"] == pytest.approx(5 * 0.035)


def test_the_sources_say_which_boundaries_were_seen() -> None:
    requests = Requests()
    requests.both()
    requests.tokenizing((10, 40))

    client, otlp, stacks = requests.analysis().sections["requests"]["sources"]

    assert (client["source"], client["boundaries"]["headers_ns"]) == ("client", 1)
    assert (otlp["source"], otlp["boundaries"]["queued_ns"]) == ("otlp", 1)
    assert stacks["source"] == "stacks"
    assert "tokenize" in stacks["parts"]


def test_a_capture_without_requests_abstains() -> None:
    analysis = Requests().analysis()

    assert analysis.sections["requests"] is None
    assert next(one for one in analysis.findings if one.slug == "request-waterfall").abstained


@pytest.mark.parametrize("has_server", [True, False])
def test_the_table_fits_and_shows_every_part(has_server: bool) -> None:
    requests = Requests()
    requests.both()
    if not has_server:
        requests.rows.pop()
    out = Console(width=100, record=True, file=io.StringIO())

    print_requests(out, requests.analysis().to_json())

    text = out.export_text()
    assert max(map(len, text.splitlines())) <= 100
    assert "Where a request's time went: load" in text
    assert "unattributed" in text
    assert "proxy" in text


def test_the_table_is_not_there_without_requests(capsys: pytest.CaptureFixture[str]) -> None:
    print_requests(Console(), Requests().analysis().to_json())

    assert capsys.readouterr().out == ""
