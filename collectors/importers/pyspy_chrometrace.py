"""Read one ``py-spy record -f chrometrace --idle -t`` file into per-thread runs of equal stacks.

py-spy writes, at each tick, only what changed in a thread's stack since the tick before: an ``E``
for each frame that was left and a ``B`` for each one that was entered. With ``-t`` each thread's
outermost frame is named ``thread (TID): NAME`` with the kernel's thread id; with ``--idle`` a
sleeping thread keeps its stack, and a thread that has ended keeps its last one until the file ends.
"""

from __future__ import annotations

import errno
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from collectors.errors import ImportInvalid
from collectors.stacks import ROOT, StackTable

MAX_FILE_BYTES: Final = 1 << 30
MAX_DEPTH: Final = 2_000  # CPython's default recursion limit is 1,000
MAX_NAME_CHARS: Final = 1_000
NS_PER_US: Final = 1_000
MAX_TIME_US: Final = 30 * 86_400 * 1_000_000  # no recorder of ours lives a month

# A thread id is below 2**22 (PID_MAX_LIMIT in linux/threads.h).
_THREAD = re.compile(r"thread \((\d{1,7})\)(?:: (.*))?", re.DOTALL | re.ASCII)


@dataclass(slots=True)
class ThreadRuns:
    """One thread's stack over time: parallel lists, times in ns on the recorder's own clock."""

    tid: int
    name: str
    start_ns: list[int] = field(default_factory=list)
    end_ns: list[int] = field(default_factory=list)
    stack: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Open:
    """A thread while it is read: the stack id at each depth, and since when that path stands."""

    runs: ThreadRuns | None = None
    path: list[int] = field(default_factory=list)
    since_us: int = 0

    def close_run(self, now_us: int) -> None:
        """Note the path that stood until now; a thread outside any Python frame has no run.

        Runs of one thread never overlap: a kernel thread id that was used again (its first owner
        keeps its last stack to the end of the file) goes on after what is noted of it.
        """
        if self.runs is not None and self.path:
            noted_ns = self.runs.end_ns[-1] if self.runs.end_ns else 0
            start_ns = max(self.since_us * NS_PER_US, noted_ns)
            if start_ns < now_us * NS_PER_US:
                self.runs.start_ns.append(start_ns)
                self.runs.end_ns.append(now_us * NS_PER_US)
                self.runs.stack.append(self.path[-1])
        self.since_us = now_us


@dataclass(frozen=True, slots=True)
class Segment:
    """What one file held."""

    threads: list[ThreadRuns]
    first_ns: int  # the first tick, in ns on the recorder's own clock
    end_ns: int  # the last one
    lost_count: int  # events that made no sense


def read_segment(path: Path, stacks: StackTable) -> Segment:
    """Read ``path``; stacks are interned into ``stacks``.

    Raises:
        ImportInvalid: the file is not what py-spy writes (cut off, or something else).
    """
    remedy = "record again; a cut-off file means that py-spy was killed or the disk was full"
    try:
        size_bytes = path.stat().st_size
        if size_bytes > MAX_FILE_BYTES:
            raise ImportInvalid(f"{path.name} is larger than 1 GiB", remedy)
        events = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ImportInvalid(f"{path.name} is not a complete py-spy trace", remedy) from error
    except OSError as error:
        reason = errno.errorcode.get(error.errno or 0, "unknown")
        raise ImportInvalid(f"{path.name} cannot be read ({reason})", remedy) from error
    if not isinstance(events, list):
        raise ImportInvalid(f"{path.name} is not a list of trace events", remedy)
    return read_events(events, stacks)


def read_events(events: list[Any], stacks: StackTable) -> Segment:
    """Read decoded events, whatever they hold; stacks are interned into ``stacks``."""
    open_threads: dict[object, _Open] = {}
    runs_by_tid: dict[int, ThreadRuns] = {}
    frame_ids: dict[tuple[str, str], int] = {}
    lost_count = 0
    last_us = 0
    for event in events:
        try:
            phase, now_us, thread_key = event["ph"], event["ts"], event["tid"]
            name, file = event["name"], event["args"]["filename"]
            thread = open_threads.setdefault(thread_key, _Open())
        except (TypeError, KeyError):
            lost_count += 1
            continue
        if not (
            isinstance(now_us, int)
            and isinstance(name, str)
            and isinstance(file, str)
            and thread.since_us <= now_us <= MAX_TIME_US
        ):
            lost_count += 1
            continue
        last_us = max(last_us, now_us)
        if now_us > thread.since_us:
            thread.close_run(now_us)
        if phase == "B" and thread.runs is None:
            match = _THREAD.match(name)
            if match is None:
                lost_count += 1
                continue
            tid = int(match[1])
            label = _text(match[2] or "")
            thread.runs = runs_by_tid.setdefault(tid, ThreadRuns(tid, label))
        elif phase == "B" and len(thread.path) < MAX_DEPTH:
            frame = frame_ids.get((name, file))
            if frame is None:
                frame = stacks.frame(_text(name), _text(file))
                frame_ids[name, file] = frame
            thread.path.append(stacks.child(thread.path[-1] if thread.path else ROOT, frame))
        elif phase == "E" and thread.path:
            thread.path.pop()
        elif phase == "E" and thread.runs is not None:
            thread.runs = None
        else:
            lost_count += 1
    threads = list(runs_by_tid.values())
    first_ns = min((runs.start_ns[0] for runs in threads if runs.start_ns), default=0)
    return Segment(threads, first_ns, last_us * NS_PER_US, lost_count)


def _text(name: str) -> str:
    """Bound a name's length, and replace what JSON can say but UTF-8 cannot (lone surrogates)."""
    return name[:MAX_NAME_CHARS].encode("utf-8", "replace").decode()
