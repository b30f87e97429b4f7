"""Read the CSV files that rocprofv3 writes: kernels, copies, calls, ranges and agents.

The files of one process share the start of their names (``X_kernel_trace.csv``,
``X_agent_info.csv``); what a file holds is told by its header. Times are CLOCK_BOOTTIME.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from collectors.errors import ImportInvalid
from collectors.importers.csv_source import header_of, read_csv
from collectors.importers.progress import part
from collectors.importers.rocprofv3_agents import (
    AGENT_COLUMNS,
    UNKNOWN_AGENTS,
    Agents,
    read_agents,
)
from collectors.importers.rocprofv3_rows import CALLS, ProcessFiles, kind_of
from collectors.importers.source import Progress, head
from collectors.importers.trace import Clock, Trace

FORMAT_NAME: Final = "rocprofv3-csv"

_MAX_PID: Final = (1 << 31) - 1
# Files of rocprofv3 that hold no timeline, by a column of theirs.
_NO_TIMELINE: Final = {
    "Counter_Name": "files of counters",
    "Allocation_Size": "files of memory allocations",
    "Alloc_Flags": "files of scratch memory",
    "TotalDurationNs": "files of statistics",
    "Exec_Mask": "files of PC samples",
}
_NAME = re.compile(
    r"(.*?)_?(?:(?:kernel|memory_copy|memory_allocation|scratch_memory|regions?"
    r"|(?:hip|hsa|marker|rccl|rocdecode|rocjpeg)(?:_[a-z]+)*?)_trace"
    r"|agent_info|counter_collection|[a-z_]+_stats|pc_sampling_[a-z_]+)\.csv(?:\.gz)?"
)
_PID_AT_END = re.compile(
    r"(?:.*[_.-])?(\d{1,10})", re.ASCII
)  # %pid%, the default name of the files


@dataclass(slots=True)
class _Set:
    """The files of one process: with a timeline, and with its agents."""

    slices: dict[Path, list[str]] = field(default_factory=dict)  # and their headers
    agents: Path | None = None


def is_mine(path: Path, head: bytes) -> bool:
    """Tell a file of rocprofv3 by its header."""
    header = header_of(head)
    return (
        kind_of(header) is not None
        or set(header).issuperset(AGENT_COLUMNS)
        or not _NO_TIMELINE.keys().isdisjoint(header)
    )


def read(
    paths: Sequence[Path], on_progress: Progress | None = None, *, device_only: bool = False
) -> Trace:
    """Read files of one process or of several.

    Raises:
        ImportInvalid: a file cannot be read, has not its kind's columns, or all are without a
            timeline.
    """
    trace = Trace(FORMAT_NAME, Clock.BOOTTIME)
    sets = _sort(paths, trace)
    file_count = sum(len(one.slices) for one in sets.values())
    if file_count == 0:
        raise ImportInvalid(
            "none of these CSV files holds kernels, copies or calls",
            "give the kernel trace: rocprofv3 --kernel-trace --output-format csv -- COMMAND",
        )
    known = [one.agents for one in sets.values() if one.agents is not None]
    shared = known[0] if len(known) == 1 else None
    done = 0
    for (directory, prefix), files in sets.items():
        if not files.slices:
            continue
        trace.begin_scope()
        agents = files.agents or _beside(directory, prefix) or shared
        process = ProcessFiles(trace, _agents(agents, trace), _pid(prefix, files))
        for path, header in files.slices.items():
            kind = kind_of(header)
            if kind is not None and not (device_only and kind == CALLS):
                process.add(kind, path, header, part(on_progress, done, file_count))
            done += 1
    return trace


def _sort(paths: Sequence[Path], trace: Trace) -> dict[tuple[Path, str], _Set]:
    """Return the files by process, without those that hold no timeline, which are counted."""
    sets: dict[tuple[Path, str], _Set] = {}
    for path in dict.fromkeys(paths):
        match = _NAME.fullmatch(path.name)
        files = sets.setdefault((path.parent, match[1] if match else path.name), _Set())
        header = header_of(head(path))
        if kind_of(header) is not None:
            files.slices[path] = header
        elif set(header).issuperset(AGENT_COLUMNS):
            files.agents = path
        else:
            what = [said for column, said in _NO_TIMELINE.items() if column in header]
            trace.skip(what[0] if what else "files that rocprofv3 did not write")
    for files in sets.values():
        _refuse_twins(files)
    return sets


def _refuse_twins(files: _Set) -> None:
    """Refuse a file beside its own packed copy: all would be counted twice."""
    names: dict[str, Path] = {}
    for path in files.slices:
        twin = names.setdefault(path.name.removesuffix(".gz"), path)
        if twin != path:
            raise ImportInvalid(f"{twin.name} and {path.name} are the same", "give one of them")


def _beside(directory: Path, prefix: str) -> Path | None:
    """Return the table of agents that rocprofv3 wrote beside a process's other files."""
    stem = f"{prefix}_agent_info.csv" if prefix else "agent_info.csv"
    return next(
        (path for end in ("", ".gz") if (path := directory / f"{stem}{end}").is_file()), None
    )


def _agents(path: Path | None, trace: Trace) -> Agents:
    return UNKNOWN_AGENTS if path is None else read_agents(path, trace.skip)


def _pid(prefix: str, files: _Set) -> int:
    """Return the process's id, from its calls or from the files' names; 0 where neither has it."""
    for path, header in files.slices.items():
        if kind_of(header) == CALLS:
            for batch in read_csv(path, ("Process_Id",), (), skip=lambda reason, count: None):
                for pid in batch.integers["Process_Id"][:1].tolist():
                    if 0 < pid <= _MAX_PID:
                        return int(pid)
                break
    match = _PID_AT_END.fullmatch(prefix)
    return int(match[1]) if match and int(match[1]) <= _MAX_PID else 0
