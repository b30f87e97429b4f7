"""A probe whose work is done by one sampler child for all processes of the server.

What such probes share: finding the processes' layouts, keeping a sampler alive, taking up
processes that appear, and noting what was not seen.
"""

from __future__ import annotations

import os
import threading
import time
from abc import ABC, abstractmethod
from typing import Final, Generic, Protocol, TypeVar

from collectors.errors import CputaxError
from collectors.manifest import ProbeRecord
from probes.base import Capability, Context, Level
from probes.governor import WakeGovernor
from probes.keeper import KeeperGone
from probes.sampler_link import ChildLink, StreamBroken
from probes.sampling import LATE
from probes.target import Process, Target

RESTART_LIMIT: Final = 5
# A process that was just started has no interpreter yet: try again once a second for a while.
START_UP_S: Final = 30.0
RETRY_S: Final = 1.0

RESTARTED: Final = "the sampler had ended and was restarted"


class Layout(Protocol):
    """What a sampler needs to know of one process; a tuple of what JSON knows."""

    @property
    def pid(self) -> int:
        """Its PID."""

    @property
    def start_ticks(self) -> int:
        """Which life of this PID."""


LayoutT = TypeVar("LayoutT", bound=Layout)
BatchT = TypeVar("BatchT")


class SamplerProbe(ABC, Generic[LayoutT, BatchT]):
    """See the module. Subclasses say what is found, how the child is started, what a batch is."""

    name: str
    _noun: str  # "GIL sampler"
    _scarce_divisor: float  # of the rate while less than one CPU is idle

    def __init__(self, rate_hz: float, *, is_governed: bool) -> None:
        """``is_governed``: look less often where the host has little CPU to spare."""
        self.rate_hz = rate_hz
        self._is_governed = is_governed
        self._governor: WakeGovernor
        self._governed_hz = rate_hz
        self._context: Context
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._capability: Capability | None = None  # once it was checked
        self._lock = threading.Lock()  # guards the next three
        self._layouts: dict[int, LayoutT] = {}  # of the processes being sampled
        self._waiting: dict[int, tuple[Process, float]] = {}  # and until when to try (monotonic)
        self._link: ChildLink[BatchT] | None = None
        self._processes: dict[int, Process] = {}
        self._tracks: dict[tuple[int, int], int] = {}  # (PID, thread id) -> track
        self._gap_reason = LATE
        self._failure: str | None = None
        self._restart_count = 0
        self._cpu_ns = self._missed_count = 0  # of all samplers
        self._counted = (0, 0)  # the running one's share of both

    @abstractmethod
    def _find(self, pid: int) -> LayoutT:
        """Find what the sampler needs of one process.

        Raises:
            CputaxError: it cannot be sampled.
        """

    def _shortfall(self, layout: LayoutT) -> str | None:
        """Return what of a process that can be sampled cannot be seen all the same."""

    @abstractmethod
    def _open_link(self, layouts: list[LayoutT]) -> ChildLink[BatchT]:
        """Start a sampler; what it reports of itself begins anew."""

    @abstractmethod
    def _take_up(self, pid: int) -> None:
        """Begin the account of a process."""

    @abstractmethod
    def _take(self, batch: BatchT) -> None:
        """Put one batch into the capture."""

    @abstractmethod
    def _unseen(self, pid: int) -> tuple[int | None, int]:
        """Return when a process was last seen (ns), and what silence is a gap (ns)."""

    @abstractmethod
    def _complete(self, record: ProbeRecord) -> None:
        """Add rates, largest gap and detail to the record."""

    def find(self, process: Process) -> tuple[LayoutT | None, Capability]:
        """Say how much can be seen of one process, and find what the sampler needs."""
        try:
            layout = self._find(process.pid)
        except CputaxError as error:
            return None, Capability(self.name, Level.UNAVAILABLE, error.message, error.remedy)
        reason = self._shortfall(layout)
        return layout, Capability(self.name, Level.DEGRADED if reason else Level.WORKS, reason)

    def check(self, target: Target) -> Capability:
        """Look at each Python process; every reason for less than all is named."""
        self._capability = self._judge(target)
        return self._capability

    def _judge(self, target: Target) -> Capability:
        answers = [self.find(process)[1] for process in target.python_processes]
        lacking = [answer for answer in answers if answer.level is not Level.WORKS]
        if not lacking:
            return Capability(self.name, Level.WORKS)
        none_works = all(answer.level is Level.UNAVAILABLE for answer in answers)
        return Capability(
            self.name,
            Level.UNAVAILABLE if none_works else Level.DEGRADED,
            "; ".join(dict.fromkeys(answer.reason or "" for answer in lacking)),
            next((answer.remedy for answer in lacking if answer.remedy), None),
        )

    def start(self, context: Context) -> None:
        """Begin to sample all Python processes of the target."""
        self._context = context
        if self._capability is None:
            self.check(context.target)
        for process in context.target.python_processes:
            self.add(process)
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()

    def add(self, process: Process) -> None:
        """Take up a process that appeared; one whose interpreter is not up yet, a little later."""
        if process.is_python:
            with self._lock:
                self._waiting[process.pid] = (process, time.monotonic() + START_UP_S)
            self._try_waiting()

    def stop(self) -> ProbeRecord:
        """Stop sampling and say what was achieved."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        assert self._capability is not None, "stopped before it was started"
        record = self._capability.record(self.rate_hz)
        record.cpu_seconds = self._cpu_ns / 1e9
        record.detail = {
            "restart_count": self._restart_count,
            "missed_slot_count": self._missed_count,
        }
        self._complete(record)
        if self._failure is not None:
            record.level, record.reason = Level.DEGRADED.value, self._failure
        return record

    def _try_waiting(self) -> None:
        with self._lock:
            waiting = list(self._waiting.values())
        for process, until_s in waiting:
            layout, capability = self.find(process)
            is_it = layout is not None and layout.start_ticks == process.start_ticks
            with self._lock:
                if layout is not None and is_it:
                    self._processes[process.pid] = process
                    self._take_up(process.pid)
                    self._layouts[process.pid] = layout
                    if self._link is not None:
                        self._link.tell(layout)
                elif layout is None and time.monotonic() < until_s:
                    continue
                self._waiting.pop(process.pid, None)
            if not is_it:
                reason = capability.reason or f"PID {process.pid} belongs to another process now"
                self._context.on_status(self.name, reason)

    def _run(self) -> None:
        """Keep a sampler alive and read it, until told to stop."""
        began_ns = time.monotonic_ns()
        while not self._stopping.is_set() and self._failure is None:
            self._try_waiting()
            with self._lock:
                has_work = bool(self._layouts)
            if not has_work:
                self._stopping.wait(RETRY_S)
                continue
            try:
                self._serve()
            except KeeperGone as error:
                self._failure = error.message
            except StreamBroken as error:
                self._context.on_status(self.name, str(error))
            self._note_end()
        self._stopping.wait()
        self._note_missing(began_ns)

    def _serve(self) -> None:
        """Start one sampler and read it to its end."""
        self._governor = WakeGovernor(
            self.rate_hz, self._context.target.procfs, self._scarce_divisor
        )
        self._use_rate(self.rate_hz)
        self._counted = (0, 0)
        with self._lock:
            link = self._link = self._open_link(list(self._layouts.values()))
        retry_s = time.monotonic() + RETRY_S
        try:
            for batch in link.batches(self._stopping):
                if batch is not None:
                    self._take(batch)
                if time.monotonic() >= retry_s:
                    retry_s = time.monotonic() + RETRY_S
                    self._try_waiting()
                    self._govern(link)
        finally:
            with self._lock:
                self._link = None
            link.close()

    def _govern(self, link: ChildLink[BatchT]) -> None:
        """Adapt the rate to what the host can spare; see `probes.governor`."""
        if not self._is_governed:
            return
        rate_hz = self._governor.look(time.monotonic_ns())
        if rate_hz != self._governed_hz:
            self._use_rate(rate_hz)
            link.tell(rate_hz)

    def _use_rate(self, rate_hz: float) -> None:
        """Expect looks at this rate from now on."""
        self._governed_hz = rate_hz

    def _count(self, cpu_ns: int, missed_count: int) -> None:
        """Take what the running sampler says of itself, since it began."""
        self._cpu_ns += cpu_ns - self._counted[0]
        self._missed_count += missed_count - self._counted[1]
        self._counted = (cpu_ns, missed_count)

    def _note_end(self) -> None:
        """A sampler has ended: that is as it should be when we stop or all processes are gone."""
        with self._lock:
            is_early = bool(self._layouts) and not self._stopping.is_set()
        if not is_early or self._failure is not None:
            return
        self._restart_count += 1
        self._gap_reason = RESTARTED
        if self._restart_count > RESTART_LIMIT:
            self._failure = f"the {self._noun} ended {self._restart_count} times and was given up"
        text = self._failure or f"the {self._noun} ended; restarting it"
        self._context.on_status(self.name, text)

    def _note_missing(self, began_ns: int) -> None:
        """Note where a process that still runs was not seen, or not to the end."""
        now_ns = time.monotonic_ns()
        for pid in self._layouts:
            last_ns, limit_ns = self._unseen(pid)
            since_ns = last_ns or began_ns
            if self._failure is not None:
                self._gap(since_ns, now_ns, self._failure, pid)
            elif now_ns - since_ns > limit_ns:
                self._gap(since_ns, now_ns, "no samples arrived", pid)

    def _gap(
        self, start_ns: int, end_ns: int, reason: str, pid: int, lost_count: int | None = None
    ) -> None:
        track = self._context.tracks[pid]
        self._context.recorder.gap(self.name, start_ns, end_ns, reason, lost_count, track)

    def _note_let_go(self, pid: int, errno: int) -> None:
        """The sampler let go of a process: it exited (0), or the kernel refused."""
        with self._lock:
            self._layouts.pop(pid, None)
        text = f"process {pid} exited"
        if errno:
            text = f"process {pid} can no longer be read ({os.strerror(errno)})"
        self._context.on_status(self.name, text)

    def _thread_track(self, pid: int, tid: int) -> int:
        track = self._tracks.get((pid, tid))
        if track is None:
            try:
                name = self._context.target.procfs.stat(pid, tid).comm
            except OSError:  # it has ended since
                name = ""
            track = self._context.thread_track(self._processes[pid], tid, name)
            self._tracks[pid, tid] = track
        return track
