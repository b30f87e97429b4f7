"""The made workload (`workload.c`): build it, run it, and read what it knows of itself."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collectors.cpu_slices import BLOCKED, PREEMPTED, YIELDED

SOURCE: Final = Path(__file__).with_name("workload.c")
Bounds = tuple[int, int]  # at least, at most, ns
ROW: Final = np.dtype([(name, np.int64) for name in ("begin_ns", "end_ns", "ready_ns", "kind")])


@dataclass(frozen=True)
class ThreadLedger:
    """One thread's own account. Times are CLOCK_MONOTONIC ns; see `workload.c`.

    What cannot be told from inside is a pair of bounds.
    """

    name: str
    tid: int
    begin_ns: int
    end_ns: int
    cpu_ns: int  # by its own CPU clock, between the two
    process_cpu_ns: int
    run_delay_ns: int  # by the scheduler's account
    voluntary_count: int
    involuntary_count: int
    call_count: int  # of calls that may have blocked or given way
    off_count: dict[int, int]  # by reason: how often it left its CPU
    off_ns: dict[int, int]
    rows: NDArray[np.void]  # the stays away, in order; not kept without end, unlike the sums

    @property
    def life_ns(self) -> int:
        return self.end_ns - self.begin_ns

    @property
    def preempted_ns(self) -> Bounds:
        """How long others had its CPU.

        The program cannot see how much of a gap was the interrupt that ended its stay, which the
        kernel books as the thread's own time: so its gaps and its CPU time are more than its life.
        """
        high = self.off_ns[PREEMPTED]
        return max(0, high + min(0, self.stolen_ns)), high

    @property
    def yielded_ns(self) -> Bounds:
        """How long others had its CPU because it gave way: what the scheduler counts as waiting,
        less what it was pushed off.

        Two switches are a large part of a short gap, and the clock cannot tell them from it.
        """
        if not self.off_ns[YIELDED]:
            return 0, 0
        low, high = self.preempted_ns
        return max(0, self.run_delay_ns - high), max(0, self.run_delay_ns - low)

    @property
    def woken_ns(self) -> Bounds:
        """How long it was ready, after it had been blocked, before it had a CPU.

        A timer is late, and a writer wakes a little after its reading of the clock: what its own
        clock says is the high end, and the scheduler's account the low one.
        """
        rows = self.rows[self.rows["kind"] == BLOCKED]
        ready = np.maximum(rows["ready_ns"], rows["begin_ns"])
        high = int((rows["end_ns"] - ready)[rows["ready_ns"] > 0].sum())
        low = self.run_delay_ns - self.off_ns[PREEMPTED] - self.off_ns[YIELDED]
        return max(0, min(low, high)), high

    @property
    def blocked_ns(self) -> Bounds:
        """How long it waited for something else than a CPU."""
        low, high = self.woken_ns
        return self.off_ns[BLOCKED] - high, self.off_ns[BLOCKED] - low

    @property
    def stolen_ns(self) -> int:
        """How long it was neither off its CPU nor running by its CPU clock: the hypervisor's part.

        Less than nothing where the interrupts and the switches at the ends of its stays, which the
        clock on the wall cannot tell from a gap, took more.
        """
        return self.life_ns - sum(self.off_ns.values()) - self.cpu_ns


class Workload:
    """A running workload that waits for its beginning; its threads are up and pinned."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        hello = json.loads(self._line())
        self.pid: int = hello["pid"]
        self.tids: dict[str, int] = hello["tids"]

    def begin(self) -> None:
        """Let it go; returns at once."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"begin\n")
        self._process.stdin.flush()

    def ledgers(self) -> dict[str, ThreadLedger]:
        """Wait until all threads have done; return what each says, by its name."""
        documents: list[dict[str, Any]] = json.loads(self._line())
        return {one["name"]: self._ledger(one) for one in documents}

    def _ledger(self, document: dict[str, Any]) -> ThreadLedger:
        assert self._process.stdout is not None
        raw = self._process.stdout.read(document.pop("row_count") * ROW.itemsize)
        for name in ("off_count", "off_ns"):
            document[name] = dict(zip((PREEMPTED, BLOCKED, YIELDED), document[name], strict=True))
        return ThreadLedger(**document, rows=np.frombuffer(raw, ROW))

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the workload ended too early"
        return line


def build(directory: Path) -> Path | None:
    """Return the program, built in ``directory``; None without a C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    program = directory / "workload"
    subprocess.run([compiler, "-O2", "-pthread", "-o", program, SOURCE], check=True)
    return program


@contextmanager
def running(
    program: Path, seconds: float, *threads: str, wrapper: Sequence[str] = ()
) -> Iterator[Workload]:
    """Run it behind ``wrapper``; for what a thread's words mean see `workload.c`."""
    process = subprocess.Popen(
        [*wrapper, str(program), str(seconds), *threads],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield Workload(process)
    finally:
        process.kill()
        process.communicate()
