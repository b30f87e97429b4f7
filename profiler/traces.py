"""Foreign traces read as a capture in memory, with progress where that takes time."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from profiler import __version__

if TYPE_CHECKING:
    from collectors.capture import Capture
    from collectors.importers.source import Progress


def read_traces(paths: Sequence[Path]) -> Capture:
    """Read foreign files as one capture in memory; progress goes to the terminal, if there is one.

    Raises:
        ImportInvalid: a file is damaged, or in no format that is known.
    """
    from collectors.importers.formats import read_files
    from collectors.importers.tables import to_capture

    with _progress(paths) as on_progress:
        trace = read_files(paths, on_progress)
    return to_capture(trace, list(paths), __version__)


@contextmanager
def _progress(paths: Sequence[Path]) -> Iterator[Progress | None]:
    if not sys.stderr.isatty():
        yield None
        return
    # Only here: a script that asks for JSON does not wait for what draws.
    from rich.progress import Progress as Bar

    from profiler.render.console import console

    out = console(to_stderr=True)
    label = paths[0].name if len(paths) == 1 else f"{len(paths)} files"
    with Bar(console=out, transient=True) as bar:
        task = bar.add_task(f"reading {label[:60]}", total=1.0)
        yield lambda ratio: bar.update(task, completed=ratio)
