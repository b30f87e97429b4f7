"""Read what ``py-spy record -f chrometrace`` wrote, with or without ``-t``, ``-s`` and ``--idle``.

The reader is that of our own segments; here each of a file's processes and threads gets a track.
Without ``-t`` a thread is known by Python's number, not the kernel's: its track counts from 1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from collectors.errors import ImportInvalid
from collectors.importers.groups import MAX_TRACK_COUNT
from collectors.importers.pyspy_chrometrace import Segment, read_events
from collectors.importers.source import Progress, blocks
from collectors.importers.trace import Clock, Trace

FORMAT_NAME: Final = "pyspy"
MAX_UNPACKED_BYTES: Final = 1 << 28  # decoded as a whole, to some five times as much

_MAX_PID: Final = (1 << 31) - 1
_CATEGORY = re.compile(rb'"cat":\s*"py-spy"')
_THREAD = re.compile(r"thread \(\d{1,7}\)", re.ASCII)
_PROCESS = re.compile(r"process \d{1,10}:", re.ASCII)  # then its command line
_REMEDY: Final = "record again; a cut-off file means that py-spy was killed or the disk was full"


def is_mine(path: Path, head: bytes) -> bool:
    """Tell py-spy's events by their category."""
    return head.lstrip()[:1] == b"[" and _CATEGORY.search(head) is not None


def read(
    paths: Sequence[Path], on_progress: Progress | None = None, *, device_only: bool = False
) -> Trace:
    """Read files, each of one recording.

    Raises:
        ImportInvalid: a file cannot be read, is not a list of events, or is larger than 256 MiB.
    """
    trace = Trace(FORMAT_NAME, Clock.OWN)
    for number, path in enumerate(paths):
        trace.begin_scope()
        for pid, events in _by_process(_decode(path), trace).items():
            _add(trace, pid, read_events(events, trace.stacks))
        if on_progress is not None:
            on_progress((number + 1) / len(paths))
    return trace


def _decode(path: Path) -> list[Any]:
    parts, size_bytes = [], 0
    for block in blocks(path):
        parts.append(block)
        size_bytes += len(block)
        if size_bytes > MAX_UNPACKED_BYTES:
            raise ImportInvalid(f"{path.name} is larger than 256 MiB", "record a shorter time")
    try:
        events = json.loads(b"".join(parts))
    except (ValueError, RecursionError) as error:
        raise ImportInvalid(f"{path.name} is not a complete py-spy trace", _REMEDY) from error
    if not isinstance(events, list):
        raise ImportInvalid(f"{path.name} is not a list of trace events", _REMEDY)
    return events


def _by_process(events: list[Any], trace: Trace) -> dict[int, list[Any]]:
    """Return the events of each process, each thread's under a frame that names it."""
    found: dict[int, list[Any]] = {}
    threads: dict[tuple[int, int], int] = {}
    for event in events:
        try:
            pid, key, name = event["pid"], event["tid"], event["name"]
        except (TypeError, KeyError):
            pid = key = name = None
        # type(), not isinstance(): JSON's true is no process.
        if not (type(pid) is int and type(key) is int and 0 <= pid <= _MAX_PID):
            trace.skip("events of no process or thread")
            continue
        name = str(name)
        if _PROCESS.match(name):
            continue
        of_process = found.setdefault(pid, [])
        if (pid, key) not in threads:
            threads[pid, key] = len(threads) + 1
            if len(threads) > MAX_TRACK_COUNT:
                raise ImportInvalid(f"more than {MAX_TRACK_COUNT:,} threads", _REMEDY)
            if not _THREAD.match(name):
                root = {"name": f"thread ({threads[pid, key]})", "args": {"filename": ""}}
                of_process.append({**event, **root, "ph": "B"})
        of_process.append(event)
    return found


def _add(trace: Trace, pid: int, segment: Segment) -> None:
    trace.skip("events that make no sense", segment.lost_count)
    process = trace.process(pid)
    for runs in segment.threads:
        track = trace.thread(process, runs.tid, name=runs.name)
        start_ns = np.array(runs.start_ns, np.int64)
        trace.add_samples(
            start_ns, np.array(runs.end_ns, np.int64) - start_ns,
            np.full(len(start_ns), track, np.int32), np.array(runs.stack, np.int32),
        )  # fmt: skip
