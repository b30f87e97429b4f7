"""One run in which cputax is hurt at a random moment, and what must hold of its target after it.

cputax is killed (SIGKILL), frozen (SIGSTOP, ten seconds) or robbed of its recorders, with either
reader of stacks. In every case the target keeps answering, none of its threads is stopped or
traced, no recorder outlives cputax by more than two seconds, and what it wrote opens. An orphaned
recorder that pauses its target has killed the engine of a real server.

As a program it runs many, against a small Python server or, with ``--vllm``, the real one under
load: ``python -m tests.live.robustness_runs --kill 100 --freeze 50 --rob 50``.
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
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from collectors import open_capture
from tests.commands import CPUTAX, run_cputax
from tests.live.driving import processes_marked
from tests.live.hurt_targets import HurtTarget, plain_server, vllm_under_load

MARK = "CPUTAX_TEST_MARK"
RECORDED_S = 4.0
FREEZE_S = 10.0
OUTLIVE_S = 2.0
LOSS_S = 1.0
WARM_UP_S = 2.0  # after which every probe has recorded something
END_LIMIT_S = 60.0


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
        reader = chooser.choice(["memory", "py-spy"])
        self._attach = subprocess.Popen(
            [
                CPUTAX,
                "attach",
                str(target.pid),
                "-d",
                length,
                "-o",
                str(self.capture),
                "-q",
                "--stacks",
                reader,
            ],
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
        """Kill one or all of the recorders; cputax must go on and finish."""
        self._await_moment()
        children = [
            pid
            for pid, command in processes_marked(MARK, self._mark).items()
            if "py-spy" in command.split(" ", 1)[0] or ".sampler " in command
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
            table = capture.table(name)
            times = table["time_ns"].to_numpy()
            if name == "samples":
                times = times + table["duration_ns"].to_numpy()
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
    parser.add_argument("--rob", type=int, default=50, help="runs whose recorders are killed")
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


if __name__ == "__main__":
    sys.exit(main())
