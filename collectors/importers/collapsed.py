"""Read collapsed (folded) stacks: ``py-spy record -f raw``, stackcollapse, perf, async-profiler.

A line is a stack, its frames from the outermost in with semicolons between them, and how many
samples had it. Nothing says when: the lines stand one after another, on their thread, in the
file's order, and a sample counts as 10 ms, which is the usual 100 Hz.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from collectors.errors import ImportInvalid
from collectors.importers.groups import MAX_TRACK_COUNT
from collectors.importers.progress import part
from collectors.importers.source import Progress, blocks
from collectors.importers.trace import Clock, Trace
from collectors.stacks import ROOT, StackTable

FORMAT_NAME: Final = "collapsed"
SAMPLE_NS: Final = 10_000_000
MAX_LINE_BYTES: Final = 1 << 20
MAX_DEPTH: Final = 2_000  # CPython's default recursion limit is 1,000
MAX_STACK_COUNT: Final = 2_000_000
NO_TIMES: Final = (
    "collapsed stacks say how often, not when: the order is the file's, a sample counts as 10 ms"
)

_MAX_NAME_CHARS: Final = 1_000
_MAX_COUNT: Final = 100 * 86_400 * 30  # samples of one stack: a month of 100 Hz
_LINE = re.compile(rb"(\S.*) (\d{1,12})\s*", re.ASCII)
# How py-spy names the frames of a process (-s, followed by its command line) and a thread (-t).
_PROCESS = re.compile(r"process (\d{1,10}):.*", re.ASCII | re.DOTALL)
_THREAD = re.compile(r"thread \((0x[0-9A-Fa-f]{1,16}|\d{1,10})\)(?:: (.*))?", re.ASCII | re.DOTALL)
_PLACE = re.compile(r"(.+) \(([^()]+?)(?::\d+)?\)", re.DOTALL)  # function (file:line)
_MAX_ID: Final = (1 << 31) - 1
_NAMELESS: Final = 0  # a process or thread whose id the file does not tell
_HEAD_LINES: Final = 20


def is_mine(path: Path, head: bytes) -> bool:
    """Tell collapsed stacks by their first lines: all are stacks, one has several frames."""
    lines = head.split(b"\n")
    if len(head) > MAX_LINE_BYTES // 32 and len(lines) > 1:
        lines.pop()  # it may be cut
    lines = [line for line in lines if line.strip()][:_HEAD_LINES]
    is_text = all(_LINE.fullmatch(line) and b"\0" not in line for line in lines)
    return bool(lines) and is_text and any(b";" in line for line in lines)


def read(
    paths: Sequence[Path], on_progress: Progress | None = None, *, device_only: bool = False
) -> Trace:
    """Read files of collapsed stacks.

    Raises:
        ImportInvalid: a file cannot be read, or holds more, or deeper, than any profile.
    """
    trace = Trace(FORMAT_NAME, Clock.OWN)
    trace.host["caveat"] = NO_TIMES
    for number, path in enumerate(paths):
        trace.begin_scope()
        _Stacks(trace).read(path, part(on_progress, number, len(paths)))
    return trace


class _Stacks:
    """One file's stacks, each laid after the one before it on its thread."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._frames: dict[str, int] = {}
        self._next_ns: dict[int, int] = {}  # by thread track
        self._time_ns: list[int] = []
        self._duration_ns: list[int] = []
        self._track: list[int] = []
        self._stack: list[int] = []

    def read(self, path: Path, on_progress: Progress) -> None:
        for line in _lines(path, on_progress):
            match = _LINE.fullmatch(line)
            if match is None:
                if line.strip():
                    self._trace.skip("lines that are no stack and count")
                continue
            frames = match[1].decode("utf-8", "replace").split(";")
            count = int(match[2])
            if len(frames) > MAX_DEPTH or count > _MAX_COUNT:
                self._trace.skip("stacks deeper, or met more often, than any")
                continue
            self._add(frames, count)
            if self._trace.stacks.stack_count > MAX_STACK_COUNT:
                raise ImportInvalid(
                    f"{path.name} has more than {MAX_STACK_COUNT:,} different stacks",
                    "record a shorter time",
                )
        self._trace.add_samples(
            np.array(self._time_ns, np.int64), np.array(self._duration_ns, np.int64),
            np.array(self._track, np.int32), np.array(self._stack, np.int32),
        )  # fmt: skip

    def _add(self, frames: list[str], count: int) -> None:
        track, depth = self._thread(frames)
        stacks: StackTable = self._trace.stacks
        stack = ROOT
        for frame in frames[depth:]:
            stack = stacks.child(stack, self._frame(frame))
        begin_ns = self._next_ns.get(track, 0)
        if stack == ROOT or count == 0:
            return
        if len(self._next_ns) > MAX_TRACK_COUNT:
            raise ImportInvalid(
                f"more than {MAX_TRACK_COUNT:,} threads", "the file is damaged: record again"
            )
        self._time_ns.append(begin_ns)
        self._duration_ns.append(count * SAMPLE_NS)
        self._track.append(track)
        self._stack.append(stack)
        self._next_ns[track] = begin_ns + count * SAMPLE_NS

    def _thread(self, frames: list[str]) -> tuple[int, int]:
        """Return the track of a stack's thread, and how many of its frames say which that is."""
        depth, pid, tid, name = 0, _NAMELESS, _NAMELESS, ""
        while depth < len(frames) and (match := _PROCESS.fullmatch(frames[depth])):
            pid = int(match[1])  # of the innermost
            depth = _after_command(frames, depth)
        if depth < len(frames) and (match := _THREAD.fullmatch(frames[depth])):
            tid, name, depth = (
                int(match[1], 16 if match[1].startswith("0x") else 10),
                match[2] or "",
                depth + 1,
            )
        process = self._trace.process(pid if pid <= _MAX_ID else _NAMELESS)
        return self._trace.thread(process, min(tid, (1 << 63) - 1), name=name), depth

    def _frame(self, text: str) -> int:
        frame = self._frames.get(text)
        if frame is None:
            match = _PLACE.fullmatch(text)
            function, file = (match[1], match[2]) if match else (text, "")
            frame = self._trace.stacks.frame(function[:_MAX_NAME_CHARS], file[:_MAX_NAME_CHARS])
            self._frames[text] = frame
        return frame


def _after_command(frames: list[str], depth: int) -> int:
    """Return where a process's frame ends: its command line, in quotes, may hold semicolons."""
    end = depth
    while end < len(frames) - 1 and not frames[end].endswith('"'):
        end += 1
    return end + 1 if frames[end].endswith('"') else depth + 1


def _lines(path: Path, on_progress: Progress) -> Iterator[bytes]:
    carry = b""
    for block in blocks(path, on_progress=on_progress):
        lines = (carry + block).split(b"\n")
        carry = lines.pop()
        yield from lines
        if len(carry) > MAX_LINE_BYTES:
            raise ImportInvalid(f"{path.name} has a line without end", "record it again")
    yield carry
