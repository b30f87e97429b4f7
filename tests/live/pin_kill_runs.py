"""Kill ``cputax pin --trial`` at random moments and count how often every mask is as before.

Each run is one trial of a server under load and one SIGKILL: every fourth somewhere in the first
seconds of the program, the others among its windows. A run holds when, within `LIMIT_S` of the
kill, no guardian is left and every thread of the server has its mask, those born meanwhile too.

    python -m tests.live.pin_kill_runs --count 50            the practice server
    python -m tests.live.pin_kill_runs --count 50 --vllm     the real one, 32 users on it
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from profiler.practice import MAX_SECONDS, Load, running_oracle, under_load
from tests.commands import CPUTAX
from tests.live.driving import processes_marked
from tests.live.hurt_targets import vllm_under_load
from tests.masks import Masks, displaced, masks_of

MARK = "CPUTAX_TEST_MARK"
EARLY_RATIO = 0.25  # of the runs are killed in their first `LONGEST_S`
LONGEST_S = 3.0  # until the kill, from the start or from the first window with the plan
START_LIMIT_S = 30.0  # until that window; a saturated host takes its time
LIMIT_S = 5.0
ORACLE_RUNS = 25  # for each start of the practice server, which ends by itself after a while
LOAD = Load(users=8, prompt_chars=2_000, max_tokens=32, warm_up_s=1.0)


@dataclass(frozen=True)
class Run:
    """What a kill left behind."""

    moment_s: float  # after the start, or after the plan was first in force
    was_pinned: bool  # the plan was in force when it was killed
    restored_s: float  # after the kill; meaningless unless it was restored
    displaced: Masks
    left: dict[int, str]  # processes of the trial that outlive it

    @property
    def is_held(self) -> bool:
        """Whether all is as it was."""
        return not self.displaced and not self.left


def kill_once(pid: int, arguments: list[str], chooser: random.Random) -> Run:
    """Start a trial on the server ``pid``, kill it at a random moment, and look."""
    is_early, moment_s = chooser.random() < EARLY_RATIO, chooser.uniform(0.0, LONGEST_S)
    before = masks_of(pid)
    mark = uuid.uuid4().hex
    trial = subprocess.Popen(
        [CPUTAX, "pin", "--trial", str(pid), "--window", "300ms", "--settle", "50ms", *arguments],
        env={**os.environ, MARK: mark},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    start_limit_s = time.monotonic() + START_LIMIT_S
    while not (is_early or displaced(before, masks_of(pid)) or time.monotonic() > start_limit_s):
        time.sleep(0.05)
    with contextlib.suppress(subprocess.TimeoutExpired):
        trial.wait(moment_s)
    was_pinned = bool(displaced(before, masks_of(pid)))
    trial.kill()
    killed_s = time.monotonic()
    trial.wait()
    while True:
        left = processes_marked(MARK, mark)
        wrong = displaced(before, masks_of(pid))
        now_s = time.monotonic()
        if not (left or wrong) or now_s > killed_s + LIMIT_S:
            return Run(moment_s, was_pinned, now_s - killed_s, wrong, left)
        time.sleep(0.01)


@contextlib.contextmanager
def oracle_under_load() -> Iterator[tuple[int, list[str]]]:
    """Yield the practice server's PID and masks that move all of it."""
    first, *_, last = sorted(os.sched_getaffinity(0))
    masks = {"api_server": first, "engine_core": last, "worker": last}
    with running_oracle() as oracle, under_load(oracle, LOAD, MAX_SECONDS):
        yield oracle.pid, [f"--cpus={role}={cpu}" for role, cpu in masks.items()]


@contextlib.contextmanager
def vllm_with_plan() -> Iterator[tuple[int, list[str]]]:
    """Yield the real server's PID and masks that move its frontend and its engine core."""
    last = max(os.sched_getaffinity(0))
    with vllm_under_load() as target:
        yield target.pid, [f"--cpus=api_server={last}", f"--cpus=engine_core={last}"]


def kill_runs(count: int, seed: int, *, is_vllm: bool) -> Iterator[Run]:
    """Do ``count`` runs and yield each when it is over."""
    chooser = random.Random(seed)
    batch_count = count if is_vllm else ORACLE_RUNS
    for begin in range(0, count, batch_count):
        with vllm_with_plan() if is_vllm else oracle_under_load() as (pid, arguments):
            for _ in range(min(batch_count, count - begin)):
                yield kill_once(pid, arguments, chooser)


def main() -> int:
    """Do the runs that are asked for and print how many held."""
    parser = argparse.ArgumentParser(description="Kill trials; every mask must be as before")
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vllm", action="store_true", help="the real server, not the practice one")
    options = parser.parse_args()
    runs = []
    for run in kill_runs(options.count, options.seed, is_vllm=options.vllm):
        runs.append(run)
        if not run.is_held:
            print(f"killed after {run.moment_s:.2f} s: {run.displaced} {run.left}", flush=True)
    held = [run for run in runs if run.is_held]
    in_force_s = [run.restored_s for run in held if run.was_pinned]
    print(
        f"{len(held)} of {len(runs)} kills restored; {len(in_force_s)} of them while the plan was "
        f"in force, all back and the guardian gone after {max(in_force_s, default=0):.2f} s at most"
    )
    return 0 if len(held) == len(runs) else 1


if __name__ == "__main__":
    sys.exit(main())
