"""The lines of a scenario, of captures in which every wait is known."""

from __future__ import annotations

import io
import json
from typing import Any

import pyarrow as pa
import pytest
from captures import LOOP_IDLE, POOL_IDLE, TOKENIZE, CaptureBuilder
from rich.console import Console

from analyzers.analysis import Analysis, analyze
from collectors.schema import TABLES
from profiler.render.console import MAX_WIDTH
from profiler.render.convoys import print_convoys

SERVICE = 20.0  # ms that the tokenizer takes for each
WAY = 5.0  # ms from sending a request to its arrival in the frontend
REST = 30.0  # ms from the end of its turn to its answer
BATCHING = ("AsyncMicrobatchTokenizer._batch_encode_loop", "vllm/utils/async_utils.py")


class Load:
    """Builds a capture of requests before one tokenizer; times are in ms."""

    def __init__(self) -> None:
        self.made = CaptureBuilder()
        self.made.manifest.host["cpu_count"] = 2
        self.made.probe("stacks", "works", requested_hz=1000.0, achieved_hz=1000.0)
        self.api = self.made.process("api_server", pid=100)
        self.pool = self.made.thread(self.api, tid=107, name="pool")
        self.loop = self.made.thread(self.api, tid=100)
        self.made.run(self.loop, 0, 9_000, LOOP_IDLE)
        self.rows: list[dict[str, Any]] = []
        self.free = [0.0]  # when each thread of the pool is
        self.pools = [self.pool]

    def add_tokenizer(self) -> None:
        self.pools.append(self.made.thread(self.api, tid=107 + len(self.pools), name="pool"))
        self.free.append(0.0)

    def ask(
        self, due: float, *, has_server: bool = True, is_sampled: bool = True,
        let_go: float | None = None,
    ) -> float:  # fmt: skip
        """Add a request and return when it ended; it is tokenized when those before it are."""
        request, arrived = str(len(self.rows)), due + WAY
        thread = min(range(len(self.free)), key=self.free.__getitem__)
        begin = max(arrived, self.free[thread])
        self.free[thread] = begin + SERVICE
        if is_sampled:
            self.made.run(self.pools[thread], begin, begin + SERVICE, TOKENIZE)
        left = begin + SERVICE if let_go is None else let_go
        end = left + REST
        self._row(
            "client", request, due, begun=due, built=due, serialised=due, connected=due, sent=due,
            headers=left + 1, first_byte=end - 1, first_token=end - 1, last_token=end - 1,
            done=end, parsed=end, scenario="load",
        )  # fmt: skip
        if has_server:
            self._row(
                "otlp", request, arrived, queued=left, scheduled=left, first_token=left + 10,
                last_token=left + 10, done=left + 20,
            )  # fmt: skip
        return end

    def _row(
        self, source: str, request: str, due: float, scenario: str | None = None, **times: float
    ) -> None:
        row: dict[str, Any] = dict.fromkeys(TABLES["requests"].names)
        row |= {"request": request, "source": source, "status": "ok", "scenario": scenario}
        row |= {"time_ns": self.made.at(due), "prompt_tokens": 100, "output_tokens": 1}
        row |= {f"{name}_ns": self.made.at(ms) for name, ms in times.items()}
        self.rows.append(row)

    def batches(self, users: int, count: int, *, begin: float = 0.0, **fields: Any) -> float:
        end = begin
        for _ in range(count):
            end = max([self.ask(end + 10, **fields) for _ in range(users)])
        return end

    def in_a_loop(self, users: int, count: int) -> None:
        ends = [0.0] * users
        for _ in range(count):
            ends = [self.ask(end) for end in ends]

    def analysis(self) -> Analysis:
        capture = self.made.build()
        capture.tables["requests"] = pa.Table.from_pylist(self.rows, schema=TABLES["requests"])
        analysis = analyze(capture)
        json.dumps(analysis.to_json(), allow_nan=False)
        return analysis

    def scenario(self) -> dict[str, Any]:
        (found,) = self.analysis().sections["convoys"]
        one: dict[str, Any] = found
        return one


def row_of(scenario: dict[str, Any], resource: str) -> dict[str, Any]:
    return {one["resource"]: one for one in scenario["resources"]}[resource]


def gains_of(scenario: dict[str, Any]) -> dict[tuple[str, float], float]:
    return {
        (one["lever"], one["amount"]): round(one["wait_after_seconds"] * 1e3, 6)
        for one in scenario["gains"]
    }


def test_a_burst_waits_for_half_of_the_others_and_the_replay_says_so() -> None:
    load = Load()
    load.batches(users=8, count=3)

    scenario = load.scenario()

    assert (scenario["coming"], scenario["user_count"]) == ("batches", 8)
    assert scenario["resource"] == "tokenizer"
    row = row_of(scenario, "tokenizer")
    assert row["service_mean_seconds"] == pytest.approx(SERVICE / 1e3)
    assert row["predicted_wait_seconds"] == pytest.approx(7 / 2 * SERVICE / 1e3)
    assert row["measured_wait_seconds"] == pytest.approx(7 / 2 * SERVICE / 1e3, rel=0.02)
    assert (row["most_behind_count"], row["compared_count"]) == (7, 24)
    assert row["longest_convoy_seconds"] == pytest.approx(8 * SERVICE / 1e3)
    assert gains_of(scenario) == {
        ("api_servers", 2): 3 / 2 * SERVICE, ("api_servers", 4): SERVICE / 2,
        ("tokenizer_workers", 2): 3 / 2 * SERVICE, ("tokenizer_workers", 4): SERVICE / 2,
    }  # fmt: skip


def test_users_in_a_loop_are_replayed_in_a_loop() -> None:
    load = Load()
    load.in_a_loop(users=6, count=20)

    scenario = load.scenario()

    # Each waits for 5 others, less the time it spends elsewhere: the rest and the way.
    expected = (5 * SERVICE - REST - WAY) / 1e3
    assert (scenario["coming"], scenario["user_count"]) == ("users", 6)
    row = row_of(scenario, "tokenizer")
    assert row["measured_wait_seconds"] == pytest.approx(expected, rel=0.05)
    assert row["predicted_wait_seconds"] == pytest.approx(expected, rel=0.05)
    assert row["utilisation_ratio"] == pytest.approx(1.0, abs=0.01)
    # Three users to a server: 2 x 20 - 35 = 5; with four servers at most two of them.
    assert gains_of(scenario)["api_servers", 2] == pytest.approx(5, abs=1)
    assert gains_of(scenario)["tokenizer_workers", 4] == pytest.approx(0, abs=2)


def test_what_nobody_saw_the_thread_do_is_taken_as_the_rest() -> None:
    # Given a sampler that was blind for the second of two batches
    load = Load()
    end = load.batches(users=4, count=1)
    load.batches(users=4, count=1, begin=end, is_sampled=False)
    load.made.gap("stacks", end, 10_000)

    row = row_of(load.scenario(), "tokenizer")

    assert row["service_mean_seconds"] == pytest.approx(SERVICE / 1e3, rel=0.01)
    assert row["compared_count"] == 4


def test_the_finding_quotes_both_waits_and_the_options_with_what_they_leave() -> None:
    load = Load()
    end = load.batches(users=8, count=3)
    for ms in (0, end):
        load.made.look(load.pool, ms, run=0.5 * ms, wait=ms)

    (finding,) = [one for one in load.analysis().findings if one.slug == "request-convoy"]

    assert "70 ms predicted from arrivals" in finding.statement
    assert "line for the tokenizer," in finding.statement
    assert finding.remedy is not None
    assert finding.remedy.startswith("vllm serve ... --api-server-count 4 (to 10 ms)")
    assert "has 2 CPUs, and the server's threads ran on or waited for 1.5" in finding.caveats[0]


def test_on_a_full_host_more_cpus_come_before_more_servers() -> None:
    load = Load()
    end = load.batches(users=8, count=3)
    for ms in (0, end):
        load.made.look(load.pool, ms, run=1.5 * ms, wait=ms)

    (finding,) = [one for one in load.analysis().findings if one.slug == "request-convoy"]

    assert finding.remedy is not None
    assert finding.remedy.startswith("more CPUs first")


def test_requests_that_never_meet_stand_in_no_line() -> None:
    load = Load()
    for number in range(10):
        load.ask(number * 300.0)

    scenario = load.scenario()

    assert scenario["resource"] is None
    assert scenario["gains"] == []
    row = row_of(scenario, "tokenizer")
    assert row["is_line"] is False
    assert row["predicted_wait_seconds"] == 0
    assert not [one for one in load.analysis().findings if one.slug == "request-convoy"]


def test_prompts_that_the_engine_takes_one_after_another_are_a_line_too() -> None:
    # Given four that are ready at once, 100 ms of prefill each, and a quick tokenizer
    load = Load()
    for number in range(4):
        load.ask(1000.0, let_go=1030)
        scheduled = 1030 + 100 * number
        client, server = load.rows[-2:]
        server["scheduled_ns"] = load.made.at(scheduled)
        for name in ("first_token_ns", "last_token_ns", "done_ns"):
            server[name] = load.made.at(scheduled + 100)
            client[name] = load.made.at(scheduled + 101)
        client["parsed_ns"] = load.made.at(scheduled + 101)

    scenario = load.scenario()

    assert scenario["resource"] == "prefill"
    row = row_of(scenario, "prefill")
    assert row["measured_wait_seconds"] == pytest.approx(0.150)
    assert row["predicted_wait_seconds"] == pytest.approx(0.150)
    assert gains_of(scenario) == {("engines", 2): 50.0, ("engines", 4): 0.0}


def test_without_the_server_s_side_the_way_to_the_headers_is_what_was_measured() -> None:
    load = Load()
    load.batches(users=8, count=3, has_server=False)

    scenario = load.scenario()

    row = row_of(scenario, "tokenizer")
    assert row["predicted_wait_seconds"] == pytest.approx(7 / 2 * SERVICE / 1e3, rel=0.05)
    # The way there and back of the headers is in it.
    assert row["measured_wait_seconds"] == pytest.approx(
        (7 / 2 * SERVICE + WAY + 1) / 1e3, rel=0.05
    )
    assert "response headers" in row["measured_by"]
    assert row_of(scenario, "event_loop")["reason"] is not None


def test_a_server_that_lets_go_in_batches_is_replayed_so() -> None:
    load = Load()
    for number in range(3):
        due = 1000.0 * number
        for _ in range(4):
            load.ask(due, let_go=due + WAY + 4 * SERVICE)
    load.made.run(load.pool, 9000, 9001, [BATCHING])

    row = row_of(load.scenario(), "tokenizer")

    assert row["is_released_in_batches"]
    # All are let go after all four: each waits for the three others; 2 ms are for company.
    assert row["predicted_wait_seconds"] == pytest.approx((3 * SERVICE + 2) / 1e3, rel=0.02)
    assert row["measured_wait_seconds"] == pytest.approx(3 * SERVICE / 1e3, rel=0.05)


def test_several_tokenizer_threads_serve_one_line() -> None:
    load = Load()
    load.add_tokenizer()
    load.batches(users=8, count=3)

    scenario = load.scenario()

    # In pairs: 0, 0, 1, 1, 2, 2, 3, 3 service times.
    row = row_of(scenario, "tokenizer")
    assert (row["server_count"], len(row["tids"])) == (2, 2)
    assert row["service_mean_seconds"] == pytest.approx(SERVICE / 1e3)
    assert row["predicted_wait_seconds"] == pytest.approx(1.5 * SERVICE / 1e3)
    assert row["measured_wait_seconds"] == pytest.approx(1.5 * SERVICE / 1e3)
    assert gains_of(scenario)["tokenizer_workers", 4] == SERVICE / 2


def test_the_event_loop_that_hands_prompts_over_is_no_second_tokenizer() -> None:
    load = Load()
    load.batches(users=8, count=3)
    load.made.run(load.loop, 9000, 9100, TOKENIZE)

    assert row_of(load.scenario(), "tokenizer")["server_count"] == 1


def test_the_wait_for_the_gil_is_told_per_request_and_not_predicted() -> None:
    load = Load()
    load.batches(users=2, count=5)
    load.made.run(load.pool, 9000, 9999, POOL_IDLE)
    for ms in range(0, 10_000, 10):
        load.made.gil(load.api, ms, holder=None, waiters=[load.pool] if ms < 1000 else [],
                      waiter_count=1 if ms < 1000 else 0)  # fmt: skip

    row = row_of(load.scenario(), "gil")

    # A tenth of ten seconds, over ten requests.
    assert row["measured_wait_seconds"] == pytest.approx(0.1, rel=0.05)
    assert row["predicted_wait_seconds"] is None
    assert "not seen" in row["reason"]


def test_a_tokenizer_that_was_not_seen_is_no_zero_but_an_abstention() -> None:
    load = Load()
    load.batches(users=4, count=2, is_sampled=False)

    analysis = load.analysis()

    row = row_of(analysis.sections["convoys"][0], "tokenizer")
    assert row["measured_wait_seconds"] is None
    (finding,) = [one for one in analysis.findings if one.slug == "request-convoy"]
    assert finding.abstained
    assert row["reason"] in finding.statement


def printed(analysis: Analysis, **options: Any) -> str:
    out = Console(file=io.StringIO(), width=MAX_WIDTH, highlight=False)
    print_convoys(out, analysis.to_json(), **options)
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


def test_the_table_names_the_line_and_what_would_lift_it() -> None:
    load = Load()
    load.batches(users=8, count=3)

    text = printed(load.analysis())

    assert "batches of 8" in text
    (row,) = [line for line in text.splitlines() if line.startswith("tokenizer thread  ")]
    assert row.split()[2:] == ["84%", "20.00", row.split()[4], "70.00", "100%", "7"]
    assert "--renderer-num-workers 4" in text
    assert max(map(len, text.splitlines())) <= MAX_WIDTH


def test_where_no_line_stood_nothing_is_printed_unless_asked() -> None:
    load = Load()
    for number in range(10):
        load.ask(number * 300.0)
    analysis = load.analysis()

    assert printed(analysis) == ""
    assert "no line" in printed(analysis, show_all=True)
