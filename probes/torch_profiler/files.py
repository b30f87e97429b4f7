"""The files that a server's profiler writes: where, with how much room, and which are new.

torch names them ``WORKER.TIME.pt.trace.json``, with ``.gz`` unless told otherwise, and writes each
in one go before the call that stopped it returns (torch/profiler/profiler.py).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from probes.environment import read_variables
from probes.procfs import Procfs
from probes.torch_profiler.settings import Settings

# Some hundred times what two seconds of a worker take without stacks (0.3 to 3 MB packed); the
# server's disk is no place to be short on.
MIN_FREE_BYTES: Final = 1 << 30
_PATTERN: Final = "*.pt.trace.json*"


def directory_of(settings: Settings, procfs: Procfs) -> Path:
    """Return the directory as we reach it: through the process's own root (a container)."""
    pid, named = settings.process.pid, settings.directory
    if named.startswith("~/"):
        named = read_variables(procfs, pid, ["HOME"]).get("HOME", "~") + named[1:]
    process = procfs.root / str(pid)
    if os.path.isabs(named):
        return process / "root" / named.lstrip("/")
    return process / "cwd" / named


def free_bytes(directory: Path) -> int:
    """Return how much room there is for a directory that may have to be made yet.

    Raises:
        OSError: we may not look.
    """
    place = directory
    while not place.exists() and place.parent != place:
        place = place.parent
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


def trace_files(directory: Path) -> set[Path]:
    """Return the traces that are there."""
    return set(directory.glob(_PATTERN))


def new_files(directory: Path, before: set[Path], prefix: str) -> list[Path]:
    """Return the traces that appeared since ``before``.

    A server that heeds the prefix of a start request (vLLM 0.32) shows which are ours; from others
    we take what is new.
    """
    fresh = sorted(trace_files(directory) - before)
    return [path for path in fresh if path.name.startswith(prefix)] or fresh
