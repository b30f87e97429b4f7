"""Read the SQLite export of NVIDIA's Nsight Systems (``nsys export --type sqlite``).

Kernels, copies, memsets, calls of the CUDA runtime and driver, and NVTX ranges. Times count from
the session's start; where the export says when that was, they become wall time. Unless a session
was traced with ``--cuda-graph-trace=node``, what ran in a CUDA graph is one row per replay: it
stands here as one kernel, as long as the replay.

Schema: https://docs.nvidia.com/nsight-systems/UserGuide, "SQLite Schema Reference".
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from collectors.errors import ImportInvalid
from collectors.importers.progress import part
from collectors.importers.source import Progress
from collectors.importers.sqlite_magic import SQLITE_MAGIC
from collectors.importers.trace import Clock, Trace

FORMAT_NAME: Final = "nsys"


def is_mine(path: Path, head: bytes) -> bool:
    """Tell an export by the tables that each one has, or by CUDA's."""
    if not head.startswith(SQLITE_MAGIC):
        return False
    # Here, not above: every file is first shown to `is_mine`, and importing this takes a while.
    from collectors.importers.sqlite_source import has_table

    return has_table(path, head, "TARGET_INFO_SESSION") or has_table(path, head, "CUPTI_ACTIVITY")


def read(
    paths: Sequence[Path], on_progress: Progress | None = None, *, device_only: bool = False
) -> Trace:
    """Read exports, each of one session.

    Raises:
        ImportInvalid: a file is damaged, or holds nothing of CUDA or NVTX.
    """
    from collectors.importers.nsys_tables import KINDS, SessionTables, session_start_ns
    from collectors.importers.sqlite_source import Database

    starts_ns = []
    for path in paths:
        with Database(path) as database:
            starts_ns.append(session_start_ns(database))
    is_wall_time = None not in starts_ns
    trace = Trace(FORMAT_NAME, Clock.REALTIME if is_wall_time else Clock.OWN)
    for number, (path, start_ns) in enumerate(zip(paths, starts_ns, strict=True)):
        trace.begin_scope()
        with Database(path) as database:
            if not any(name in database.tables for name in KINDS):
                raise ImportInvalid(
                    f"{path.name} holds nothing that CUDA or NVTX did",
                    "profile again: nsys profile --trace=cuda,nvtx --cuda-graph-trace=node COMMAND",
                )
            offset_ns = (start_ns or 0) if is_wall_time else 0
            session = SessionTables(trace, database, offset_ns)
            session.read(part(on_progress, number, len(paths)), device_only=device_only)
    return trace
