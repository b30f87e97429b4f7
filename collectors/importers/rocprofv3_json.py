"""Traces of rocprofv3 (AMD's rocprofiler-sdk) in JSON, plain or gzip.

The root has one key with a list, in which each process is an object: who it was, its GPUs, its
kernels' names, and lists of records. Times are CLOCK_BOOTTIME ns.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from collectors.errors import ImportInvalid
from collectors.importers.json_elements import Elements
from collectors.importers.json_stream import JsonStream
from collectors.importers.progress import part
from collectors.importers.rocprofv3_process import MAX_ID, RocprofProcess
from collectors.importers.rocprofv3_records import (
    CALL_LISTS,
    MARKER_LIST,
    Agent,
    Call,
    KernelDispatch,
    KernelSymbol,
    MemoryCopy,
    Metadata,
    Strings,
)  # fmt: skip
from collectors.importers.source import Progress, blocks
from collectors.importers.trace import Clock, Trace

FORMAT_NAME: Final = "rocprofv3 JSON"

ROOT_KEY: Final = "rocprofiler-sdk-tool"
BLOCK_BYTES: Final = 1 << 19
_PID_KEY: Final = "metadata.pid"
_LISTS: Final = frozenset({"agents", "kernel_symbols"})
_MARK: Final = f'"{ROOT_KEY}"'.encode()
_REMEDY: Final = "give a *_results.json that rocprofv3 --output-format json wrote"
_KERNELS: Final = Elements(KernelDispatch)
_COPIES: Final = Elements(MemoryCopy)
_CALLS: Final = Elements(Call)
_AGENTS: Final = Elements(Agent)
_SYMBOLS: Final = Elements(KernelSymbol)

T = TypeVar("T")


def is_mine(path: Path, head: bytes) -> bool:
    """Tell whether this file, of which ``head`` are the first bytes, is of this format."""
    return head.lstrip()[:1] == b"{" and _MARK in head


def read(
    paths: Sequence[Path], on_progress: Progress | None = None, *, device_only: bool = False
) -> Trace:
    """Read traces, each file a scope of its own.

    Args:
        paths: the files.
        on_progress: told how much of all files was read.
        device_only: leave out calls and marked ranges.

    Raises:
        ImportInvalid: a file cannot be read, is damaged, cut off, or no such trace.
    """
    trace = Trace(FORMAT_NAME, Clock.BOOTTIME)
    for index, path in enumerate(paths):
        trace.begin_scope()
        progress = part(on_progress, index, len(paths))
        document = JsonStream(path, blocks(path, on_progress=progress, block_bytes=BLOCK_BYTES))
        process_count = 0
        for key in document.members():
            if key != ROOT_KEY or document.peek() != b"[":
                document.skip()
                continue
            for _ in document.items():
                _read_process(path, document, trace, device_only=device_only)
                process_count += 1
        document.end()
        if not process_count:
            raise _no_process(path)
        for reason, count in document.repaired.items():
            trace.skip(reason, count)
    return trace


def _read_process(path: Path, document: JsonStream, trace: Trace, *, device_only: bool) -> None:
    process: RocprofProcess | None = None
    for key in document.members():
        kind = document.peek()
        if key == "metadata" and process is not None:
            raise ImportInvalid(f"{path} has {_PID_KEY} twice in one process", _REMEDY)
        if key == "metadata":
            process = RocprofProcess(trace, _read_pid(path, document.value(), trace))
        elif process is None or (key in _LISTS) != (kind == b"["):
            document.skip()
        elif key == "strings":
            process.take_strings(_decoded(document.value(), Strings) or Strings())
        elif key == "agents":
            for agents in document.chunks(_AGENTS):
                process.take_agents(agents)
        elif key == "kernel_symbols":
            for symbols in document.chunks(_SYMBOLS):
                process.take_symbols(symbols)
        elif key == "buffer_records" and kind == b"{":
            _read_records(document, process, device_only=device_only)
        else:
            document.skip()
    if process is None:
        raise _no_process(path)


def _read_pid(path: Path, text: bytes, trace: Trace) -> int:
    metadata = _decoded(text, Metadata)
    if metadata is None or not 0 <= metadata.pid < MAX_ID:
        raise _no_process(path)
    node = metadata.node
    trace.host |= {"kernel": node.release, "machine": node.hardware_name}
    return metadata.pid


def _no_process(path: Path) -> ImportInvalid:
    return ImportInvalid(f"{path} does not begin with the process it is of ({_PID_KEY})", _REMEDY)


def _read_records(document: JsonStream, process: RocprofProcess, *, device_only: bool) -> None:
    for key in document.members():
        if document.peek() != b"[":
            document.skip()
        elif key == "kernel_dispatch":
            for kernels in document.chunks(_KERNELS):
                process.take_kernels(kernels)
        elif key == "memory_copy":
            for copies in document.chunks(_COPIES):
                process.take_copies(copies)
        elif key in CALL_LISTS and not device_only:
            for calls in document.chunks(_CALLS):
                process.take_calls(calls)
        elif key == MARKER_LIST and not device_only:
            for calls in document.chunks(_CALLS):
                process.take_markers(calls)
        else:
            document.skip()


def _decoded(text: bytes, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
