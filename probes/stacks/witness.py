"""py-spy as a witness: it looks at each process once, soon after the recording began.

It says two things that the memory reader does not know or should not judge itself: Python's own
names for the threads, and what the stacks of sleeping threads are. A thread that showed one stack
during all of py-spy's look must have shown the same one to both.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from collectors.stacks import StackTable
from probes.base import Context
from probes.keeper import KeeperGone, devnull
from probes.pyspy import find_pyspy
from probes.sampling import host_tids

DELAY_S: Final = 1.0  # the sampler is at work by then
LOOK_MAX_S: Final = 10.0
# What was seen during a look has come when a batch and a bit are over.
ARRIVAL_S: Final = 1.0
TRUSTED_RATIO: Final = 0.9
COVERED_RATIO: Final = 0.9  # of py-spy's look, by one stack

Frames = list[tuple[str, str]]  # (function, file), innermost first
Run = tuple[int, int, int, int, int]  # PID, thread id, start ns, duration ns, stack


@dataclass(frozen=True, slots=True)
class Verdict:
    """How many threads slept through py-spy's look, and how many stacks were the same."""

    compared_count: int
    equal_count: int

    @property
    def is_doubtful(self) -> bool:
        """Whether the two disagree on more threads than chance explains."""
        return self.equal_count < TRUSTED_RATIO * self.compared_count


@dataclass(frozen=True, slots=True)
class _Testimony:
    """What py-spy said of one process, and when it looked."""

    pid: int
    start_ns: int
    end_ns: int
    stacks: dict[int, Frames]  # by thread id


class Witness:
    """One look by py-spy at each process; all of it in a thread of its own."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._program = find_pyspy()
        self._waiting: list[int] = []
        self._testimonies: list[_Testimony] = []
        self._runs: list[Run] = []
        self._is_looking = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="witness", daemon=True)

    def start(self) -> None:
        """Begin to look at the processes given so far and later, one after the other."""
        self._is_looking = self._program is not None
        self._thread.start()

    def add(self, pid: int) -> None:
        """Have this process looked at too."""
        self._waiting.append(pid)

    def note(self, runs: Iterable[Run]) -> None:
        """Take what the sampler saw; it is kept only around py-spy's looks."""
        if self._is_looking:
            self._runs += runs

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()
        self._thread.join()

    def verdict(self, table: StackTable) -> Verdict:
        """Compare what both saw."""
        compared_count = equal_count = 0
        for one in self._testimonies:
            for tid, frames in one.stacks.items():
                stack = self._shown(one, tid)
                if stack is not None and frames:
                    compared_count += 1
                    equal_count += table.path(stack) == frames
        return Verdict(compared_count, equal_count)

    def _shown(self, one: _Testimony, tid: int) -> int | None:
        """Return the stack that the thread showed during all of py-spy's look, if it was one."""
        seen_ns: dict[int, int] = {}
        for pid, run_tid, start_ns, duration_ns, stack in self._runs:
            if (pid, run_tid) == (one.pid, tid):
                overlap_ns = min(start_ns + duration_ns, one.end_ns) - max(start_ns, one.start_ns)
                if overlap_ns > 0:
                    seen_ns[stack] = seen_ns.get(stack, 0) + overlap_ns
        if len(seen_ns) != 1:
            return None
        stack, shown_ns = seen_ns.popitem()
        return stack if shown_ns >= COVERED_RATIO * (one.end_ns - one.start_ns) else None

    def _run(self) -> None:
        """Look at whoever waits; keep the sampler's runs until those of the last look are here."""
        if self._program is None or self._stopping.wait(DELAY_S):
            return
        while True:
            while self._waiting:
                self._is_looking = True
                self._look(str(self._program), self._waiting.pop(0))
            if self._stopping.wait(ARRIVAL_S):
                return
            self._is_looking = bool(self._waiting)

    def _look(self, program: str, pid: int) -> None:
        output = os.memfd_create("py-spy")
        errors = devnull()
        try:
            start_ns = time.monotonic_ns()
            child = self._context.keeper.spawn(
                [program, "dump", "--json", "--nonblocking", "--full-filenames", "--pid", str(pid)],
                stdout=output, stderr=errors, max_seconds=LOOK_MAX_S,
            )  # fmt: skip
            while not child.exited.wait(0.05) and not self._stopping.is_set():
                pass
            said = os.pread(output, os.fstat(output).st_size, 0)
            end_ns = time.monotonic_ns()
            self._testimonies.append(_Testimony(pid, start_ns, end_ns, self._parse(pid, said)))
        except (KeeperGone, ValueError, TypeError, KeyError):
            pass  # no name and no judgement: the verdict counts what there was
        finally:
            os.close(output)
            os.close(errors)

    def _parse(self, pid: int, said: bytes) -> dict[int, Frames]:
        """Return the stacks by thread id on this host, and name the threads on the way."""
        stacks = {}
        # py-spy speaks of thread ids as the process itself sees them.
        host = host_tids(pid, is_namespaced=True)
        for thread in json.loads(said):
            name = thread["thread_name"]
            tid = host.get(thread["os_thread_id"])
            if tid is None:  # it has just ended
                continue
            if name:
                track, role = self._context.tracks[pid], self._context.target.processes[pid].role
                self._context.recorder.name_thread(track, pid, tid, str(name), role)
            stacks[tid] = [(frame["name"], frame["filename"]) for frame in thread["frames"]]
        return stacks
