"""What became of the py-spy recorders of each process: what they saw, cost and missed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from collectors.manifest import ProbeRecord
from collectors.recorder import Recorder
from probes.base import Level

# What py-spy says when it has written its file.
_SUMMARY: Final = re.compile(r"Samples: (\d+) Errors: (\d+)")


class Account:
    """All recorders of one process."""

    def __init__(self, probe: str, recorder: Recorder, track: int) -> None:
        """Open it for the process of ``track``; what was not seen becomes gaps of ``probe``."""
        self._probe = probe
        self._recorder = recorder
        self._track = track
        self.sample_count = 0
        self.error_count = 0
        self.restart_count = 0
        self.cpu_seconds = 0.0
        self.largest_gap_ns = 0
        self.rates_hz: set[int] = set()
        self.unseen_ns: int | None = None  # since when no recorder has run, though one should

    def add_output(self, output: str) -> None:
        """Add the samples that a recorder counted, by what it said at its end."""
        summary = _SUMMARY.search(output)
        if summary:
            self.sample_count += int(summary[1])
            self.error_count += int(summary[2])

    def gap(self, start_ns: int, end_ns: int, reason: str) -> None:
        """Write down that nothing was seen in ``[start_ns, end_ns)``."""
        self.largest_gap_ns = max(self.largest_gap_ns, end_ns - start_ns)
        self._recorder.gap(self._probe, start_ns, end_ns, reason, track=self._track)

    def end_unseen(self, end_ns: int, reason: str) -> None:
        """Write down the time since `unseen_ns`, if there was any, and begin anew."""
        start_ns, self.unseen_ns = self.unseen_ns, None
        if start_ns is not None and start_ns < end_ns:
            self.gap(start_ns, end_ns, reason)


def sum_up(accounts: Mapping[int, Account], record: ProbeRecord, *, is_keeper_gone: bool) -> None:
    """Put the accounts, by PID, into the probe's record; a recorder that failed degrades it."""
    record.cpu_seconds = sum(account.cpu_seconds for account in accounts.values())
    largest_ns = (account.largest_gap_ns for account in accounts.values())
    record.largest_gap_ns = max(largest_ns, default=0)
    record.detail["processes"] = {
        str(pid): {
            "sample_count": account.sample_count,
            "error_count": account.error_count,
            "restart_count": account.restart_count,
            "rates_hz": sorted(account.rates_hz),
        }
        for pid, account in accounts.items()
    }
    failed = [pid for pid, account in accounts.items() if account.restart_count]
    if failed or is_keeper_gone:
        record.level = Level.DEGRADED.value
        record.reason = f"recorders ended early on {', '.join(map(str, failed)) or 'all'}"
        record.remedy = "see the gaps; was py-spy killed, or the disk full?"
