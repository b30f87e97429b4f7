"""One command on a real server with its torch profiler: operators and stacks on one clock.

The order is checked without believing either side's instants: a stack was read between the look
that first saw it and the look that saw the next one. If it shows the model runner, one of the
ranges that the profiler drew around the model runner must be open somewhere in that time; if it
does not show the worker's step, which opens both, no range may span all of it. What is missing is
a violation, and so long it is.
"""

from __future__ import annotations

import bisect
import contextlib
import json
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from serve import Server, running_server

from collectors.capture import open_capture
from tests.commands import CPUTAX, run_cputax, start_cputax
from tests.waiting import wait_until

# The worker sorts what it saw before it answers: at each second of the slice it takes several.
SLICE = "1s"
# An eighth of it is left on a host without idle CPU, as this one is under load.
STACK_HZ = 800
RUNNER = "ModelRunner.execute_model"  # in whose frame each step of the model runs
RANGE = "execute_"  # what vLLM calls the range around it
# It opens the range and then calls the runner: between the two it is on either side.
STEP = "Worker.execute_model"
# The operator, and the Python function that calls it and nothing else for long.
CALLERS = {
    "_C::onednn_mm": "onednn_mm",
    "_C::cpu_attention_with_kv_cache": "cpu_attention_with_kv_cache",
    "vllm::unified_attention_with_output": "Attention.forward",
}
# A look takes so long to come to a thread, and most operators are shorter: only those count that
# still run then.
LOOK_NS = 200_000
LEAST_CALLER_RATIO = 0.8
# A clock that is wrong by this must be seen, or the check of the order is worth nothing.
SHIFTS_NS = (-20_000_000, -10_000_000, 10_000_000, 20_000_000)
SEEN_TOKENS = 20  # several steps of the engine with four users
# Of one call to the profiler; a slow machine's, since nothing here is about time.
PROFILER_LIMIT_S = 180.0


@contextlib.contextmanager
def light_load(url: str) -> Iterator[None]:
    """Let four users chat over short prompts, so that the engine steps all the time."""
    shape = ["--users", "4", "--prompt-chars", "2000", "--max-tokens", "32", "--shared-prompt"]
    process = subprocess.Popen(
        [CPUTAX, "load", "run", "--url", url, "-q", *shape, "-d", "300s"]
    )  # fmt: skip
    try:
        yield
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Yield a server that was started with its profiler, without stacks, under load."""
    config = {
        "profiler": "torch",
        "torch_profiler_dir": str(tmp_path_factory.mktemp("traces")),
        "torch_profiler_with_stack": False,
    }
    arguments = ("--profiler-config", json.dumps(config))
    with (
        running_server(arguments=arguments, max_seconds=900.0) as running,
        light_load(running.url),
    ):
        yield running


@dataclass(frozen=True)
class Run:
    """A stack of the worker's main thread, outermost frame last, and between which looks."""

    start_ns: int
    end_ns: int
    functions: tuple[str, ...]

    def shows(self, part: str) -> bool:
        return any(part in function for function in self.functions)


class Timeline:
    """What of a capture the order is told from, within the slice."""

    def __init__(self, path: Path) -> None:
        self._capture = open_capture(path)
        (self.record,) = (p for p in self._capture.manifest.probes if p.name == "torch_profiler")
        tracks = self._capture.table("tracks").to_pylist()
        (self.track,) = (
            row["track"]
            for row in tracks
            if row["kind"] == "thread" and row["role"] == "worker" and row["tid"] == row["pid"]
        )

    @cached_property
    def slices(self) -> list[dict[str, Any]]:
        """Slices of the worker's main thread with their names, in order."""
        names = {row["name"]: row for row in self._capture.table("names").to_pylist()}
        rows = self._capture.table("slices").to_pylist()
        mine = [row | names[row["name"]] for row in rows if row["track"] == self.track]
        return sorted(mine, key=lambda row: int(row["time_ns"]))

    @cached_property
    def ranges(self) -> list[tuple[int, int]]:
        """Start and end of each range around the model runner."""
        return [
            (row["time_ns"], row["time_ns"] + row["duration_ns"])
            for row in self.slices
            if row["kind"] == "annotation" and row["text"].startswith(RANGE)
        ]

    @cached_property
    def runs(self) -> list[Run]:
        """The runs of equal stacks between the first range and the last."""
        first_ns, last_ns = self.ranges[0][0], self.ranges[-1][1]
        frames = {row["frame"]: row for row in self._capture.table("frames").to_pylist()}
        stacks = {row["stack"]: row for row in self._capture.table("stacks").to_pylist()}
        runs = []
        for row in self._capture.table("samples").to_pylist():
            end_ns = row["time_ns"] + row["duration_ns"]
            if row["track"] != self.track or row["time_ns"] < first_ns or end_ns > last_ns:
                continue
            functions = []
            stack = row["stack"]
            while stack >= 0:
                functions.append(frames[stacks[stack]["frame"]]["function"])
                stack = stacks[stack]["parent"]
            runs.append(Run(row["time_ns"], end_ns, tuple(functions)))
        return runs

    def largest_violation_ns(self, shift_ns: int = 0) -> int:
        """Return by how much stacks and ranges are out of order, the stacks moved by a shift."""
        return max(
            (
                self._violation_ns(run, run.start_ns + shift_ns, run.end_ns + shift_ns)
                for run in self.runs
                if run.shows(RUNNER) or not run.shows(STEP)
            ),
            default=0,
        )

    def _violation_ns(self, run: Run, begin_ns: int, end_ns: int) -> int:
        """Return how far a run is from where it may be; not above zero when it is there."""
        if run.shows(RUNNER):  # a range must be open at some time in it
            return min(max(start - end_ns, begin_ns - stop) for start, stop in self.ranges)
        # No range may be open all the time.
        return max(min(begin_ns - start, stop - end_ns) for start, stop in self.ranges)


@pytest.fixture(scope="module")
def timeline(profiled: Server, tmp_path_factory: pytest.TempPathFactory) -> Timeline:
    """What one command left."""
    path = tmp_path_factory.mktemp("torch") / "torch.capture"
    finished = run_cputax(
        "attach", profiled.pid, "-d", "6s", "--torch-profiler", SLICE, "-r", STACK_HZ,
        "-o", path, "-q", limit_s=2 * PROFILER_LIMIT_S,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    return Timeline(path)


def test_the_workers_operators_are_in_the_capture(timeline: Timeline) -> None:
    assert timeline.record.level == "works", timeline.record
    operators = [row for row in timeline.slices if row["kind"] == "op"]
    assert len(operators) > 1000
    assert {row["text"] for row in operators} >= CALLERS.keys()
    assert len(timeline.ranges) > 10


def test_the_clocks_error_is_stated_and_the_calls_agree(timeline: Timeline) -> None:
    clock = timeline.record.detail["clock"]
    low_ns, high_ns = clock["bounds_ns"]
    assert 0 < clock["error_ns"] < 1_000_000
    assert low_ns <= clock["error_ns"]
    assert high_ns >= -clock["error_ns"]


def test_stacks_and_operators_are_never_inverted_by_more_than_the_clocks_error(
    timeline: Timeline,
) -> None:
    assert len(timeline.runs) >= 20
    assert timeline.largest_violation_ns() <= timeline.record.detail["clock"]["error_ns"]


@pytest.mark.parametrize("shift_ns", SHIFTS_NS)
def test_a_clock_that_is_wrong_would_be_seen(timeline: Timeline, shift_ns: int) -> None:
    error_ns = timeline.record.detail["clock"]["error_ns"]
    assert timeline.largest_violation_ns(shift_ns) > 10 * error_ns


def test_a_stack_within_an_operator_shows_the_function_that_calls_it(timeline: Timeline) -> None:
    found = []
    for operator, caller in CALLERS.items():
        rows = [row for row in timeline.slices if row["text"] == operator]
        starts = [row["time_ns"] for row in rows]
        for run in timeline.runs:
            index = bisect.bisect_right(starts, run.start_ns) - 1
            if index >= 0 and run.start_ns + LOOK_NS < starts[index] + rows[index]["duration_ns"]:
                found.append(run.shows(caller))
    assert found
    assert sum(found) >= LEAST_CALLER_RATIO * len(found), found


# The profiler is never left running.


def is_profiling(server: Server) -> bool:
    """Whether the server says so; if not, it does not either afterwards."""
    if _post(server, "start_profile") == 409:
        return True
    assert _post(server, "stop_profile") == 200
    return False


def _post(server: Server, route: str) -> int:
    request = urllib.request.Request(f"{server.url}/{route}", method="POST")
    try:
        with urllib.request.urlopen(request, timeout=PROFILER_LIMIT_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def start_profiling(server: Server, path: Path) -> subprocess.Popen[str]:
    """Start a slice that would last for minutes, and wait until the server is in it."""
    started_count = server.log.read_text(errors="replace").count("Profiler started")
    options = ["-d", "300s", "--torch-profiler", "300s", "-o", path, "-q"]
    attached = start_cputax("attach", server.pid, *options)

    def is_on() -> bool:
        assert attached.poll() is None
        return server.log.read_text(errors="replace").count("Profiler started") > started_count

    wait_until(is_on, "the server was profiling", within_s=PROFILER_LIMIT_S)
    return attached


def generated_count(server: Server) -> float:
    """Return how many tokens the server has made so far."""
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=PROFILER_LIMIT_S) as answer:
        lines = answer.read().decode().splitlines()
    name = "vllm:generation_tokens_total{"
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def test_the_profiler_is_off_after_the_slice(profiled: Server, timeline: Timeline) -> None:
    assert not is_profiling(profiled)


def test_ctrl_c_ends_the_slice_and_keeps_what_it_saw(profiled: Server, tmp_path: Path) -> None:
    attached = start_profiling(profiled, tmp_path / "c")
    before = generated_count(profiled)
    wait_until(
        lambda: generated_count(profiled) > before + SEEN_TOKENS,
        "steps were seen",
        within_s=PROFILER_LIMIT_S,
    )
    attached.send_signal(signal.SIGINT)
    _, stderr = attached.communicate(timeout=2 * PROFILER_LIMIT_S)

    assert attached.returncode == 0, stderr
    assert Timeline(tmp_path / "c").slices
    assert not is_profiling(profiled)


def test_the_profiler_is_off_soon_after_cputax_was_killed(profiled: Server, tmp_path: Path) -> None:
    attached = start_profiling(profiled, tmp_path / "c")
    attached.kill()
    attached.communicate()

    wait_until(lambda: not is_profiling(profiled), "it was off", within_s=PROFILER_LIMIT_S)
    assert profiled.is_answering(timeout_s=PROFILER_LIMIT_S)
