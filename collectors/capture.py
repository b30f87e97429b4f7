"""Open a capture: one that was finished, one that was cut off, one still being recorded.

A finished capture holds ``tables/TABLE.arrow`` (Arrow IPC files, zstd). One whose recorder was
killed holds ``stream/TABLE.arrows`` and py-spy segments below ``raw/pyspy``; opening it reads every
whole batch and imports the segments in memory, so reading never needs to write.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from collectors.errors import CaptureInvalid, output_error
from collectors.manifest import Manifest, read_manifest
from collectors.schema import TABLES
from collectors.segments import import_segments
from collectors.stream import read_stream

_SORT_KEYS: Final = {"time_ns", "start_ns"}


@dataclass(frozen=True, slots=True)
class Capture:
    """A timeline read from disk. ``is_recovered`` means that its recorder never stopped it."""

    path: Path
    manifest: Manifest
    tables: dict[str, pa.Table]
    is_recovered: bool

    def table(self, name: str) -> pa.Table:
        """Return a table by its name in `collectors.schema.TABLES`; empty if nothing was seen."""
        return self.tables[name]

    @property
    def start_ns(self) -> int:
        """When recording began."""
        return self.manifest.started_ns

    @property
    def end_ns(self) -> int:
        """When recording ended; for a recovered capture, the last instant with a row."""
        if self.manifest.stopped_ns is not None:
            return self.manifest.stopped_ns
        return _last_row_ns(self.tables, self.start_ns)

    @property
    def is_partial(self) -> bool:
        """Whether something ended early: the recorder, a probe, the disk."""
        return self.is_recovered or self.manifest.state != "complete"


def open_capture(path: str | Path) -> Capture:
    """Open the capture directory at ``path`` without changing it.

    Raises:
        CaptureInvalid: it is no capture, a newer cputax wrote it, or a finished table is damaged.
    """
    directory = Path(path)
    manifest = read_manifest(directory)
    final = directory / "tables"
    if final.is_dir():
        tables = {name: _read_final(final / f"{name}.arrow", name) for name in TABLES}
        return Capture(directory, manifest, tables, is_recovered=False)
    return Capture(directory, manifest, _recover(directory, manifest), is_recovered=True)


def finalise(directory: Path, manifest: Manifest) -> Capture:
    """Turn a recording into a finished capture: all tables at once, or none.

    Raises:
        OutputFull, OutputNotWritable: no room; the recording stays as it was and still opens.
    """
    capture = write_capture(directory, manifest, _recover(directory, manifest))
    for leftover in ("stream", "raw"):
        shutil.rmtree(directory / leftover, ignore_errors=True)
    return capture


def write_capture(directory: Path, manifest: Manifest, tables: dict[str, pa.Table]) -> Capture:
    """Write a finished capture into an existing directory: all tables at once, or none.

    Raises:
        OutputFull, OutputNotWritable: no room; what was in the directory stays as it was.
    """
    draft = directory / "tables.tmp"
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        for name, table in tables.items():
            key = next((key for key in table.column_names if key in _SORT_KEYS), None)
            ordered = _in_order(table, key) if key else table
            with pa.ipc.new_file(draft / f"{name}.arrow", ordered.schema, options=options) as sink:
                sink.write_table(ordered)
            tables[name] = ordered
        os.replace(draft, directory / "tables")
        manifest.write(directory)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise output_error(error, str(directory)) from error
    return Capture(directory, manifest, tables, is_recovered=False)


def _in_order(table: pa.Table, key: str) -> pa.Table:
    """Sort by a column; what is in order already, as most imported timelines are, stays."""
    values = table[key].to_numpy()
    return table if bool((values[1:] >= values[:-1]).all()) else table.sort_by(key)


def _conformed(table: pa.Table, name: str) -> pa.Table:
    """Give a table of an earlier schema version today's columns; what it lacks is unknown."""
    schema = TABLES[name]
    if table.schema.equals(schema):
        return table
    known = set(table.column_names)
    columns = [
        table[one.name].cast(one.type) if one.name in known else pa.nulls(len(table), one.type)
        for one in schema
    ]
    return pa.table(columns, schema=schema)


def _read_final(path: Path, name: str) -> pa.Table:
    if not path.exists():
        return TABLES[name].empty_table()
    try:
        with pa.ipc.open_file(pa.memory_map(str(path))) as reader:
            return _conformed(reader.read_all(), name)
    except (pa.ArrowInvalid, OSError) as error:
        remedy = "copy the capture again from where it was recorded"
        raise CaptureInvalid(f"{path} is damaged", remedy) from error


def _recover(directory: Path, manifest: Manifest) -> dict[str, pa.Table]:
    tables: dict[str, pa.Table] = {}
    torn: list[str] = []
    for name, schema in TABLES.items():
        path = directory / "stream" / f"{name}.arrows"
        table, is_torn = read_stream(path, schema)
        tables[name] = _conformed(table, name)
        if is_torn:
            torn.append(name)
    tables["tracks"] = _last_of_each_track(tables["tracks"])
    tables |= import_segments(directory / "raw" / "pyspy", tables, manifest)
    if manifest.stopped_ns is None or torn:
        last_ns = _last_row_ns(tables, manifest.started_ns)
        reason = "the recorder ended without stopping; at most its last second is lost"
        row = {
            "probe": "recorder",
            "start_ns": last_ns,
            "end_ns": last_ns,
            "lost_count": None,
            "reason": reason + "".join(f"; {name} torn" for name in torn),
            "track": None,
        }
        extra = pa.Table.from_pylist([row], schema=TABLES["gaps"])
        tables["gaps"] = pa.concat_tables([tables["gaps"], extra])
    return tables


def _last_of_each_track(tracks: pa.Table) -> pa.Table:
    """A track that was registered again (it got a name) keeps its last row."""
    last = {row["track"]: row for row in tracks.to_pylist()}
    return pa.Table.from_pylist(list(last.values()), schema=TABLES["tracks"])


def _last_row_ns(tables: dict[str, pa.Table], start_ns: int) -> int:
    timed = [table["time_ns"] for table in tables.values() if "time_ns" in table.column_names]
    return max([start_ns, *(int(pc.max(column).as_py()) for column in timed if len(column))])
