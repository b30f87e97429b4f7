"""The GIL probe: one sampler child for all processes of the server, its batches to the recorder."""

from __future__ import annotations

from typing import Final

import numpy as np

from collectors.manifest import ProbeRecord
from probes.gil import wire
from probes.gil.columns import gil_columns
from probes.gil.coverage import Coverage
from probes.gil.decode import Batch
from probes.gil.layout import GilLayout
from probes.gil.link import SamplerLink
from probes.gil.reader import FREE, UNKNOWN
from probes.gil.runtime import find_gil
from probes.sampler_probe import SamplerProbe
from probes.sampling import DROPPED, LATE

DEFAULT_HZ: Final = 1000.0
LOOK_HZ: Final = 200.0  # who waits, while somebody does


class GilProbe(SamplerProbe[GilLayout, Batch]):
    """Samples who holds the GIL of each Python process, how many threads want it, and who."""

    name = "gil"
    _noun = "GIL sampler"
    _scarce_divisor = 100.0

    def __init__(
        self, rate_hz: float = DEFAULT_HZ, look_hz: float = LOOK_HZ, *, is_realtime: bool = False,
        is_governed: bool = True,
    ) -> None:  # fmt: skip
        """Prepare a probe.

        Args:
            rate_hz: looks a second at each GIL.
            look_hz: looks a second for who waits, while somebody does.
            is_realtime: unbiased on a saturated host, at the target's expense (docs/gil.md).
            is_governed: look less often where the host has little CPU to spare.
        """
        super().__init__(rate_hz, is_governed=is_governed)
        self._is_realtime = is_realtime
        self._look_hz = look_hz
        self._coverage: dict[int, Coverage] = {}
        self._held_ratios: dict[int, float] = {}
        self._last: Batch | None = None  # of the running sampler: its counts are cumulative
        self._dropped_count = 0

    def _find(self, pid: int) -> GilLayout:
        return find_gil(pid)

    def _shortfall(self, layout: GilLayout) -> str | None:
        if layout.waiter_reference_offset == 0:
            return (
                f"how many threads of process {layout.pid} wait cannot be told: unknown C library"
            )
        if layout.own_gil_interpreter_count:
            return (
                f"process {layout.pid} has {layout.own_gil_interpreter_count} sub-interpreters "
                "with a GIL of their own: only the main interpreter's is sampled"
            )
        return None

    def held_ratios(self) -> dict[int, float]:
        """Return, by PID, the share of the last batch's looks that found the GIL held."""
        return dict(self._held_ratios)

    def _open_link(self, layouts: list[GilLayout]) -> SamplerLink:
        self._last = None
        return SamplerLink(
            self._context.keeper, layouts,
            rate_hz=self.rate_hz, look_hz=self._look_hz, is_realtime=self._is_realtime,
        )  # fmt: skip

    def _take_up(self, pid: int) -> None:
        self._coverage.setdefault(pid, Coverage(round(1e9 / self.rate_hz)))

    def _complete(self, record: ProbeRecord) -> None:
        rates = [one.achieved_hz for one in self._coverage.values() if one.achieved_hz is not None]
        if rates:
            record.achieved_hz = sum(rates) / len(rates)
            record.largest_gap_ns = max(one.largest_gap_ns for one in self._coverage.values())
        record.detail |= {
            "dropped_sample_count": self._dropped_count,
            "processes": {str(pid): one.detail() for pid, one in self._coverage.items()},
        }

    def _use_rate(self, rate_hz: float) -> None:
        super()._use_rate(rate_hz)
        for coverage in self._coverage.values():
            coverage.period_ns = round(1e9 / rate_hz)

    def _unseen(self, pid: int) -> tuple[int | None, int]:
        coverage = self._coverage[pid]
        return coverage.last_ns, coverage.gap_limit_ns + wire.BATCH_NS

    def _take(self, batch: Batch) -> None:
        last, self._last = self._last, batch
        dropped_count = batch.dropped_count - (last.dropped_count if last else 0)
        self._dropped_count += dropped_count
        self._count(batch.cpu_ns, batch.missed_count)
        reason = DROPPED if dropped_count else self._gap_reason
        for pid in np.unique(batch.samples["pid"]).tolist():
            rows = batch.samples[batch.samples["pid"] == pid]
            coverage = self._coverage[pid]
            coverage.unknown_holder_count += int((rows["holder_tid"] == UNKNOWN).sum())
            self._held_ratios[pid] = float((rows["holder_tid"] != FREE).mean())
            for start_ns, end_ns in coverage.add(rows["time_ns"].astype(np.int64)):
                lost_count = max(0, (end_ns - start_ns) // coverage.period_ns - 1)
                self._gap(start_ns, end_ns, reason, pid, lost_count)
        if len(batch.samples):
            self._gap_reason = LATE
            columns = gil_columns(batch, self._context.tracks.__getitem__, self._thread_track)
            self._context.recorder.append("gil", columns)
        for event in batch.events:
            if event.code != wire.TAKEN_UP:
                self._note_let_go(event.pid, event.errno if event.code == wire.REFUSED else 0)
