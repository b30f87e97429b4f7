"""The GIL probe: one sampler child for all processes of the server, its batches to the recorder."""

from __future__ import annotations

import os
import threading
import time
from typing import Final

import numpy as np

from collectors.errors import CputaxError
from collectors.manifest import ProbeRecord
from probes.base import Capability, Context, Level
from probes.gil import wire
from probes.gil.columns import gil_columns
from probes.gil.coverage import Coverage
from probes.gil.decode import Batch, Event, StreamBroken
from probes.gil.layout import GilLayout
from probes.gil.link import SamplerLink
from probes.gil.reader import FREE, UNKNOWN
from probes.gil.runtime import find_gil
from probes.governor import WakeGovernor
from probes.keeper import KeeperGone
from probes.target import Process, Target

DEFAULT_HZ: Final = 1000.0
LOOK_HZ: Final = 200.0  # who waits, while somebody does
RESTART_LIMIT: Final = 5
# A process that was just started has no interpreter yet: try again once a second for a while.
START_UP_S: Final = 30.0
RETRY_S: Final = 1.0

_LATE: Final = "the sampler got no CPU"
_DROPPED: Final = "samples were dropped: nobody read them in time"
_RESTARTED: Final = "the sampler had ended and was restarted"


def check_process(process: Process) -> tuple[GilLayout | None, Capability]:
    """Say how much can be seen of one process's GIL, and find it."""
    try:
        layout = find_gil(process.pid)
    except CputaxError as error:
        return None, Capability(GilProbe.name, Level.UNAVAILABLE, error.message, error.remedy)
    if layout.waiter_reference_offset == 0:
        reason = f"how many threads of process {process.pid} wait cannot be told: unknown C library"
        return layout, Capability(GilProbe.name, Level.DEGRADED, reason)
    if layout.own_gil_interpreter_count:
        reason = (
            f"process {process.pid} has {layout.own_gil_interpreter_count} sub-interpreters with a "
            "GIL of their own: only the main interpreter's is sampled"
        )
        return layout, Capability(GilProbe.name, Level.DEGRADED, reason)
    return layout, Capability(GilProbe.name, Level.WORKS)


class GilProbe:
    """Samples who holds the GIL of each Python process, how many threads want it, and who."""

    name: Final = "gil"

    def __init__(
        self, rate_hz: float = DEFAULT_HZ, look_hz: float = LOOK_HZ, *, is_realtime: bool = False
    ) -> None:
        """``is_realtime``: unbiased on a saturated host, at the target's expense (docs/gil.md)."""
        self.rate_hz = rate_hz
        self._is_realtime = is_realtime
        self._look_hz = look_hz
        self._context: Context
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._capability = Capability(self.name, Level.UNAVAILABLE, "it was not started")
        self._lock = threading.Lock()  # guards the next three
        self._layouts: dict[int, GilLayout] = {}  # of the processes being sampled
        self._waiting: dict[int, tuple[Process, float]] = {}  # and until when to try (monotonic)
        self._link: SamplerLink | None = None
        self._processes: dict[int, Process] = {}
        self._coverage: dict[int, Coverage] = {}
        self._held_ratios: dict[int, float] = {}
        self._tracks: dict[tuple[int, int], int] = {}  # (PID, thread id) -> track
        self._gap_reason = _LATE
        self._failure: str | None = None
        self._governor: WakeGovernor
        self._governed_hz = rate_hz
        self._restart_count = 0
        self._last: Batch | None = None  # of the running sampler: its counts are cumulative
        self._dropped_count = self._missed_count = self._cpu_ns = 0

    def check(self, target: Target) -> Capability:
        """Look for the GIL of each Python process; every reason for less than all is named."""
        answers = [check_process(process)[1] for process in target.python_processes]
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
        self._capability = self.check(context.target)
        for process in context.target.python_processes:
            self.add(process)
        self._thread = threading.Thread(target=self._run, name="gil", daemon=True)
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
        record = self._capability.record(self.rate_hz)
        rates = [one.achieved_hz for one in self._coverage.values() if one.achieved_hz is not None]
        if rates:
            record.achieved_hz = sum(rates) / len(rates)
            record.largest_gap_ns = max(one.largest_gap_ns for one in self._coverage.values())
        if self._failure is not None:
            record.level, record.reason = Level.DEGRADED.value, self._failure
        record.cpu_seconds = self._cpu_ns / 1e9
        record.detail = {
            "missed_slot_count": self._missed_count,
            "dropped_sample_count": self._dropped_count,
            "restart_count": self._restart_count,
            "processes": {str(pid): one.detail() for pid, one in self._coverage.items()},
        }
        return record

    def held_ratios(self) -> dict[int, float]:
        """Return, by PID, the share of the last batch's looks that found the GIL held."""
        return dict(self._held_ratios)

    def _try_waiting(self) -> None:
        with self._lock:
            waiting = list(self._waiting.values())
        for process, until_s in waiting:
            layout, capability = check_process(process)
            is_it = layout is not None and layout.start_ticks == process.start_ticks
            with self._lock:
                if layout is not None and is_it:
                    self._processes[process.pid] = process
                    self._coverage.setdefault(process.pid, Coverage(round(1e9 / self.rate_hz)))
                    self._layouts[process.pid] = layout
                    if self._link is not None:
                        self._link.take_up(layout)
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
        with self._lock:
            layouts = list(self._layouts.values())
            link = self._link = SamplerLink(
                self._context.keeper, layouts,
                rate_hz=self.rate_hz, look_hz=self._look_hz, is_realtime=self._is_realtime,
            )  # fmt: skip
        self._governor = WakeGovernor(self.rate_hz, self._context.target.procfs)
        self._governed_hz = self.rate_hz
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
            self._last = None
            link.close()

    def _govern(self, link: SamplerLink) -> None:
        """Look less often where the host has little CPU to spare; see `probes.governor`."""
        rate_hz = self._governor.look(time.monotonic_ns())
        if rate_hz != self._governed_hz:
            self._governed_hz = rate_hz
            link.set_rate(rate_hz)
            for coverage in self._coverage.values():
                coverage.period_ns = round(1e9 / rate_hz)

    def _note_end(self) -> None:
        """A sampler has ended: that is as it should be when we stop or all processes are gone."""
        with self._lock:
            is_early = bool(self._layouts) and not self._stopping.is_set()
        if not is_early or self._failure is not None:
            return
        self._restart_count += 1
        self._gap_reason = _RESTARTED
        if self._restart_count > RESTART_LIMIT:
            self._failure = f"the GIL sampler ended {self._restart_count} times and was given up"
        self._context.on_status(self.name, self._failure or "the GIL sampler ended; restarting it")

    def _note_missing(self, began_ns: int) -> None:
        """Note where a process that still runs was not seen, or not to the end."""
        now_ns = time.monotonic_ns()
        for pid in self._layouts:
            coverage = self._coverage[pid]
            since_ns = coverage.last_ns or began_ns
            if self._failure is not None:
                self._gap(since_ns, now_ns, self._failure, pid)
            elif now_ns - since_ns > coverage.gap_limit_ns + wire.BATCH_NS:
                self._gap(since_ns, now_ns, "no samples arrived", pid)

    def _take(self, batch: Batch) -> None:
        last, self._last = self._last, batch
        dropped_count = batch.dropped_count - (last.dropped_count if last else 0)
        self._dropped_count += dropped_count
        self._missed_count += batch.missed_count - (last.missed_count if last else 0)
        self._cpu_ns += batch.cpu_ns - (last.cpu_ns if last else 0)
        reason = _DROPPED if dropped_count else self._gap_reason
        for pid in np.unique(batch.samples["pid"]).tolist():
            rows = batch.samples[batch.samples["pid"] == pid]
            coverage = self._coverage[pid]
            coverage.unknown_holder_count += int((rows["holder_tid"] == UNKNOWN).sum())
            self._held_ratios[pid] = float((rows["holder_tid"] != FREE).mean())
            for start_ns, end_ns in coverage.add(rows["time_ns"].astype(np.int64)):
                self._gap(start_ns, end_ns, reason, pid)
        if len(batch.samples):
            self._gap_reason = _LATE
            columns = gil_columns(batch, self._context.tracks.__getitem__, self._thread_track)
            self._context.recorder.append("gil", columns)
        for event in batch.events:
            self._note_event(event)

    def _gap(self, start_ns: int, end_ns: int, reason: str, pid: int) -> None:
        lost_count = max(0, (end_ns - start_ns) // self._coverage[pid].period_ns - 1)
        track = self._context.tracks[pid]
        self._context.recorder.gap(self.name, start_ns, end_ns, reason, lost_count, track)

    def _note_event(self, event: Event) -> None:
        if event.code == wire.TAKEN_UP:
            return
        with self._lock:
            self._layouts.pop(event.pid, None)
        if event.code == wire.EXITED:
            text = f"process {event.pid} exited"
        else:
            text = f"process {event.pid} can no longer be read ({os.strerror(event.errno)})"
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
