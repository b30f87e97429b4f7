"""What came out of a run: one row per request on disk, and what the client says of itself."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from collectors.errors import OutputExists, output_error
from collectors.schema import REQUESTS
from collectors.stream import read_stream
from profiler.load.meter import ClientLoad
from profiler.load.scenario import Scenario

ROWS_FILE: Final = "requests.arrow"  # an Arrow IPC file of collectors.schema.REQUESTS
STREAM_FILE: Final = "requests.arrows"  # the same, while it is being written
SUMMARY_FILE: Final = "summary.json"


@dataclass(frozen=True, slots=True)
class Results:
    """One scenario's requests, in the order they were due.

    ``client`` is None when the load process died; ``details`` holds the first words that came with
    each kind of failure; ``is_whole`` is False for a run that was stopped before its end.
    """

    scenario: Scenario
    url: str
    model: str | None
    rows: pa.Table
    client: ClientLoad | None
    details: dict[str, str]
    is_whole: bool
    directory: Path


def make_directory(directory: Path) -> None:
    """Make an empty directory for results.

    Raises:
        OutputExists: something is there already.
        OutputNotWritable, OutputFull: it cannot be made.
    """
    try:
        directory.mkdir(parents=True)
    except FileExistsError as error:
        if not directory.is_dir() or any(directory.iterdir()):
            raise OutputExists(
                f"{directory} already exists", "choose another directory with -o"
            ) from error
    except OSError as error:
        raise output_error(error, str(directory)) from error


def finish_rows(directory: Path) -> pa.Table:
    """Turn the stream in ``directory``, torn or whole, into the file, and return its rows.

    Raises:
        OutputFull, OutputNotWritable: there is no room; the stream stays.
    """
    stream = directory / STREAM_FILE
    rows = REQUESTS.empty_table()
    if stream.exists():
        rows = read_stream(stream, REQUESTS)[0].sort_by("time_ns")
    draft = directory / f"{ROWS_FILE}.tmp"
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    try:
        with pa.ipc.new_file(draft, REQUESTS, options=options) as sink:
            sink.write_table(rows)
        os.replace(draft, directory / ROWS_FILE)
        stream.unlink(missing_ok=True)
    except OSError as error:
        raise output_error(error, str(directory)) from error
    return rows


def read_rows(directory: Path) -> pa.Table:
    """Return the rows of a finished run."""
    with pa.ipc.open_file(directory / ROWS_FILE) as reader:
        return reader.read_all()


def write_summary(directory: Path, summary: dict[str, Any]) -> None:
    """Write ``summary`` as JSON beside the rows.

    Raises:
        OutputFull, OutputNotWritable: it cannot be written.
    """
    try:
        text = json.dumps(summary, indent=1, allow_nan=False)
        (directory / SUMMARY_FILE).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise output_error(error, str(directory)) from error
