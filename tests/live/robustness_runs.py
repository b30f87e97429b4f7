"""One run in which cputax is hurt at a random moment, and what must hold of its target after it.

cputax is killed (SIGKILL), frozen (SIGSTOP, ten seconds) or robbed of its py-spy children. In
every case the target keeps answering, none of its threads is stopped or traced, no recorder
outlives cputax by more than two seconds, and what it wrote opens. The first three once went wrong
on a real server with a blocking recorder, and the engine died of it.

As a program it runs many: ``python -m tests.live.robustness_runs --kill 100
--freeze 50 --rob 50``, against a small Python server by default or, with ``--vllm``, the real one
under load.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from collectors import open_capture
from tests.commands import CPUTAX, run_cputax
from tests.live.driving import ROOT, chat_load, processes_marked

MARK = "CPUTAX_TEST_MARK"
RECORDED_S = 4.0
FREEZE_S = 10.0
OUTLIVE_S = 2.0
LOSS_S = 1.0
WARM_UP_S = 2.0  # after which every probe has recorded something
END_LIMIT_S = 60.0
ANSWER_LIMIT_S = 20.0  # a saturated server of 32 users takes seconds even undisturbed
PLAIN_SERVER = """
import http.server, sys, threading
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"ok")
    def log_message(self, *_): pass
def spin():
    while True: sum(range(20000)); threading.Event().wait(0.002)
for _ in range(3): threading.Thread(target=spin, daemon=True).start()
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
print(server.server_port, flush=True)
threading.Thread(target=lambda: (sys.stdin.read(), server.shutdown())).start()
server.serve_forever()
"""


@dataclass(frozen=True)
class HurtTarget:
    """Who is recorded: the root of its tree, and a page that it must keep answering."""

    pid: int
    url: str

    def pids(self) -> list[int]:
        """Return the PIDs of the whole tree."""
        children = subprocess.run(
            ["ps", "-o", "pid=,ppid=", "-e"], capture_output=True, text=True, check=True
        )
        parents = {int(one.split()[0]): int(one.split()[1]) for one in children.stdout.splitlines()}
        tree = {self.pid}
        while more := {pid for pid, parent in parents.items() if parent in tree} - tree:
            tree |= more
        return sorted(tree)

    def problems(self) -> list[str]:
        """Return what is wrong with it now; nothing when all is well."""
        found = []
        try:
            with urllib.request.urlopen(self.url, timeout=ANSWER_LIMIT_S) as answer:
                answer.read()
        except OSError as error:
            found.append(f"{self.url} does not answer: {error}")
        for pid in self.pids():
            found += _thread_problems(pid)
        return found


def _thread_problems(pid: int) -> list[str]:
    """Return which threads of a process are stopped or have a tracer."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            status = dict(
                line.split(":\t", 1) for line in (task / "status").read_text().splitlines()
            )
            if status["State"][0] in "Tt" or status["TracerPid"] != "0":
                state, tracer = status["State"], status["TracerPid"]
                found.append(f"thread {task.name} of {pid}: {state}, tracer {tracer}")
    return found


@contextlib.contextmanager
def plain_server() -> Iterator[HurtTarget]:
    """Run a small Python program with busy threads that answers HTTP; it ends with us."""
    process = subprocess.Popen(
        [sys.executable, "-c", PLAIN_SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield HurtTarget(process.pid, f"http://127.0.0.1:{int(process.stdout.readline())}/")
    finally:
        process.kill()
        process.wait()


class Run:
    """One recording of ``target`` into ``directory`` that will be hurt."""

    def __init__(self, target: HurtTarget, directory: Path, chooser: random.Random) -> None:
        self.target = target
        self.capture = directory / f"{uuid.uuid4().hex}.capture"
        self.problems: list[str] = []
        self.hurt_count = 0  # processes that were killed or frozen
        self._mark = uuid.uuid4().hex
        self._moment_s = chooser.uniform(0.0, RECORDED_S + 1.0)
        self._chooser = chooser
        length = f"{RECORDED_S:.0f}s"
        self._attach = subprocess.Popen(
            [CPUTAX, "attach", str(target.pid), "-d", length, "-o", str(self.capture), "-q"],
            env={**os.environ, MARK: self._mark},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def name(self) -> str:
        """Say when it was hurt, for the report of a failure."""
        return f"hurt after {self._moment_s:.2f} s"

    def kill(self) -> None:
        """Kill cputax at the moment; every process it started must be gone soon after."""
        self._await_moment()
        killed_ns = time.monotonic_ns()
        self.hurt_count += self._attach.poll() is None
        self._attach.kill()
        self._attach.wait()
        self._check_none_outlives()
        self._check()
        if self.capture.exists() and not self.problems:
            self._check_loss(killed_ns)

    def freeze(self) -> None:
        """Freeze cputax for ten seconds, then let it finish; the target must not notice."""
        self._await_moment()
        self.hurt_count += self._attach.poll() is None
        self._attach.send_signal(signal.SIGSTOP)
        thaw_s = time.monotonic() + FREEZE_S
        while time.monotonic() < thaw_s:
            self.problems += self.target.problems()
            time.sleep(0.5)
        self._attach.send_signal(signal.SIGCONT)
        self._finish()

    def rob(self) -> None:
        """Kill one or all of the py-spy children; cputax must go on and finish."""
        self._await_moment()
        children = [
            pid
            for pid, command in processes_marked(MARK, self._mark).items()
            if "py-spy" in command.split(" ", 1)[0]
        ]
        if children and self._chooser.random() < 0.5:
            children = [self._chooser.choice(children)]
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.hurt_count += 1
        self._finish()

    def _await_moment(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._attach.wait(self._moment_s)

    def _finish(self) -> None:
        """Wait for cputax's own end, which must not be a crash."""
        try:
            _, errors = self._attach.communicate(timeout=END_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._attach.kill()
            _, errors = self._attach.communicate()
            self.problems.append(f"cputax did not end within {END_LIMIT_S:.0f} s")
        if "Traceback" in errors or self._attach.returncode not in (0, 1):
            self.problems.append(f"cputax ended with {self._attach.returncode}: {errors[-2000:]}")
        self._check_none_outlives()
        self._check()

    def _check_none_outlives(self) -> None:
        deadline_s = time.monotonic() + OUTLIVE_S
        while left := processes_marked(MARK, self._mark):
            if time.monotonic() > deadline_s:
                self.problems.append(f"still there {OUTLIVE_S:.0f} s after cputax: {left}")
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                return
            time.sleep(0.05)

    def _check_loss(self, killed_ns: int) -> None:
        """A killed recorder may lose its last second and no more."""
        capture = open_capture(self.capture)
        if killed_ns - capture.start_ns < WARM_UP_S * 1e9:
            return
        for name in ("samples", "thread_counters"):
            times = capture.table(name)["time_ns"].to_numpy()
            lost_s = (killed_ns - int(times.max(initial=0))) / 1e9
            if lost_s > LOSS_S:
                self.problems.append(f"{name} ends {lost_s:.2f} s before the kill")

    def _check(self) -> None:
        self.problems += self.target.problems()
        if not self.capture.exists():  # hurt before there was anything to keep
            return
        opened = run_cputax("analyze", self.capture, "--json")
        if opened.returncode != 0:
            self.problems.append(f"the capture does not open: {opened.stderr[-2000:]}")


HURTS: dict[str, Callable[[Run], None]] = {"kill": Run.kill, "freeze": Run.freeze, "rob": Run.rob}


def hurt_runs(
    target: HurtTarget, hurt: str, count: int, directory: Path, seed: int
) -> Iterator[Run]:
    """Do ``count`` runs and yield each when it is over."""
    chooser = random.Random(f"{hurt}-{seed}")
    for _ in range(count):
        run = Run(target, directory, chooser)
        HURTS[hurt](run)
        yield run


def main() -> int:
    """Do the runs that are asked for and print how many held."""
    parser = argparse.ArgumentParser(description="Hurt cputax many times; its target must not care")
    parser.add_argument("--kill", type=int, default=100)
    parser.add_argument("--freeze", type=int, default=50)
    parser.add_argument("--rob", type=int, default=50, help="runs whose py-spy children are killed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vllm", action="store_true", help="a real vLLM under 32 users of load")
    options = parser.parse_args()
    failed_count = 0
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        target = stack.enter_context(vllm_under_load() if options.vllm else plain_server())
        for hurt in HURTS:
            count = getattr(options, hurt)
            failed, hurt_count = [], 0
            for index, run in enumerate(hurt_runs(target, hurt, count, directory, options.seed)):
                hurt_count += run.hurt_count
                if run.problems:
                    failed.append(run)
                    print(f"{hurt} {index}, {run.name}: {run.problems}", flush=True)
            failed_count += len(failed)
            held_count = count - len(failed)
            print(
                f"{hurt}: {held_count} of {count} runs held ({hurt_count} processes hurt)",
                flush=True,
            )
    return 1 if failed_count else 0


@contextlib.contextmanager
def vllm_under_load(seconds: float = 3600.0) -> Iterator[HurtTarget]:
    """Start the real server with 32 users on it."""
    sys.path.insert(0, str(ROOT / "examples" / "vllm_cpu"))
    from serve import running_server

    with running_server() as vllm, chat_load(vllm.url, seconds):
        yield HurtTarget(vllm.pid, f"{vllm.url}/health")


if __name__ == "__main__":
    sys.exit(main())
