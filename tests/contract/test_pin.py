"""A trial of masks on real processes: whatever happens, every mask is as it was."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from profiler.practice import Load, running_oracle, under_load
from tests.commands import CPUTAX, run_cputax, said_error
from tests.live.driving import processes_marked
from tests.masks import masks_of
from tests.programs import TARGETS, Program, is_gone, start_program
from tests.waiting import wait_until

CPUS = sorted(os.sched_getaffinity(0))
FIRST, LAST = CPUS[0], CPUS[-1]
MARK = "CPUTAX_TEST_MARK"

pytestmark = pytest.mark.skipif(len(CPUS) < 2, reason="needs two CPUs")


class Tried:
    """A server with threads, and a trial that puts it on its first CPU every other moment."""

    def __init__(self, program: Program, mark: str) -> None:
        self.program = program
        self.before = masks_of(program.pid)
        self._mark = mark
        self.process: subprocess.Popen[str]

    def start(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [
                CPUTAX, "pin", "--trial", str(self.program.pid), "--cpus", f"api_server={FIRST}",
                "--window", "400ms", "--settle", "50ms", "--windows", "12", *arguments,
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, MARK: self._mark},
        )  # fmt: skip

    @property
    def is_pinned(self) -> bool:
        """Whether the trial has moved the server just now."""
        return os.sched_getaffinity(self.program.pid) == {FIRST}

    @property
    def guardian(self) -> int:
        (guardian,) = psutil.Process(self.process.pid).children()
        return guardian.pid

    def await_pinned(self) -> None:
        wait_until(lambda: self.is_pinned, "the plan is in force")

    def ask(self, path: str) -> int:
        """Let the server make a thread or a process; return its id."""
        url = f"http://127.0.0.1:{self.program.hello['port']}{path}"
        with urllib.request.urlopen(urllib.request.Request(url, method="POST")) as answer:
            return int(answer.read())

    def end(self) -> tuple[int, str, str]:
        """Return the exit code and what was said."""
        stdout, stderr = self.process.communicate(timeout=60)
        return self.process.returncode, stdout, stderr

    def assert_nothing_is_left(self) -> None:
        wait_until(lambda: not processes_marked(MARK, self._mark), "no guardian is left")

    def assert_as_before(self) -> None:
        """Every thread that was there has its mask, and so has each that came since."""
        self.assert_nothing_is_left()
        after = masks_of(self.program.pid)
        assert {who: after[who] for who in self.before} == self.before
        assert {after[who] for who in after.keys() - self.before.keys()} <= {frozenset(CPUS)}


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    link = tmp_path / "bin" / "vllm"
    link.parent.mkdir()
    link.symlink_to(TARGETS / "threaded_server.py")
    running: list[Program] = []

    def make(rate_hz: int = 1000) -> Program:
        running.append(start_program(link, "serve", "tiny", str(rate_hz), str(LAST)))
        return running[-1]

    yield make
    for program in running:
        program.end()


@pytest.fixture
def tried(make_server: Callable[..., Program], tmp_path: Path) -> Iterator[Tried]:
    trial = Tried(make_server(), str(tmp_path))
    trial.start()
    yield trial
    if trial.process.poll() is None:
        trial.process.send_signal(signal.SIGCONT)
        trial.process.kill()
        trial.process.communicate()


def test_the_normal_end(make_server, tmp_path):
    trial = Tried(make_server(), str(tmp_path))
    trial.start("--json")
    trial.await_pinned()
    assert masks_of(trial.program.pid)[trial.program.pid, trial.program.pid] == {FIRST}

    exit_code, stdout, stderr = trial.end()

    assert exit_code == 0, stderr
    trial.assert_as_before()
    found = json.loads(stdout)
    assert [window["is_pinned"] for window in found["windows"]].count(True) == 6
    assert len(found["windows"]) == 12
    # Its counters know nothing of masks
    assert found["verdict"] == "none"
    assert found["gains"]["output tokens"]["pair_count"] == 6
    assert found["masks"]["foreign"] == found["masks"]["refused"] == []
    assert f"taskset -pc {FIRST} $t" in found["commands"][0]
    assert "guardian" in stderr  # it has said before what it would do


def test_threads_that_were_bound_on_purpose_stay_where_they_are(tried):
    bound = {who for who, mask in tried.before.items() if mask == {LAST}}
    assert len(bound) == 1

    tried.await_pinned()
    during = masks_of(tried.program.pid)

    assert {during[who] for who in bound} == {frozenset({LAST})}
    tried.process.kill()
    tried.end()
    tried.assert_as_before()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_polite_signals(tried, number):
    tried.await_pinned()
    tried.process.send_signal(number)

    exit_code, stdout, stderr = tried.end()

    assert exit_code == 1
    assert "Masks: all as before" in stdout
    assert "Traceback" not in stderr
    tried.assert_as_before()


def test_a_killed_trial(tried):
    tried.await_pinned()
    tried.process.kill()
    tried.end()
    tried.assert_as_before()


@pytest.mark.parametrize("seed", range(5))
def test_a_trial_that_is_killed_at_any_moment(tried, seed):
    moment_s = random.Random(seed).uniform(0.0, 6.0)
    end_s = time.monotonic() + moment_s
    wait_until(lambda: time.monotonic() > end_s or tried.process.poll() is not None, "the moment")
    tried.process.kill()
    tried.end()
    tried.assert_as_before()


def test_a_killed_guardian(tried):
    tried.await_pinned()
    os.kill(tried.guardian, signal.SIGKILL)

    exit_code, _, stderr = tried.end()

    assert exit_code == 1
    assert said_error(stderr)["slug"] == "guardian-gone"
    tried.assert_as_before()


def test_a_guardian_that_is_told_to_end_goes_on(tried):
    tried.await_pinned()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(tried.guardian, number)

    assert tried.end()[0] == 0
    tried.assert_as_before()


def test_a_frozen_trial(tried):
    tried.await_pinned()
    tried.process.send_signal(signal.SIGSTOP)
    wait_until(lambda: not tried.is_pinned, "the guardian has put the masks back")
    tried.process.send_signal(signal.SIGCONT)

    exit_code, _, stderr = tried.end()

    assert exit_code == 1
    assert said_error(stderr)["slug"] == "guardian-gone"
    tried.assert_as_before()


def test_a_server_that_ends(tried):
    tried.await_pinned()
    tried.program.process.kill()

    exit_code, stdout, stderr = tried.end()

    assert exit_code == 3
    assert said_error(stderr)["slug"] == "target-exited"
    assert "exited" in stdout
    tried.assert_nothing_is_left()


@pytest.mark.parametrize("is_killed", [False, True], ids=["ends", "is killed"])
def test_threads_and_processes_that_were_born_under_the_plan(tried, is_killed):
    tried.await_pinned()
    tid, child = tried.ask("/thread"), tried.ask("/process")
    assert os.sched_getaffinity(tid) == os.sched_getaffinity(child) == {FIRST}

    if is_killed:
        tried.process.kill()
    exit_code, stdout, _ = tried.end()

    tried.assert_as_before()
    assert os.sched_getaffinity(tid) == os.sched_getaffinity(child) == set(CPUS)
    assert is_killed or (exit_code == 0 and "born meanwhile" in stdout)


def test_what_somebody_else_moves_meanwhile_is_left_and_told(tried):
    other = next(
        tid for (_, tid), mask in tried.before.items()
        if mask == set(CPUS) and tid != tried.program.pid
    )  # fmt: skip
    tried.await_pinned()
    os.sched_setaffinity(other, {LAST})

    exit_code, stdout, _ = tried.end()

    assert exit_code == 0
    assert f"{tried.program.pid}/{other}" in stdout
    after = masks_of(tried.program.pid)
    assert after.pop((tried.program.pid, other)) == {LAST}
    assert {who: after[who] for who in tried.before if who in after} == {
        who: mask for who, mask in tried.before.items() if who[1] != other
    }


def test_a_server_of_three_processes_under_load():
    # Given
    load = Load(users=4, prompt_chars=500, max_tokens=8, warm_up_s=1.0)
    with running_oracle() as oracle, under_load(oracle, load, 30.0):
        before = masks_of(oracle.pid)

        # When
        ended = run_cputax(
            "pin", "--trial", oracle.pid, "--cpus", f"engine_core={FIRST}",
            "--cpus", f"api_server={LAST}", "--window", "500ms", "--settle", "100ms",
            "--windows", "12", "--json",
        )  # fmt: skip

        # Then
        assert ended.returncode == 0, ended.stderr
        after = masks_of(oracle.pid)
        assert {who: after[who] for who in before if who in after} == {
            who: mask for who, mask in before.items() if who in after
        }
        assert set(after.values()) == {frozenset(CPUS)}
        found = json.loads(ended.stdout)
        assert found["masks"]["process_count"] == 2
        assert found["gains"]["output tokens"]["pair_count"] > 0


def test_a_plan_changes_nothing_and_can_be_tried_from_its_file(make_server, tmp_path):
    program = make_server()
    before = masks_of(program.pid)

    planned = run_cputax("pin", "--plan", program.pid, "--cpus", f"api_server={LAST}", "--json")

    assert planned.returncode == 0, planned.stderr
    assert masks_of(program.pid) == before
    (placement,) = json.loads(planned.stdout)["placements"]
    assert (placement["pid"], placement["proposed"]) == (program.pid, str(LAST))
    assert placement["bound_thread_count"] == 1
    path = tmp_path / "plan.json"
    path.write_text(planned.stdout)
    again = run_cputax("pin", program.pid, "--plan-file", path)
    assert f"taskset -pc {LAST} $t" in again.stdout


def refused(*arguments: object) -> tuple[int, str]:
    """Return the exit code and the slug of what cputax says."""
    ended = run_cputax("pin", *arguments)
    return ended.returncode, said_error(ended.stderr)["slug"]


def test_what_cannot_be_tried_is_refused_and_nothing_is_changed(make_server, program):
    server, idle = make_server(), make_server(0)
    own = "--cpus", f"api_server={FIRST}"
    before = masks_of(server.pid)

    assert refused("--trial", idle.pid, *own) == (3, "no-load")
    assert refused("--trial", program.pid, *own) == (3, "target-not-server")
    assert refused("--plan", program.pid) == (3, "target-not-server")
    assert refused("--trial", server.pid, "--cpus", f"api_server={max(CPUS) + 1}") == (
        2, "cpus-invalid",
    )  # fmt: skip
    assert refused("--trial", server.pid, *own, "--metrics-url", "http://127.0.0.1:1") == (
        3, "no-throughput",
    )  # fmt: skip
    everywhere = f"api_server={','.join(map(str, CPUS))}"
    assert refused("--trial", server.pid, "--cpus", everywhere) == (2, "nothing-to-try")

    assert masks_of(server.pid) == before
    assert not is_gone(server.pid)


@pytest.mark.parametrize(
    "arguments", [("--plan", "--trial"), ("--windows", "13"), ("--windows", "4")]
)
def test_what_makes_no_sense_is_a_usage_error(program, arguments):
    assert run_cputax("pin", program.pid, *arguments).returncode == 2
