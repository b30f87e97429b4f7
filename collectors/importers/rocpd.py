"""Read rocpd, the SQLite database of AMD's rocprofiler-sdk (schema versions 3 to 3.0.x).

A process's tables end in its own ``_<uuid>``; a merged file has several sets of them. The tables
are read themselves, not the file's views: its ``kernels`` loses dispatches without a queue row.
Times are CLOCK_BOOTTIME. A process's environment and command line stay unread: they hold secrets.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from collectors.errors import ImportInvalid
from collectors.importers.progress import part
from collectors.importers.source import Progress
from collectors.importers.sqlite_magic import SQLITE_MAGIC
from collectors.importers.trace import Clock, Trace

FORMAT_NAME: Final = "rocpd"

_SUFFIX = re.compile(r"rocpd_(?:kernel_dispatch|memory_copy|region)((?:_[0-9a-f]+)*)", re.I)


def is_mine(path: Path, head: bytes) -> bool:
    """Tell a rocpd database by its tables."""
    if not head.startswith(SQLITE_MAGIC):
        return False
    # Here, not above: every file is first shown to `is_mine`, and importing this takes a while.
    from collectors.importers.sqlite_source import has_table

    return has_table(path, head, "rocpd_")


def read(
    paths: Sequence[Path], on_progress: Progress | None = None, *, device_only: bool = False
) -> Trace:
    """Read databases, each of one process or of several.

    Raises:
        ImportInvalid: a file is damaged, or of a schema that is not known.
    """
    from collectors.importers.rocpd_process import ProcessTables
    from collectors.importers.sqlite_source import Database

    trace = Trace(FORMAT_NAME, Clock.BOOTTIME)
    seen: set[str] = set()
    for number, path in enumerate(paths):
        trace.begin_scope()
        with Database(path) as database:
            found = filter(None, map(_SUFFIX.fullmatch, sorted(database.tables)))
            suffixes = list(dict.fromkeys(match[1] for match in found))
            if not suffixes:
                raise ImportInvalid(
                    f"{path.name} has none of rocpd's tables of kernels, copies and regions",
                    "record again: rocprofv3 --kernel-trace --output-format rocpd -- COMMAND",
                )
            for place, suffix in enumerate(suffixes):
                report = part(part(on_progress, number, len(paths)), place, len(suffixes))
                if suffix and suffix in seen:
                    trace.skip("processes that another file holds, too")
                    continue
                seen.add(suffix)
                ProcessTables(trace, database, suffix).read(report, device_only=device_only)
    return trace
