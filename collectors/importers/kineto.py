"""Traces of the torch profiler (Kineto): JSON in the trace event format, plain or gzip.

Times are microseconds since ``baseTimeNanoseconds``, in files from before 2024 since 1970.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from collectors.errors import ImportInvalid
from collectors.importers.json_elements import Elements
from collectors.importers.json_stream import JsonStream
from collectors.importers.kineto_events import Event
from collectors.importers.kineto_file import KinetoFile
from collectors.importers.kineto_tracks import PIDS, number
from collectors.importers.progress import part
from collectors.importers.source import Progress, blocks
from collectors.importers.trace import MAX_TIME_NS, Clock, Trace

FORMAT_NAME: Final = "kineto"

EVENTS_KEY: Final = "traceEvents"
_BASE_KEY: Final = "baseTimeNanoseconds"
_DEVICES_KEY: Final = "deviceProperties"
_DISTRIBUTED_KEY: Final = "distributedInfo"
_KEYS: Final = frozenset({EVENTS_KEY, _BASE_KEY, _DEVICES_KEY, _DISTRIBUTED_KEY})
# Small enough for a processor's cache, large enough that a call per block costs nothing.
BLOCK_BYTES: Final = 1 << 19
_MARKS: Final = re.compile(
    rb'"(?:traceEvents|baseTimeNanoseconds|deviceProperties|distributedInfo|schemaVersion)"\s*:'
)
_EVENT_LIST: Final = re.compile(rb'\s*\[\s*\{[^{}]*"ph"\s*:')
_PY_SPY: Final = re.compile(rb'"cat"\s*:\s*"py-spy"')
_EVENTS: Final = Elements(Event)
_REMEDY: Final = "give a trace that torch.profiler exported (export_chrome_trace)"
T = TypeVar("T")


class _Device(msgspec.Struct):
    id: int
    name: str = ""


class _Distributed(msgspec.Struct):
    rank: int | None = None


def is_mine(path: Path, head: bytes) -> bool:
    """Tell whether this file, of which ``head`` are the first bytes, is of this format."""
    first = head.lstrip()[:1]
    if first == b"{":
        return _MARKS.search(head) is not None
    return first == b"[" and _EVENT_LIST.match(head) is not None and not _PY_SPY.search(head)


def read(
    paths: Sequence[Path], on_progress: Progress | None = None, *, device_only: bool = False
) -> Trace:
    """Read traces, each a scope of its own (ranks of one run, say).

    Args:
        paths: the files.
        on_progress: told how much of all files was read.
        device_only: leave out what ran on the host.

    Raises:
        ImportInvalid: a file cannot be read, is damaged, cut off, or no such trace.
    """
    trace = Trace(FORMAT_NAME, Clock.REALTIME)
    for index, path in enumerate(paths):
        trace.begin_scope()
        _read_file(path, trace, part(on_progress, index, len(paths)), device_only=device_only)
    return trace


def _read_file(path: Path, trace: Trace, on_progress: Progress, *, device_only: bool) -> None:
    file = KinetoFile(trace, device_only=device_only)
    document = JsonStream(path, blocks(path, on_progress=on_progress, block_bytes=BLOCK_BYTES))
    if document.peek() == b"[":
        for events in document.chunks(_EVENTS):
            file.take(events)
    else:
        _read_members(path, document, file)
    document.end()
    for reason, count in document.repaired.items():
        trace.skip(reason, count)
    file.finish()


def _read_members(path: Path, document: JsonStream, file: KinetoFile) -> None:
    seen: set[str] = set()
    for key in document.members():
        if key in _KEYS and key in seen:
            raise ImportInvalid(f"{path} has {key} twice", _REMEDY)
        seen.add(key)
        if key == EVENTS_KEY:
            if document.peek() != b"[":
                raise ImportInvalid(f"{path}: {EVENTS_KEY} is no list", _REMEDY)
            for events in document.chunks(_EVENTS):
                file.take(events)
        elif key == _BASE_KEY:
            base_ns = _decoded(document.value(), int)
            file.base_ns = base_ns if base_ns is not None and 0 <= base_ns < MAX_TIME_NS else None
        elif key == _DEVICES_KEY:
            devices = _decoded(document.value(), list[_Device]) or []
            file.device_names = {device.id: device.name for device in devices}
        elif key == _DISTRIBUTED_KEY:
            distributed = _decoded(document.value(), _Distributed)
            file.rank = None if distributed is None else number(distributed.rank, PIDS)
        else:
            document.skip()
    if EVENTS_KEY not in seen:
        raise ImportInvalid(f"{path} has no {EVENTS_KEY}", _REMEDY)


def _decoded(text: bytes, kind: type[T]) -> T | None:
    """Return a value of the head, `None` where it is not what it should be: events come first."""
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
