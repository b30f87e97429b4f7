"""Python stacks by py-spy: one non-blocking recorder per process, rotated without a gap.

The only output of py-spy that keeps time is chrometrace, and it is written when the recorder is
told to stop (SIGINT). So each process is recorded in segments: the next recorder starts before the
last one is stopped, and `collectors.segments` cuts the overlap.

The recorders run at normal priority, and a governor keeps their cost down by their rate. Low
priority looked gentler and was wrong: under SCHED_BATCH or a nice value a recorder waits until the
server gives up the CPU, so it sees the server at the end of each burst (a stage that took 54 % of a
process's CPU time was seen as 24 %, and as 45 % at normal priority), and on a saturated host it saw
nothing for seconds.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from collectors.manifest import ProbeRecord
from collectors.segments import segment_name
from probes.base import Capability, Context, Level
from probes.governor import FIRST_WINDOW_NS, TYPICAL_SAMPLE_NS, Governor
from probes.keeper import Child, KeeperGone
from probes.pacer import Pacer
from probes.pyspy_accounts import Account, sum_up
from probes.target import Process, Target

RATE_HZ: Final = 100
SEGMENT_S: Final = 10.0
OVERLAP_S: Final = 0.5  # a recorder's start took up to a second on a saturated host
TICK_HZ: Final = 2.5
# A recorder that had no timeslice for so long has missed ticks. Its ticks are Poisson, so at low
# rates long silences are natural: ten mean intervals are not.
STALL_S: Final = 0.8
STALL_TICKS: Final = 10
STOP_TIMEOUT_S: Final = 5.0
MAX_RESTARTS: Final = 5
TYPICAL_TICKS: Final = 100  # a recorder's start costs as much as many of its ticks


@dataclass(slots=True)
class _Recording:
    """One recorder at work on one process."""

    process: Process
    child: Child
    path: Path
    log: Path
    rate_hz: int
    timeslices: int = 0
    progress_ns: int = 0
    run_ns: int = 0
    until_s: float | None = None  # when a successor is there: stop it then


class PySpyProbe:
    """Keeps one py-spy recorder running on each Python process of the tree."""

    name = "pyspy"

    def __init__(self, rate_hz: int = RATE_HZ) -> None:
        self.rate_hz = rate_hz
        self._program = find_pyspy()
        self._governor: Governor
        self._pacer = Pacer(self.name, TICK_HZ, self._tick, self._miss)
        self._current: dict[int, _Recording] = {}
        self._leaving: list[_Recording] = []
        self._accounts: dict[int, Account] = {}
        self._context: Context
        self._is_over = False
        self._run_ns = 0  # CPU time of all recorders, and the ticks they should have made in it
        self._tick_count = 0.0
        self._last_tick_ns = 0

    def check(self, target: Target) -> Capability:
        """Unavailable without the py-spy program; degraded across PID namespaces."""
        if self._program is None:
            return Capability(
                self.name, Level.UNAVAILABLE, "the py-spy program is not installed",
                f"{sys.executable} -m pip install py-spy",
            )  # fmt: skip
        own = target.procfs.pid_namespace()
        theirs = target.procfs.pid_namespace(target.root_pid)
        if own and theirs and own != theirs:
            return Capability(
                self.name, Level.DEGRADED,
                "the target is in another PID namespace: thread ids are translated",
                "for native frames, run cputax inside the container",
            )  # fmt: skip
        return Capability(self.name, Level.WORKS)

    def start(self, context: Context) -> None:
        """Start a recorder per Python process.

        Raises:
            KeeperGone: the keeper has died.
        """
        self._context = context
        self._governor = Governor(self.rate_hz, context.target.procfs)
        self._look_first()
        (context.recorder.directory / "raw" / "pyspy").mkdir(exist_ok=True)
        for process in context.target.python_processes:
            self._accounts[process.pid] = self._open(process)
            self._current[process.pid] = self._spawn(process)
        self._pacer.start()

    def add(self, process: Process) -> None:
        """Start a recorder on a process that appeared; the next tick does it."""
        if process.is_python and process.pid not in self._accounts:
            self._accounts[process.pid] = self._open(process)

    def stop(self) -> ProbeRecord:
        """Stop all recorders and wait for their files."""
        self._is_over = True
        self._pacer.stop()
        recordings = [*self._current.values(), *self._leaving]
        ended = [one for one in self._current.values() if not one.child.is_alive]
        for recording in recordings:
            _ask_to_stop(self._context, recording)
        deadline_s = time.monotonic() + STOP_TIMEOUT_S
        for recording in recordings:
            recording.child.exited.wait(max(0.0, deadline_s - time.monotonic()))
            self._settle(recording, is_expected=recording not in ended)
        for account in self._accounts.values():
            account.end_unseen(time.monotonic_ns(), "no recorder could be started again")
        record = Capability(self.name, Level.WORKS).record(float(self.rate_hz))
        sum_up(self._accounts, record, is_keeper_gone=self._context.keeper.is_gone)
        return record

    def _open(self, process: Process) -> Account:
        return Account(self.name, self._context.recorder, self._context.tracks[process.pid])

    def _spawn(self, process: Process) -> _Recording:
        directory = self._context.recorder.directory / "raw" / "pyspy"
        rate_hz = self._governor.rate_hz
        now_ns = time.monotonic_ns()
        path = directory / segment_name(process.pid, now_ns, rate_hz)
        log = path.with_suffix(".log")
        # -d counts ticks of the requested rate, not seconds: a bound, not a schedule.
        bound_s = int(SEGMENT_S * 4)
        with log.open("wb") as output:
            child = self._context.keeper.spawn(
                [str(self._program), "record", "--format", "chrometrace", "--nonblocking",
                 "--idle", "--threads", "--full-filenames", "--rate", str(rate_hz),
                 "--duration", str(bound_s), "--pid", str(process.pid), "--output", str(path)],
                stdout=output.fileno(), stderr=output.fileno(), max_seconds=bound_s * 2,
                stop_signal=signal.SIGINT, env={"RUST_BACKTRACE": "0"},
            )  # fmt: skip
        self._accounts[process.pid].rates_hz.add(rate_hz)
        return _Recording(process, child, path, log, rate_hz, progress_ns=now_ns)

    def _look_first(self) -> None:
        """Learn how busy the host is before the first recorder starts."""
        self._governor.look(time.monotonic_ns(), 0, self._round_ns())
        time.sleep(1.1 * FIRST_WINDOW_NS / 1e9)
        self._governor.look(time.monotonic_ns(), 0, self._round_ns())

    def _round_ns(self) -> float:
        """What one sample of every process costs the recorders, measured or typical."""
        sample_ns = float(TYPICAL_SAMPLE_NS)
        if self._tick_count >= TYPICAL_TICKS:
            sample_ns = self._run_ns / self._tick_count
        return sample_ns * max(1, len(self._accounts))

    def _tick(self, now_ns: int) -> None:
        self._governor.look(now_ns, self._run_ns, self._round_ns())
        try:
            for pid in list(self._accounts):
                self._follow(pid, now_ns)
        except KeeperGone:
            self._is_over = True
            for pid, account in self._accounts.items():
                if self._context.target.is_alive(self._context.target.processes[pid]):
                    account.unseen_ns = account.unseen_ns or now_ns
        self._last_tick_ns = now_ns
        for recording in list(self._leaving):
            if not recording.child.is_alive:
                self._leaving.remove(recording)
                self._settle(recording, is_expected=True)
            elif recording.until_s is not None and now_ns / 1e9 >= recording.until_s:
                _ask_to_stop(self._context, recording)
                recording.until_s = None

    def _follow(self, pid: int, now_ns: int) -> None:
        """Look after one process's recorder: rotate it, restart it, note its stalls."""
        if self._is_over:
            return
        recording = self._current.get(pid)
        process = self._context.target.processes[pid]
        if recording is None:
            account = self._accounts[pid]
            if account.restart_count <= MAX_RESTARTS and self._context.target.is_alive(process):
                self._current[pid] = self._spawn(process)
                account.end_unseen(now_ns, "the recorder had ended and was started again")
            return
        if not recording.child.is_alive:
            del self._current[pid]
            self._settle(recording, is_expected=False)
            return
        self._watch(recording, now_ns)
        age_s = (now_ns - recording.child.spawn_ns) / 1e9
        if age_s >= SEGMENT_S or recording.rate_hz > self._governor.rate_hz:
            self._current[pid] = self._spawn(process)
            recording.until_s = now_ns / 1e9 + OVERLAP_S
            self._leaving.append(recording)

    def _miss(self, error: OSError) -> None:
        reason = f"the system refused: {os.strerror(error.errno or 0)}"
        now_ns = time.monotonic_ns()
        self._context.recorder.gap(self.name, self._pacer.last_ns, now_ns, reason)

    def _watch(self, recording: _Recording, now_ns: int) -> None:
        """A recorder that got no timeslice saw nothing: that is a gap, whatever its file says."""
        procfs = self._context.target.procfs
        child_pid = recording.child.pid
        try:
            spent = [procfs.schedstat(child_pid, tid) for tid in procfs.tids(child_pid)]
        except OSError:
            return
        timeslices = sum(count for _, _, count in spent)
        run_ns = sum(run for run, _, _ in spent)
        self._run_ns += max(0, run_ns - recording.run_ns)  # a recorder's thread may have ended
        recording.run_ns = run_ns
        if self._last_tick_ns:
            self._tick_count += recording.rate_hz * (now_ns - self._last_tick_ns) / 1e9
        stalled_ns = now_ns - recording.progress_ns
        if timeslices != recording.timeslices:
            if stalled_ns > max(STALL_S, STALL_TICKS / recording.rate_hz) * 1e9:
                account = self._accounts[recording.process.pid]
                account.gap(recording.progress_ns, now_ns, "the recorder got no CPU")
            recording.timeslices, recording.progress_ns = timeslices, now_ns

    def _settle(self, recording: _Recording, *, is_expected: bool) -> None:
        """Add an ended recorder to its process's account; a loss becomes a gap."""
        account = self._accounts[recording.process.pid]
        account.cpu_seconds += recording.child.cpu_seconds
        output = recording.log.read_text("utf-8", "replace")
        account.add_output(output)
        if not self._context.target.is_alive(recording.process):
            return
        # Without a keeper nobody knows when it ended: after it was last seen to run.
        end_ns = recording.child.exit_ns or recording.progress_ns
        if not is_expected:
            account.unseen_ns = end_ns
        if recording.path.exists():
            return
        account.restart_count += not is_expected
        said = next((line for line in output.splitlines() if line.strip()), "nothing")
        account.gap(
            recording.child.spawn_ns, end_ns,
            f"py-spy ended with {recording.child.exit_code} and no file; it said: {said[:200]}",
        )  # fmt: skip


def find_pyspy() -> Path | None:
    """Return the py-spy program: the one installed beside this Python first, else from PATH."""
    beside = Path(sys.executable).with_name("py-spy")
    if os.access(beside, os.X_OK):
        return beside
    found = shutil.which("py-spy")
    return Path(found) if found else None


def _ask_to_stop(context: Context, recording: _Recording) -> None:
    try:
        context.keeper.stop(recording.child)
    except KeeperGone:
        recording.child.exited.set()
