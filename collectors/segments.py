"""Turn the py-spy segments of a recording into rows of the timeline.

A segment is one recorder's file, ``raw/pyspy/PID-SPAWN_NS-HZ.json``: the process, when its recorder
was spawned (CLOCK_MONOTONIC ns) and the rate it was asked for. Segments of one process overlap a
little, because the next recorder starts before the last one stops.

py-spy's times count from an instant of its own that nobody wrote down. It lies after the spawn, and
before the file was written minus the file's last tick: the clock error of a segment is the width
of that bracket. Measured, that origin comes 0.9 to 1.7 ms after the spawn.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from collectors.errors import ImportInvalid
from collectors.importers.pyspy_chrometrace import Segment, read_segment
from collectors.manifest import Manifest, ProbeRecord
from collectors.schema import TABLES
from collectors.stacks import StackTable

TYPICAL_START_NS: Final = 1_300_000
# A file's mtime comes from the kernel's coarse clock: up to one tick (4 ms at 250 Hz) behind.
MTIME_ERROR_NS: Final = 4_000_000
PROBE: Final = "pyspy"

# The widths keep a PID within int32 and a time, with the longest segment added, within int64.
_NAME = re.compile(r"(\d{1,7})-(\d{1,18})-(\d{1,4})\.json", re.ASCII)


def segment_name(pid: int, spawn_ns: int, rate_hz: int) -> str:
    """Return the file name of the segment that a recorder spawned at ``spawn_ns`` writes."""
    return f"{pid}-{spawn_ns}-{rate_hz}.json"


@dataclass(frozen=True, slots=True)
class _Placed:
    """A segment on the capture's clock."""

    origin_ns: int
    clock_error_ns: int
    segment: Segment

    @property
    def start_ns(self) -> int:
        return self.origin_ns + self.segment.first_ns

    @property
    def end_ns(self) -> int:
        return self.origin_ns + self.segment.end_ns


class _Tracks:
    """The tracks table while samples look their threads up in it, and extend it."""

    def __init__(self, tracks: pa.Table) -> None:
        self.rows: list[dict[str, Any]] = tracks.to_pylist()
        self._processes = {row["pid"]: row for row in self.rows if row["kind"] == "process"}
        self._threads: dict[tuple[int, int], dict[str, Any]] = {}
        for row in self.rows:
            if row["kind"] == "thread":
                self._threads[row["pid"], row["tid"]] = row
                if row["inner_tid"] is not None:
                    self._threads.setdefault((row["pid"], row["inner_tid"]), row)

    def process(self, pid: int) -> int | None:
        row = self._processes.get(pid)
        return None if row is None else int(row["track"])

    def thread(self, pid: int, tid: int, name: str) -> int | None:
        row = self._threads.get((pid, tid))
        if row is None:
            process = self._processes.get(pid)
            if process is None:
                return None
            row = {
                **dict.fromkeys(TABLES["tracks"].names),
                "track": max((row["track"] for row in self.rows), default=-1) + 1,
                "kind": "thread",
                "parent": process["track"],
                "pid": pid,
                "tid": tid,
                "name": name,
                "role": process["role"],
            }
            self.rows.append(row)
            self._threads[pid, tid] = row
        # Python's name for a thread says more than the kernel's, which is the program's by default.
        row["name"] = name or row["name"]
        return int(row["track"])


def import_segments(
    directory: Path, tables: dict[str, pa.Table], manifest: Manifest
) -> dict[str, pa.Table]:
    """Return the tables that the segments in ``directory`` extend; a bad segment is a gap."""
    stacks = StackTable()
    stacks.load(tables["frames"], tables["stacks"])
    tracks = _Tracks(tables["tracks"])
    gaps: list[dict[str, Any]] = []
    samples: list[pa.Table] = []
    placed = _place(directory, stacks, manifest, tracks, gaps)
    for pid, segments in sorted(placed.items()):
        for index, one in enumerate(segments):
            until_ns = segments[index + 1].start_ns if index + 1 < len(segments) else None
            samples += _rows(one, pid, until_ns, tracks)
            if one.segment.lost_count:
                gaps.append(
                    _gap(tracks.process(pid), one.start_ns, one.end_ns,
                         "events that made no sense", one.segment.lost_count)
                )  # fmt: skip
    for record in manifest.probes:
        if record.name == PROBE and placed:
            _complete_record(record, placed)
    return {
        "tracks": pa.Table.from_pylist(tracks.rows, schema=TABLES["tracks"]),
        "frames": pa.table(stacks.frame_columns(), schema=TABLES["frames"]),
        "stacks": pa.table(stacks.stack_columns(), schema=TABLES["stacks"]),
        "samples": pa.concat_tables([tables["samples"], *samples]),
        "gaps": pa.concat_tables(
            [tables["gaps"], pa.Table.from_pylist(gaps, schema=TABLES["gaps"])]
        ),
    }


def _place(
    directory: Path, stacks: StackTable, manifest: Manifest, tracks: _Tracks,
    gaps: list[dict[str, Any]],
) -> dict[int, list[_Placed]]:  # fmt: skip
    """Read all segments and put each on the capture's clock, by process and in order of time."""
    placed: dict[int, list[_Placed]] = {}
    anchor = manifest.anchors[0]
    for path in sorted(directory.glob("*.json")):
        match = _NAME.fullmatch(path.name)
        if match is None:
            continue
        pid, spawn_ns = int(match[1]), int(match[2])
        written_ns = anchor.monotonic_from_realtime_ns(path.stat().st_mtime_ns) + MTIME_ERROR_NS
        try:
            segment = read_segment(path, stacks)
        except ImportInvalid as error:
            until_ns = max(spawn_ns, written_ns)
            gaps.append(_gap(tracks.process(pid), spawn_ns, until_ns, error.message))
            continue
        latest_ns = max(spawn_ns, written_ns - segment.end_ns)
        origin_ns = min(spawn_ns + TYPICAL_START_NS, latest_ns)
        clock_error_ns = max(origin_ns - spawn_ns, latest_ns - origin_ns)
        placed.setdefault(pid, []).append(_Placed(origin_ns, clock_error_ns, segment))
    for segments in placed.values():
        segments.sort(key=lambda one: one.origin_ns)
    return placed


def _complete_record(record: ProbeRecord, placed: dict[int, list[_Placed]]) -> None:
    """Add what only the files tell: the clock error and the achieved rate.

    py-spy counts a sample per thread and tick, so a process's ticks are its samples over its
    threads. The rate stated is that of the process that was sampled worst.
    """
    record.detail["clock_error_ns"] = max(
        one.clock_error_ns for segments in placed.values() for one in segments
    )
    rates_hz = []
    for pid, segments in placed.items():
        sampled = record.detail.get("processes", {}).get(str(pid))
        thread_ns = sum((one.end_ns - one.start_ns) * len(one.segment.threads) for one in segments)
        if sampled and thread_ns:
            sampled["achieved_hz"] = sampled["sample_count"] * 1e9 / thread_ns
            rates_hz.append(sampled["achieved_hz"])
    record.achieved_hz = min(rates_hz, default=None)


def _rows(placed: _Placed, pid: int, until_ns: int | None, tracks: _Tracks) -> list[pa.Table]:
    """The segment's runs as rows of ``samples``, cut where the next segment takes over."""
    tables = []
    for runs in placed.segment.threads:
        track = tracks.thread(pid, runs.tid, runs.name)
        if track is None or not runs.start_ns:
            continue
        start_ns = np.array(runs.start_ns, np.int64) + placed.origin_ns
        end_ns = np.array(runs.end_ns, np.int64) + placed.origin_ns
        if until_ns is not None:
            end_ns = np.minimum(end_ns, until_ns)
        keep = end_ns > start_ns
        columns = {
            "time_ns": start_ns[keep],
            "duration_ns": (end_ns - start_ns)[keep],
            "track": np.full(int(keep.sum()), track, np.int32),
            "stack": np.array(runs.stack, np.int32)[keep],
        }
        tables.append(pa.table(columns, schema=TABLES["samples"]))
    return tables


def _gap(
    track: int | None, start_ns: int, end_ns: int, reason: str, lost_count: int | None = None
) -> dict[str, Any]:
    return {
        "probe": PROBE,
        "start_ns": start_ns,
        "end_ns": end_ns,
        "lost_count": lost_count,
        "reason": reason,
        "track": track,
    }
