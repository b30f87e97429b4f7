"""Turn what importers read into a capture, in memory or on disk."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from collectors.capture import Capture, write_capture
from collectors.errors import ImportInvalid, OutputExists, output_error
from collectors.importers.trace import Trace
from collectors.manifest import IMPORTED, Manifest, ProbeRecord, ProcessRecord, TargetRecord
from collectors.schema import TABLES
from collectors.slices import NONE, Slices


def to_capture(trace: Trace, sources: list[Path], version: str) -> Capture:
    """Return the capture that a trace is, in memory.

    Raises:
        ImportInvalid: nothing in the files lasted any time.
    """
    tables = {name: schema.empty_table() for name, schema in TABLES.items()}
    tables["tracks"] = pa.Table.from_pylist(trace.track_rows, schema=TABLES["tracks"])
    tables["slices"] = slice_table(trace.slices())
    tables["names"] = name_table(trace.name_rows)
    tables["frames"] = pa.table(trace.stacks.frame_columns(), schema=TABLES["frames"])
    tables["stacks"] = pa.table(trace.stacks.stack_columns(), schema=TABLES["stacks"])
    tables["samples"] = pa.table(trace.sample_columns(), schema=TABLES["samples"])
    spans = [
        (table["time_ns"].to_numpy(), table["duration_ns"].to_numpy())
        for table in (tables["slices"], tables["samples"])
        if len(table)
    ]
    if not spans:
        raise ImportInvalid(
            f"no event with a time in {', '.join(one.name for one in sources)}",
            "trace while the server is at work, and check what was traced",
        )
    start_ns = min(int(start.min()) for start, _ in spans)
    end_ns = max(int((start + duration).max()) for start, duration in spans)
    manifest = _manifest(trace, sources, version, start_ns, end_ns)
    tables["gaps"] = _gaps(trace, start_ns)
    return Capture(sources[0], manifest, tables, is_recovered=False)


def write_import(capture: Capture, directory: Path) -> Capture:
    """Write an imported capture to a directory that is not there yet, or empty.

    Raises:
        OutputExists, OutputNotWritable, OutputFull: it cannot be written there.
    """
    try:
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise OutputExists(
                f"{directory} already exists",
                "choose another directory with -o, or remove this one first",
            )
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(error, str(directory)) from error
    return write_capture(directory, capture.manifest, capture.tables)


def slice_table(slices: Slices) -> pa.Table:
    """Return slices as the ``slices`` table."""
    columns = [
        _column(getattr(slices, field.name), TABLES["slices"].field(field.name))
        for field in fields(slices)
    ]
    return pa.table(columns, schema=TABLES["slices"])


def name_table(rows: list[tuple[str, str]]) -> pa.Table:
    """Return (kind, text) of each name, by id, as the ``names`` table."""
    columns: dict[str, Any] = {
        "name": np.arange(len(rows), dtype=np.int32),
        "kind": [kind for kind, _ in rows],
        "text": [text for _, text in rows],
    }
    return pa.table(columns, schema=TABLES["names"])


def _column(values: NDArray[Any], field: pa.Field) -> pa.Array:
    if not field.nullable:
        return pa.array(values, field.type)
    is_unknown = values == NONE
    if is_unknown.all():
        return pa.nulls(len(values), field.type)
    return pa.array(values, field.type, mask=is_unknown)


def _manifest(
    trace: Trace, sources: list[Path], version: str, start_ns: int, end_ns: int
) -> Manifest:
    processes = [row for row in trace.track_rows if row["kind"] == "process"]
    skipped = "; ".join(f"{count:,} {reason}" for reason, count in sorted(trace.skipped.items()))
    probe = ProbeRecord(
        f"import:{trace.source}",
        "degraded" if skipped else "works",
        f"left out: {skipped}" if skipped else None,
        detail={"skipped": dict(trace.skipped)},
    )
    return Manifest(
        target=TargetRecord(
            root_pid=processes[0]["pid"] if processes else 0,
            kind=IMPORTED,
            processes=[
                ProcessRecord(row["pid"], 0, row["role"], row["name"], row["rank"])
                for row in processes
            ],
        ),
        started_ns=start_ns,
        stopped_ns=end_ns,
        stop_reason="imported",
        cputax_version=version,
        clock=trace.clock.value,
        sources=[one.name for one in sources],
        state="complete",
        host=trace.host,
        probes=[probe],
    )


def _gaps(trace: Trace, start_ns: int) -> pa.Table:
    """Return what was left out; when that was is not known, so these gaps have no length."""
    rows = [
        {
            "probe": f"import:{trace.source}",
            "start_ns": start_ns,
            "end_ns": start_ns,
            "lost_count": count,
            "reason": f"left out: {reason}",
            "track": None,
        }
        for reason, count in sorted(trace.skipped.items())
    ]
    return pa.Table.from_pylist(rows, schema=TABLES["gaps"])
