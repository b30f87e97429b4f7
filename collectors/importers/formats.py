"""Which foreign format a file is in, and the one door to reading any of them."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Final

from collectors.errors import ImportInvalid
from collectors.importers.source import Progress, head
from collectors.importers.trace import Trace

# Module -> what it reads.
FORMATS: Final = {
    "rocpd": "rocpd database of rocprofiler-sdk",
    "nsys_sqlite": "SQLite export of Nsight Systems",
    "pftrace": "Perfetto trace of rocprofv3",
    "rocprofv3_json": "JSON of rocprofv3",
    "kineto": "trace of the torch profiler (JSON, may be gzip)",
    "pyspy_trace": "py-spy record -f chrometrace",
    "rocprofv3_csv": "CSV files of rocprofv3",
    "collapsed": "collapsed stacks (py-spy record -f raw)",
}
_JSON: Final = frozenset({"rocprofv3_json", "kineto", "pyspy_trace"})


def read_files(
    paths: Sequence[Path], on_progress: Progress | None = None, *, device_only: bool = False
) -> Trace:
    """Read files of one format, each told by its content; several are ranks, or files of a set.

    ``device_only`` leaves out what ran on the host, for formats where that saves time.

    Raises:
        ImportInvalid: a file is in no known format, or damaged, or they are of several formats.
    """
    found = {path: find_format(path) for path in paths}
    names = sorted(set(found.values()))
    if len(names) != 1:
        raise ImportInvalid(
            "files of several formats: " + ", ".join(f"{p.name} ({n})" for p, n in found.items()),
            "import each format by itself",
        )
    trace: Trace = _module(names[0]).read(paths, on_progress, device_only=device_only)
    return trace


def find_format(path: Path) -> str:
    """Return the name of the module in `FORMATS` that reads this file.

    Raises:
        ImportInvalid: it cannot be read, or is in no known format.
    """
    first = head(path)
    is_json = first.lstrip()[:1] in (b"{", b"[")
    # The likely ones come first, because each that is asked must be loaded.
    for name in sorted(FORMATS, key=lambda name: (name in _JSON) != is_json):
        if _module(name).is_mine(path, first):
            return name
    raise ImportInvalid(
        f"{path.name} is in no format that cputax imports",
        "give one of: " + "; ".join(FORMATS.values()),
    )


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"collectors.importers.{name}")
