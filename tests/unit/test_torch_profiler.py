"""The server's own profiler: who may be profiled, that it never stays on, and what comes of it."""

from __future__ import annotations

import gzip
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from collectors.capture import Capture, finalise
from collectors.clock import Anchor, read_anchor
from collectors.errors import ProbeUnavailable
from collectors.importers.trace import Clock, Trace
from collectors.manifest import ProbeRecord
from probes.base import Context, Level
from probes.keeper import Keeper
from probes.target import Target, find_target
from probes.torch_profiler import clock, files, switch
from probes.torch_profiler.localise import localise
from probes.torch_profiler.plan import ALLOW, RESTART, make_plan
from probes.torch_profiler.probe import TorchProfilerProbe
from probes.torch_profiler.settings import find_settings
from probes.torch_profiler.slice_child import Call, SliceChild
from tests.fakeproc import PYTHON, FakeProc
from tests.recordings import PID, make_recorder
from tests.waiting import wait_until

LONG_S = 60.0  # no test waits for it
START, STOP = "/start_profile", "/stop_profile"
CONFIG = {"profiler": "torch", "torch_profiler_dir": "/traces", "torch_profiler_with_stack": False}


@dataclass
class FakeServer:
    """Answers as vLLM does, and writes a trace when it is told to stop."""

    url: str = ""
    routes: int = 405  # what GET of its routes is answered
    answers: dict[str, int] = field(default_factory=lambda: {START: 200, STOP: 200})
    bodies: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    hanging: set[str] = field(default_factory=set)
    breaking: set[str] = field(default_factory=set)
    traces: Path | None = None
    closing: threading.Event = field(default_factory=threading.Event)

    def take(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        path = handler.path
        self.bodies[path] = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        self.asked.append(path)
        if path in self.hanging:
            self.closing.wait(LONG_S)
        if path in self.breaking:
            handler.connection.close()
            return
        if path == STOP and self.traces is not None:
            prefix = json.loads(self.bodies[START])["profile_prefix"]
            write_trace(self.traces / f"{prefix}_rank0.1.pt.trace.json.gz")
        handler.send_response(self.answers[path])
        handler.end_headers()


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(fake.routes)
            self.end_headers()

        def do_POST(self) -> None:
            fake.take(self)

        def log_message(self, *_arguments: object) -> None:
            pass

    http_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http_server.handle_error = lambda *_: None  # type: ignore[method-assign]  # it hung up on us
    thread = threading.Thread(target=http_server.serve_forever, args=(0.01,))
    thread.start()
    fake.url = f"http://127.0.0.1:{http_server.server_port}"
    yield fake
    fake.closing.set()
    http_server.shutdown()
    thread.join()
    http_server.server_close()


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    keeper = Keeper()
    yield keeper
    keeper.close()


def write_trace(path: Path, pid: int = PID) -> None:
    """One operator of a millisecond that ends now, as torch writes it."""
    base_ns = 1_790_857_026_000_000_000
    event = {
        "ph": "X", "cat": "cpu_op", "name": "aten::mm", "pid": pid, "tid": pid + 1,
        "ts": (time.time_ns() - 1_000_000 - base_ns) / 1e3, "dur": 1000.0,
    }  # fmt: skip
    trace = {"schemaVersion": 1, "baseTimeNanoseconds": base_ns, "traceEvents": [event]}
    path.write_bytes(gzip.compress(json.dumps(trace).encode()))


def server_target(
    tmp_path: Path, *options: str, environment: str = "", program: tuple[str, ...] = ("vllm",)
) -> Target:
    """A vLLM server started with these options; its root is the directory ``root``."""
    proc = FakeProc(tmp_path / "proc")
    proc.add(PID, [PYTHON, *program, "serve", "m", *options])
    (proc.root / str(PID) / "environ").write_text(environment)
    (tmp_path / "root" / "traces").mkdir(parents=True, exist_ok=True)
    for name in ("root", "cwd"):
        (proc.root / str(PID) / name).symlink_to(tmp_path / "root")
    return find_target(PID, proc.procfs)


def config_option(**changes: object) -> tuple[str, str]:
    return "--profiler-config", json.dumps(CONFIG | changes)


# What the server was started with.


@pytest.mark.parametrize(
    "options",
    [
        ["--profiler-config", json.dumps(CONFIG)],
        [f"--profiler_config={json.dumps(CONFIG)}"],
        ["--profiler-config.profiler", "torch", "--profiler-config.torch_profiler_dir=/traces",
         "--profiler-config.torch_profiler_with_stack=False"],
    ],
)  # fmt: skip
def test_every_way_to_give_the_settings_is_read(tmp_path, options):
    found = find_settings(server_target(tmp_path, *options))

    assert found is not None
    assert (found.profiler, found.directory, found.has_stacks) == ("torch", "/traces", False)


@pytest.mark.parametrize("given", [None, True, "perhaps", "true"])
def test_stacks_are_on_unless_they_are_off_for_certain(tmp_path, given):
    config = {name: value for name, value in CONFIG.items() if not name.endswith("with_stack")}
    if given is not None:
        config["torch_profiler_with_stack"] = given

    found = find_settings(server_target(tmp_path, "--profiler-config", json.dumps(config)))

    assert found is not None
    assert found.has_stacks


@pytest.mark.parametrize(("variable", "expected"), [("", True), ("1", True), ("0", False)])
def test_earlier_versions_are_set_up_by_variables(tmp_path, variable, expected):
    environment = "VLLM_TORCH_PROFILER_DIR=/traces\0HF_TOKEN=secret\0"
    if variable:
        environment += f"VLLM_TORCH_PROFILER_WITH_STACK={variable}\0"

    found = find_settings(server_target(tmp_path, environment=environment))

    assert found is not None
    assert (found.directory, found.has_stacks) == ("/traces", expected)


@pytest.mark.parametrize(
    "options", [[], ["--profiler-config"], ["--profiler-config", "{"], ["--profiler-config", "{}"]]
)
def test_a_server_that_was_told_nothing_has_no_settings(tmp_path, options):
    assert find_settings(server_target(tmp_path, *options)) is None


@pytest.mark.parametrize(
    ("directory", "environment", "expected"),
    [
        ("/traces", "", "root/traces"),
        ("traces", "", "cwd/traces"),
        ("~/traces", "HOME=/home/u\0", "root/home/u/traces"),
    ],
)
def test_the_directory_is_reached_through_the_process(tmp_path, directory, environment, expected):
    target = server_target(
        tmp_path, *config_option(torch_profiler_dir=directory), environment=environment
    )
    settings = find_settings(target)

    assert settings is not None
    assert files.directory_of(settings, target.procfs) == target.procfs.root / str(PID) / expected


def test_the_traces_that_carry_our_prefix_are_ours(tmp_path):
    before = {tmp_path / "old.pt.trace.json"}
    for name in (
        "old.pt.trace.json",
        "theirs.pt.trace.json",
        "ours_1.pt.trace.json.gz",
        "ours.txt",
    ):
        (tmp_path / name).touch()

    assert [one.name for one in files.new_files(tmp_path, before, "ours")] == [
        "ours_1.pt.trace.json.gz"
    ]
    # A server that does not heed the prefix.
    assert [one.name for one in files.new_files(tmp_path, before, "other")] == [
        "ours_1.pt.trace.json.gz", "theirs.pt.trace.json",
    ]  # fmt: skip


# Who may be profiled.


def refusal(target: Target, server: FakeServer, *, allows_stacks: bool = False) -> ProbeUnavailable:
    with pytest.raises(ProbeUnavailable) as caught:
        make_plan(target, server.url, allows_stacks=allows_stacks)
    assert server.asked == []  # nothing was started to find out
    return caught.value


def test_a_server_that_may_be_profiled_is_planned_for(tmp_path, server):
    plan = make_plan(server_target(tmp_path, *config_option()), server.url, allows_stacks=False)

    assert plan.url == server.url
    assert plan.directory.is_dir()
    assert server.asked == []


def test_a_profiler_that_records_stacks_is_refused_with_the_reason(tmp_path, server):
    error = refusal(server_target(tmp_path, *config_option(torch_profiler_with_stack=True)), server)

    assert "records Python stacks" in error.message
    assert ALLOW in error.remedy


def test_a_profiler_that_records_stacks_is_used_when_told_so(tmp_path, server):
    target = server_target(tmp_path, *config_option(torch_profiler_with_stack=True))

    capability = TorchProfilerProbe(url=server.url, allows_stacks=True).check(target)

    assert capability.level is Level.DEGRADED
    assert "stacks" in (capability.reason or "")


@pytest.mark.parametrize(
    ("status", "said"), [(404, "its profiler is off"), (403, "status 403"), (200, "status 200")]
)
def test_a_server_without_the_routes_is_refused(tmp_path, server, status, said):
    server.routes = status

    error = refusal(server_target(tmp_path, *config_option()), server)

    assert said in error.message
    assert error.remedy == RESTART


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"profiler": "cuda"}, "'cuda' and not torch"),
        ({"torch_profiler_dir": "s3://bucket"}, "no directory here"),
    ],
)
def test_a_profiler_that_leaves_no_files_here_is_refused(tmp_path, server, changes, said):
    assert said in refusal(server_target(tmp_path, *config_option(**changes)), server).message


def test_settings_that_cannot_be_seen_are_not_guessed(tmp_path, server):
    error = refusal(server_target(tmp_path, "--config", "server.yaml"), server, allows_stacks=True)

    assert "cannot be told" in error.message


def test_a_full_disk_is_refused(tmp_path, server, monkeypatch):
    monkeypatch.setattr("probes.torch_profiler.plan.MIN_FREE_BYTES", 1 << 62)

    error = refusal(server_target(tmp_path, *config_option()), server)

    assert "MiB are free" in error.message


def test_a_program_that_is_no_vllm_is_refused(tmp_path, server):
    proc = FakeProc(tmp_path / "proc")
    target = find_target(proc.add(PID, [PYTHON, "train.py"]), proc.procfs)

    assert "no vLLM server" in refusal(target, server).message


def test_a_server_that_does_not_answer_is_refused(tmp_path, server):
    server.url = "http://127.0.0.1:9"  # discard: nobody listens

    assert (
        "no answer (ConnectionRefusedError)"
        in refusal(server_target(tmp_path, *config_option()), server).message
    )


# The slice.


def run_slice(keeper: Keeper, server: FakeServer, slice_s: float = LONG_S) -> SliceChild:
    return SliceChild(keeper, server.url, slice_s, {"max_iterations": 5}, lambda *_: None)


def await_start(child: SliceChild) -> None:
    wait_until(lambda: child.started is not None, "the server was asked to start")


def test_a_slice_starts_and_stops_the_profiler(keeper, server):
    child = run_slice(keeper, server, slice_s=0.05)

    assert child.wait(LONG_S)
    assert server.asked == [START, STOP]
    assert json.loads(server.bodies[START]) == {"max_iterations": 5}
    assert child.started is not None
    assert child.stopped is not None
    assert child.started.is_ok
    assert child.stopped.is_ok
    assert child.stopped.begin_ns - child.started.end_ns >= 50_000_000


def test_a_slice_can_end_early(keeper, server):
    child = run_slice(keeper, server)
    await_start(child)

    child.end_early()

    assert child.wait(LONG_S)
    assert server.asked == [START, STOP]


def test_the_profiler_is_stopped_when_the_child_is_told_to_end(keeper, server):
    child = run_slice(keeper, server)
    await_start(child)

    os.kill(child.pid, signal.SIGTERM)

    assert child.wait(LONG_S)
    assert server.asked == [START, STOP]


def test_a_start_that_is_not_answered_is_stopped_all_the_same(keeper, server):
    server.hanging = {START}
    child = run_slice(keeper, server)
    wait_until(lambda: server.asked == [START], "the server was asked to start")

    os.kill(child.pid, signal.SIGTERM)

    assert child.wait(LONG_S)
    assert server.asked == [START, STOP]


def test_the_profiler_is_stopped_when_the_keeper_closes(server):
    keeper = Keeper()
    try:
        await_start(run_slice(keeper, server))
    finally:
        keeper.close()

    assert server.asked == [START, STOP]


def test_the_profiler_is_stopped_when_the_keeper_is_killed(keeper, server):
    child = run_slice(keeper, server)
    await_start(child)

    os.kill(keeper.pid, signal.SIGKILL)

    assert child.wait(LONG_S)
    assert server.asked == [START, STOP]


def test_the_profiler_is_stopped_when_the_child_is_killed(keeper, server):
    child = run_slice(keeper, server)
    await_start(child)

    os.kill(child.pid, signal.SIGKILL)

    assert child.wait(LONG_S)
    assert server.asked == [START, STOP]
    assert child.stopped is not None
    assert child.stopped.is_ok


SESSION = """
import sys, time
from probes.keeper import Keeper
from probes.torch_profiler.slice_child import SliceChild
SliceChild(Keeper(), sys.argv[1], 60.0, {}, lambda what, _: print(what, flush=True))
time.sleep(60)
"""


def test_the_profiler_is_stopped_when_the_session_is_killed(server):
    session = subprocess.Popen(
        [sys.executable, "-c", SESSION, server.url],
        stdout=subprocess.PIPE, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    try:
        assert session.stdout is not None
        assert session.stdout.readline().strip() == switch.STARTED.encode()
    finally:
        session.kill()
        session.communicate()

    wait_until(lambda: server.asked == [START, STOP], "the profiler was stopped")


@pytest.mark.parametrize("status", [404, 409, 422])
def test_what_was_not_started_by_us_is_not_stopped_by_us(keeper, server, status):
    server.answers[START] = status
    child = run_slice(keeper, server)

    assert child.wait(LONG_S)
    assert server.asked == [START]
    assert child.started is not None
    assert child.started.status == status


def test_a_start_that_failed_half_way_is_stopped_at_once(keeper, server):
    server.answers[START] = 500
    child = run_slice(keeper, server)

    assert child.wait(LONG_S)
    assert server.asked == [START, STOP]


def test_a_server_that_is_not_there_is_left_alone(keeper, server):
    server.url = "http://127.0.0.1:9"
    child = run_slice(keeper, server)

    assert child.wait(LONG_S)
    assert child.stopped is None
    assert child.started is not None
    assert child.started.reason == "nothing listens there"


# The probe.


class Stage:
    """A probe at work on a fake server, and what it leaves."""

    def __init__(self, tmp_path: Path, server: FakeServer, keeper: Keeper) -> None:
        self.target = server_target(tmp_path, *config_option())
        self.recorder = make_recorder(tmp_path / "c")
        self.said: list[str] = []
        self.probe = TorchProfilerProbe(LONG_S, server.url)
        context = Context(self.target, self.recorder, keeper, {PID: 0})
        context.on_status = lambda _name, text: self.said.append(text)
        assert self.probe.check(self.target).level is Level.WORKS
        self.probe.start(context)
        wait_until(lambda: bool(self.said), "the server was asked to start")

    def stop(self) -> tuple[ProbeRecord, Capture]:
        record = self.probe.stop()
        self.recorder.manifest.stopped_ns = time.monotonic_ns()
        self.recorder.close()
        return record, finalise(self.recorder.directory, self.recorder.manifest)


def test_a_trace_is_poured_into_the_recording_on_its_clock(tmp_path, server, keeper):
    stage = Stage(tmp_path, server, keeper)
    server.traces = tmp_path / "root" / "traces"
    record, capture = stage.stop()

    (row,) = capture.table("slices").to_pylist()
    (name,) = capture.table("names").to_pylist()
    tracks = {one["track"]: one for one in capture.table("tracks").to_pylist()}
    assert (name["kind"], name["text"]) == ("op", "aten::mm")
    assert tracks[row["track"]]["tid"] == PID + 1
    assert record.level == "works"
    assert record.detail["slice_count"] == 1
    assert record.detail["has_stacks"] is False
    (file,) = record.detail["files"]
    assert file["bytes"] > 0
    # It ended when the server was told to stop, which only the right clock can say.
    found = record.detail["clock"]
    low_ns, high_ns = found["bounds_ns"]
    assert -LONG_S * 1e9 < low_ns <= found["error_ns"]
    assert -found["error_ns"] <= high_ns < LONG_S * 1e9
    assert row["duration_ns"] == pytest.approx(1_000_000, abs=1)
    body = json.loads(server.bodies[START])
    assert body["max_iterations"] == LONG_S * 100
    assert file["name"].startswith(body["profile_prefix"])


def failure(stage: Stage) -> ProbeRecord:
    """Return the record of a slice that failed, which says so in the gaps, too."""
    record, capture = stage.stop()
    assert record.level == "degraded"
    assert record.remedy
    assert [gap["reason"] for gap in capture.table("gaps").to_pylist()] == [record.reason]
    assert len(capture.table("slices")) == 0
    return record


def test_a_server_that_writes_nothing_is_a_reason(tmp_path, server, keeper):
    record = failure(Stage(tmp_path, server, keeper))

    assert record.reason == "no trace appeared in /traces"


def test_a_damaged_trace_is_a_reason(tmp_path, server, keeper):
    stage = Stage(tmp_path, server, keeper)
    (tmp_path / "root" / "traces" / "x.pt.trace.json.gz").write_bytes(b"\x1f\x8b\x08 cut off")

    assert "x.pt.trace.json.gz" in (failure(stage).reason or "")


def test_a_profiler_in_use_is_a_reason(tmp_path, server, keeper):
    server.answers[START] = 409

    assert "somebody else" in (failure(Stage(tmp_path, server, keeper)).reason or "")
    assert server.asked == [START]


def test_a_server_that_dies_before_the_stop_is_a_reason(tmp_path, server, keeper):
    server.breaking = {STOP}

    assert "did not stop its profiler" in (failure(Stage(tmp_path, server, keeper)).reason or "")


def test_a_server_that_is_still_writing_is_not_waited_for_for_ever(
    tmp_path, server, keeper, monkeypatch
):
    monkeypatch.setattr("probes.torch_profiler.probe.FINISH_LIMIT_S", 0.1)
    server.hanging = {STOP}

    record = failure(Stage(tmp_path, server, keeper))

    assert "still writing" in (record.reason or "")
    assert "cputax import" in (record.remedy or "")


# Clocks and ids.


def test_the_clocks_error_covers_a_step_of_the_wall_clock():
    before = Anchor(1_000, 10_000, 0, uncertainty_ns=5)
    after = Anchor(3_000, 12_400, 0, uncertainty_ns=7)  # wall time went 400 ns further

    fit = clock.fit([before, after])

    assert fit.offset_ns == -9_200
    assert fit.error_ns == 200 + 7 + clock.CONVERSION_NS


def test_the_clocks_error_is_small_when_nothing_steps():
    assert clock.fit([read_anchor(), read_anchor()]).error_ns < 1_000_000


def test_the_calls_bound_the_clocks_error_from_both_sides():
    started, stopped = Call(100, 200, 200, ""), Call(900, 1_000, 200, "")

    assert clock.bounds_ns(150, 950, started, stopped) == (-50, 50)
    # A clock that is 200 ahead: the last event ends after the stop was answered.
    low_ns, high_ns = clock.bounds_ns(350, 1_150, started, stopped)
    assert high_ns < 0
    assert low_ns <= high_ns


def test_ids_from_inside_a_container_become_the_hosts(tmp_path):
    target = server_target(tmp_path)
    status = "NSpid:\t{}\t{}\n"
    task = target.procfs.root / str(PID) / "task"
    (target.procfs.root / str(PID) / "status").write_text(status.format(PID, 7))
    (task / str(PID) / "status").write_text(status.format(PID, 7))
    (task / str(PID + 1)).mkdir()
    (task / str(PID + 1) / "status").write_text(status.format(PID + 1, 8))
    trace = Trace("kineto", Clock.REALTIME)
    trace.thread(trace.process(7), 8)
    trace.stream(trace.device(0), 3, process=trace.process(7))
    trace.process(99)

    localise(trace, target)

    rows: dict[str, list[Any]] = {}
    for row in trace.track_rows:
        rows.setdefault(row["kind"], []).append((row.get("pid"), row.get("tid")))
    assert rows == {
        "process": [(PID, None), (99, None)],
        "thread": [(PID, PID + 1)],
        "device": [(None, None)],
        "stream": [(PID, 3)],
    }
