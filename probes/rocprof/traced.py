"""One process that traces itself for us: asked to begin, read as it goes, asked to end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from collectors.errors import CputaxError
from collectors.importers.trace import Trace
from probes.procfs import Procfs
from probes.rocprof._library import Version
from probes.rocprof.errors import RocprofRefused, SpoolBroken
from probes.rocprof.spool import Control, SpoolReader
from probes.rocprof.timeline import Timeline

DROPPED: Final = "AMD's library had no room for records"
UNWRITTEN: Final = "records were taken too slowly: the spool was full"
UNREADABLE: Final = "records that made no sense"
UNSEEN: Final = "kernels that were launched, but whose end was not seen"
UNSTOPPED: Final = "the process did not hand over its last records"


class TracedProcess:
    """The session's side of one process's hook."""

    def __init__(self, directory: Path, inner_pid: int, pid: int, procfs: Procfs) -> None:
        """Begin to read.

        Raises:
            OSError: the process has no spool file.
        """
        self.pid = pid
        self.broken: SpoolBroken | None = None
        self._is_asked = False
        self.timeline = Timeline(pid, host_tids(procfs, pid))
        self._reader = SpoolReader(directory / f"{inner_pid}.spool", pid)
        self._control = Control(directory / f"{inner_pid}.control")

    def want(self) -> bool:
        """Ask for records; False while it cannot hear that."""
        try:
            self._is_asked |= self._control.open()
        except OSError:  # it could not be configured: its spool says why
            return False
        return self._is_asked

    def unwant(self) -> None:
        """Ask for no more; `is_stopped` once the last have come."""
        self._control.close()

    def read(self) -> Trace:
        """Return what has come since the last time."""
        if self.broken is None:
            try:
                for kind, body in self._reader.frames():
                    self.timeline.take(kind, body)
            except SpoolBroken as error:
                self.broken = error
            except ValueError:
                self.broken = SpoolBroken(self.pid, self._reader.read_bytes)
        return self.timeline.drain()

    @property
    def is_started(self) -> bool:
        """Whether it records, or did."""
        return self.timeline.account.is_started

    @property
    def is_awaited(self) -> bool:
        """Whether it was asked to record, so that its last records are still to come."""
        could_start = self.is_started or self.problem is None
        return self._is_asked and could_start and not self.is_stopped

    @property
    def is_stopped(self) -> bool:
        """Whether nothing more will come."""
        return self.timeline.account.is_stopped or self.broken is not None

    def losses(self) -> list[tuple[str, int | None]]:
        """Return what is missing, and how much of it; None where nobody knows."""
        account = self.timeline.account
        dropped_count = sum(account.drops.values())
        unwritten_count = account.totals.get("unwritten_count", 0)
        unreadable_count = account.totals.get("unreadable_count", 0)
        told_count = dropped_count + unwritten_count + unreadable_count
        unseen_count = max(0, self.timeline.dispatches.missing_count - told_count)
        found: list[tuple[str, int | None]] = [
            (DROPPED, dropped_count), (UNWRITTEN, unwritten_count),
            (UNREADABLE, unreadable_count), (UNSEEN, unseen_count),
        ]  # fmt: skip
        found = [loss for loss in found if loss[1]]
        if self.broken is not None:
            found.append((self.broken.message, None))
        elif self.is_awaited:
            found.append((UNSTOPPED, None))
        return found

    @property
    def problem(self) -> CputaxError | None:
        """What went wrong in it, in the library's words."""
        problems = self.timeline.account.problems
        if self.broken is None and problems:
            return RocprofRefused(self.pid, problems[-1]["text"], problems[-1]["status"])
        return self.broken

    def detail(self) -> dict[str, Any]:
        """Return what the manifest says of it."""
        account, dispatches = self.timeline.account, self.timeline.dispatches
        totals = account.totals
        delivery_count = totals.get("delivery_count", 0)
        return {
            "library": account.library,
            "version": str(Version(*account.version)) if account.version else None,
            "kernel_count": dispatches.count,
            "missing_kernel_count": dispatches.missing_count,
            "dropped_record_count": sum(account.drops.values()),
            "delivery_count": delivery_count,
            "mean_gil_held_ns": totals["held_ns"] / delivery_count if delivery_count else None,
            "longest_gil_held_ns": totals.get("longest_held_ns"),
            "problem": self.problem.message if self.problem is not None else None,
        }

    def close(self) -> None:
        """Let go of its files."""
        self._control.close()
        self._reader.close()


def host_tids(procfs: Procfs, pid: int) -> Callable[[int], int]:
    """Return what turns a process's own thread ids into the host's: another PID namespace's."""
    known: dict[int, int] = {}

    def host_tid(tid: int) -> int:
        if tid not in known:
            with contextlib.suppress(OSError):
                for host in procfs.tids(pid):
                    known[procfs.status(pid, host).inner_pids[-1]] = host
        return known.setdefault(tid, tid)

    return host_tid
