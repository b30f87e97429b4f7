"""Small recordings, made on the spot: a manifest, rows, py-spy segments."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from collectors.clock import read_anchor
from collectors.manifest import Manifest, ProbeRecord, ProcessRecord, TargetRecord
from collectors.recorder import Recorder
from collectors.segments import segment_name

PID = 4242


def make_manifest() -> Manifest:
    """Return the manifest of a recording of one plain Python process that begins now."""
    return Manifest(
        target=TargetRecord(PID, "python", processes=[ProcessRecord(PID, 77, "python", "python")]),
        started_ns=time.monotonic_ns(),
        cputax_version="0",
        probes=[ProbeRecord("pyspy", "works", requested_hz=100.0)],
        anchors=[read_anchor()],
    )


def make_recorder(directory: Path, kind: type[Recorder] = Recorder) -> Recorder:
    """Return a recorder with one process track (0) and one thread track (1)."""
    recorder = kind(directory, make_manifest())
    process = recorder.process_track(PID, 77, name="python", role="python")
    recorder.thread_track(process, PID, PID + 1, name="busy", role="python")
    return recorder


def count(recorder: Recorder, values: Iterable[float]) -> None:
    """Append one row of ``counters`` per value, at the time it is now."""
    rows = [(time.monotonic_ns(), 0, 0, value) for value in values]
    columns = zip(*rows, strict=True)
    names = ("time_ns", "track", "counter", "value")
    recorder.append("counters", {name: list(c) for name, c in zip(names, columns, strict=True)})


def event(
    phase: str, now_us: int, name: str, file: str = "a.py", key: object = 1
) -> dict[str, Any]:
    """Return one event as py-spy writes it; ``key`` is its pthread_t."""
    return {
        "ph": phase, "ts": now_us, "tid": key, "pid": PID, "name": name, "cat": "py-spy",
        "args": {"filename": file, "line": None},
    }  # fmt: skip


def two_frames(tid: int, begin_us: int = 0, key: object = 1, label: str = "busy") -> list[Any]:
    """A thread in main > work for 10 ms, in main alone for 5, in main > rest for 5."""
    root = f"thread ({tid}): {label}"
    return [
        event("B", begin_us, root, "", key),
        event("B", begin_us, "main", key=key),
        event("B", begin_us, "work", "b.py", key),
        event("E", begin_us + 10_000, "work", "b.py", key),
        event("B", begin_us + 15_000, "rest", key=key),
        event("E", begin_us + 20_000, "rest", key=key),
        event("E", begin_us + 20_000, "main", key=key),
        event("E", begin_us + 20_000, root, "", key),
    ]


def write_segment(directory: Path, events: Any, *, spawn_ns: int, pid: int = PID) -> Path:
    """Write ``events`` as the segment of a recorder spawned at ``spawn_ns``."""
    path = directory / "raw" / "pyspy" / segment_name(pid, spawn_ns, 100)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(events if isinstance(events, str) else json.dumps(events))
    return path
