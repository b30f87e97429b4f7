"""The stack probe: one sampler child for all processes of the server, its runs to the recorder."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

import numpy as np

from collectors.manifest import ProbeRecord
from collectors.stacks import StackTable
from probes.base import Context, Level
from probes.sampler_link import CHILD_MAX_S, ChildLink
from probes.sampler_probe import SamplerProbe
from probes.sampling import LATE
from probes.stacks import wire
from probes.stacks.batches import LineDecoder, Look, Renumbering, StackBatch
from probes.stacks.finder import find_stacks
from probes.stacks.layout import StackLayout
from probes.stacks.witness import Witness

RATE_HZ: Final = 100
_SILENCE_NS: Final = 1_000_000_000


class StackProbe(SamplerProbe[StackLayout, StackBatch]):
    """Samples the Python stacks of all threads of each Python process."""

    name = "stacks"
    _noun = "stack sampler"
    _scarce_divisor = 8.0

    def __init__(self, rate_hz: int = RATE_HZ, *, is_governed: bool = True) -> None:
        """``is_governed``: look less often where the host has little CPU to spare."""
        super().__init__(rate_hz, is_governed=is_governed)
        self._table = StackTable()
        self._sent_frame_count = self._sent_stack_count = 0
        self._renumbering = Renumbering(self._table)
        self._looks: dict[int, Look] = {}  # of the running sampler
        self._ended: dict[int, Look] = {}  # of samplers that ended before
        self._unread: dict[int, int] = {}
        self._largest_gap_ns = 0
        self._witness: Witness

    def _find(self, pid: int) -> StackLayout:
        return find_stacks(pid)

    def start(self, context: Context) -> None:
        """Begin to sample, and let py-spy look at each process once; see `Witness`."""
        self._witness = Witness(context)
        super().start(context)
        self._witness.start()

    def stop(self) -> ProbeRecord:
        """Stop sampling and say what was achieved."""
        self._witness.stop()
        return super().stop()

    def _open_link(self, layouts: list[StackLayout]) -> ChildLink[StackBatch]:
        self._ended, self._looks = self._all_looks(), {}
        self._renumbering = Renumbering(self._table)
        return ChildLink(
            self._context.keeper, "probes.stacks.sampler", [str(self.rate_hz), str(CHILD_MAX_S)],
            layouts, LineDecoder().feed,
        )  # fmt: skip

    def _take_up(self, pid: int) -> None:
        self._witness.add(pid)

    def _unseen(self, pid: int) -> tuple[int | None, int]:
        look = self._looks.get(pid) or self._ended.get(pid)
        return (look.last_ns if look else None), _SILENCE_NS

    def _all_looks(self) -> dict[int, Look]:
        """Add up what all samplers have seen of each process."""
        looks = dict(self._ended)
        for pid, look in self._looks.items():
            ended = looks.get(pid, Look(0, look.first_ns, look.last_ns))
            looks[pid] = Look(ended.count + look.count, ended.first_ns, look.last_ns)
        return looks

    def _complete(self, record: ProbeRecord) -> None:
        verdict = self._witness.verdict(self._table)
        looks = self._all_looks()
        processes = {
            str(pid): {
                "look_count": look.count,
                "achieved_hz": look.rate_hz,
                "unread_count": self._unread.get(pid, 0),
            }
            for pid, look in looks.items()
        }
        rates = [look.rate_hz for look in looks.values() if look.rate_hz is not None]
        record.achieved_hz = min(rates, default=None)
        record.largest_gap_ns = self._largest_gap_ns
        record.detail |= {
            "processes": processes,
            "py_spy_check": asdict(verdict),
        }
        if verdict.is_doubtful:
            record.level = Level.DEGRADED.value
            record.reason = (
                f"py-spy saw another stack in {verdict.compared_count - verdict.equal_count} of "
                f"{verdict.compared_count} sleeping threads"
            )
            record.remedy = "sample with py-spy instead: cputax attach PID --stacks py-spy"

    def _take(self, batch: StackBatch) -> None:
        self._renumbering.learn(batch)
        self._send_table()
        self._note_looks(batch)
        self._count(batch.cpu_ns, batch.missed_count)
        self._unread |= batch.unread
        if batch.runs:
            pids, tids, starts, durations, stacks = map(list, zip(*batch.runs, strict=True))
            numbers = self._renumbering.translate(stacks)
            columns: dict[str, Any] = {
                "time_ns": np.array(starts, np.int64),
                "duration_ns": np.array(durations, np.int64),
                "track": np.array(
                    [self._thread_track(*pair) for pair in zip(pids, tids, strict=True)], np.int32
                ),
                "stack": numbers,
            }
            self._context.recorder.append("samples", columns)
            self._witness.note(zip(pids, tids, starts, durations, numbers.tolist(), strict=True))
        for pid, start_ns, end_ns, reason in batch.gaps:
            self._gap(start_ns, end_ns, reason, pid)
        for pid, what, errno in batch.events:
            if what != wire.TAKEN_UP:
                self._note_let_go(pid, errno)

    def _note_looks(self, batch: StackBatch) -> None:
        """A sampler's first look at a process ends the gap that the one before it left."""
        for pid, look in batch.looks.items():
            self._largest_gap_ns = max(self._largest_gap_ns, look.largest_gap_ns)
            ended = self._ended.get(pid)
            if ended is not None and pid not in self._looks and look.count:
                self._largest_gap_ns = max(self._largest_gap_ns, look.first_ns - ended.last_ns)
                self._gap(ended.last_ns, look.first_ns, self._gap_reason, pid)
            if look.count:
                self._looks[pid] = look
        if batch.looks:
            self._gap_reason = LATE

    def _send_table(self) -> None:
        """Append the frames and stacks that are new to the capture."""
        recorder = self._context.recorder
        for name, columns in (
            ("frames", self._table.frame_columns(self._sent_frame_count)),
            ("stacks", self._table.stack_columns(self._sent_stack_count)),
        ):
            recorder.append(name, columns)
        self._sent_frame_count = self._table.frame_count
        self._sent_stack_count = self._table.stack_count
