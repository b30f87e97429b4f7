"""A server that fails in every way: each is counted by its kind, and the run goes on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from collectors.errors import OutputExists
from collectors.schema import OK, REQUESTS
from collectors.stream import read_stream
from profiler.load.answer import Answer
from profiler.load.endpoint import Endpoint, ServerRefuses
from profiler.load.failures import Failure
from profiler.load.http_client import Client
from profiler.load.results import ROWS_FILE, STREAM_FILE, read_rows
from profiler.load.runner import LoadCrashed, Progress, run_scenario
from profiler.load.site import Site
from profiler.load.summary import summarize
from tests.commands import CPUTAX, run_cputax, said_error
from tests.flaky import scenario, site_of, url_of
from tests.programs import TARGETS, is_gone, start_program
from tests.waiting import wait_until

BODY = json.dumps({"messages": [{"role": "user", "content": "so it is"}]}).encode()
TIMEOUT_S = 0.3
LONG_S = 60.0
# A run that would take far longer than a test may, unless something ends it.
ENDLESS = 1_000_000


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def ask(url: str, timeout_s: float = LONG_S) -> Answer:
    async def once() -> Answer:
        answer = Answer("run-1", "test", time.monotonic_ns())
        async with Client(Endpoint(url), "/v1/chat/completions") as client:
            await client.ask(BODY, answer, timeout_s)
        return answer

    return asyncio.run(asyncio.wait_for(once(), 20.0))


def test_an_answer_has_all_its_boundaries_in_order(flaky):
    answer = ask(url_of(flaky))

    seen = [
        answer.time_ns, answer.connected_ns, answer.sent_ns, answer.headers_ns,
        answer.first_byte_ns, answer.first_token_ns, answer.last_token_ns, answer.done_ns,
        answer.parsed_ns,
    ]  # fmt: skip
    assert answer.status == OK
    assert None not in seen
    assert seen == sorted(seen)
    assert len(answer.token_ns) == 5
    assert (answer.prompt_tokens, answer.output_tokens) == (6, 4)
    assert answer.request_bytes == len(BODY)
    assert answer.response_bytes


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ("error", "http-500"),
        ("overload", "http-429"),
        ("json", Failure.MALFORMED),
        ("malformed", Failure.MALFORMED),
        ("error_event", Failure.ERROR_EVENT),
        ("unfinished", Failure.CLOSED_MID_STREAM),
        ("close_mid_stream", Failure.CLOSED_MID_STREAM),
        ("close_early", Failure.CLOSED_EARLY),
        ("reset", Failure.RESET),
        ("not_http", Failure.BAD_HTTP),
    ],
)
def test_each_way_to_fail_has_its_kind(flaky, how, kind):
    assert ask(url_of(flaky, how)).status == kind


@pytest.mark.parametrize("how", ["hang", "hang_mid_stream"])
def test_nothing_hangs_past_its_deadline(flaky, how):
    answer = ask(url_of(flaky, how), TIMEOUT_S)

    assert answer.status == Failure.TIMEOUT
    assert (answer.headers_ns is not None) == (how == "hang_mid_stream")


def test_what_came_before_the_failure_is_kept(flaky):
    answer = ask(url_of(flaky, "malformed"))

    assert len(answer.token_ns) == 1
    assert answer.done_ns is None


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        (f"http://127.0.0.1:{free_port()}", Failure.REFUSED),
        ("http://no-such-host.invalid", Failure.DNS),
    ],
)
def test_a_server_that_is_not_there(url, kind):
    assert ask(url).status == kind


def test_a_server_without_encryption_is_no_https(flaky):
    assert ask(url_of(flaky).replace("http:", "https:")).status == Failure.TLS


def test_the_clock_does_not_wait_for_a_server_that_hangs(flaky, tmp_path):
    load = scenario(rate_hz=100.0, requests=40, timeout_s=TIMEOUT_S)

    rows = run_scenario(load, site_of(url_of(flaky, "hang")), tmp_path / "out").rows

    assert rows["status"].to_pylist() == [Failure.TIMEOUT] * 40
    spans_ns = [due - rows["time_ns"][0].as_py() for due in rows["time_ns"].to_pylist()]
    again = run_scenario(load, site_of(url_of(flaky)), tmp_path / "again").rows
    assert spans_ns == [due - again["time_ns"][0].as_py() for due in again["time_ns"].to_pylist()]


def test_a_server_that_restarts_is_survived(tmp_path):
    # Given users at a server that is killed when it has answered, and started again when that
    # was noticed
    port = str(free_port())
    servers = [start_program(TARGETS / "flaky_server.py", "--port", port)]
    # How many answers there were whenever it was looked, from the first failure on
    answered_counts: list[int] = []

    def watch(progress: Progress) -> None:
        if len(servers) == 1 and progress.over_count > 10:
            servers[0].process.kill()
            servers[0].process.wait()
            servers.append(start_program(TARGETS / "flaky_server.py", "--port", port))
        if progress.failed_count:
            answered_counts.append(progress.statuses[OK])

    def has_recovered() -> bool:
        return bool(answered_counts) and answered_counts[-1] > answered_counts[0] + 10

    # When the load runs until answers come again
    try:
        results = run_scenario(
            scenario(users=4, requests=ENDLESS),
            site_of(url_of(servers[0])),
            tmp_path / "out",
            watch=watch,
            should_stop=has_recovered,
        )
    finally:
        for server in servers:
            server.end()

    # Then the failures are counted, and answers stand before and after them
    failures = summarize(results)["failures"]
    expected = {Failure.REFUSED, Failure.RESET, Failure.CLOSED_EARLY, Failure.CLOSED_MID_STREAM}
    assert failures
    assert set(failures) <= expected, results.details
    rows = results.rows.to_pylist()
    failed_ns = [row["time_ns"] for row in rows if row["status"] in failures]
    answered_ns = [row["time_ns"] for row in rows if row["status"] == OK]
    assert min(answered_ns) < min(failed_ns) < max(answered_ns)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_and_keeps_it(flaky, tmp_path, number):
    # Given a run that has answers on disk
    out = tmp_path / "out"
    command = [CPUTAX, "load", "run", "--url", url_of(flaky), "--users", "2", "-o", str(out)]
    process = subprocess.Popen(
        [*command, "--prompt-chars", "100", "-n", str(ENDLESS), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    wait_until(lambda: has_rows(out / STREAM_FILE), "rows on disk")

    # When it is told to end
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=30)

    # Then it says so, with what it saw
    assert process.returncode == 1, stderr
    summary = json.loads(stdout)
    assert not summary["is_whole"]
    assert summary["requests"]["ok_count"] > 0
    assert read_rows(out).num_rows == summary["requests"]["begun_count"]


def test_a_killed_load_process_leaves_its_rows(flaky, tmp_path):
    out = tmp_path / "out"

    def kill_the_worker(_progress: Progress) -> None:
        if has_rows(out / STREAM_FILE):
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            for child in map(int, children):
                if b"profiler.load.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                    os.kill(child, signal.SIGKILL)

    with pytest.raises(LoadCrashed) as crashed:
        run_scenario(
            scenario(users=2, requests=ENDLESS), site_of(url_of(flaky)), out, watch=kill_the_worker
        )

    assert str(out) in crashed.value.remedy
    assert read_rows(out).num_rows > 0


def test_the_load_process_ends_with_who_started_it(flaky, tmp_path):
    # Given a process that started a run and is killed
    out = tmp_path / "out"
    hang = ["--url", url_of(flaky, "hang"), "--model", "x"]
    process = subprocess.Popen(
        [CPUTAX, "load", "run", *hang, "--prompt-chars", "9", "-n", "1", "-o", str(out)],
        stderr=subprocess.DEVNULL,
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    wait_until(lambda: (out / STREAM_FILE).exists(), "a load process")
    workers = list(map(int, children.read_text().split()))
    process.kill()
    process.wait()

    # When, then
    assert workers
    for worker in workers:
        wait_until(lambda pid=worker: is_gone(pid), "the end of the load process")


def test_a_server_that_answers_nothing_is_an_error_with_a_remedy(flaky):
    ended = run_cputax(
        "load", "run", "--url", url_of(flaky, "error"), "--model", "x", "--prompt-chars", 9, "-n", 2
    )

    error = said_error(ended.stderr)
    assert ended.returncode == 3
    assert error["slug"] == "nothing-answered"
    assert "2 x http-500" in error["message"]
    assert "out of order" in ended.stdout


def test_a_server_that_is_not_there_cannot_be_prepared_for(tmp_path):
    site = Site(Endpoint(f"http://127.0.0.1:{free_port()}"))

    with pytest.raises(ServerRefuses):
        run_scenario(scenario(users=1, requests=1), site, tmp_path / "out")


def test_results_are_never_overwritten(flaky, tmp_path):
    (tmp_path / ROWS_FILE).touch()

    with pytest.raises(OutputExists):
        run_scenario(scenario(users=1, requests=1), site_of(url_of(flaky)), tmp_path)


def has_rows(stream: Path) -> bool:
    return stream.exists() and read_stream(stream, REQUESTS)[0].num_rows > 0
