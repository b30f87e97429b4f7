"""A cgroup with a CPU quota, made and removed; of either version."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

MOUNTS: Final = Path("/proc/self/mounts")
PERIOD_US: Final = 100_000


class Quota:
    """A group below the root of the ``cpu`` controller's tree."""

    def __init__(self, path: Path, *, is_unified: bool) -> None:
        self._path = path
        self._is_unified = is_unified

    def add(self, pid: int) -> None:
        """Move a process with all its threads into the group."""
        (self._path / "cgroup.procs").write_text(str(pid))

    def limit(self, cpus: float) -> None:
        """Allow it that many CPUs."""
        quota_us = round(cpus * PERIOD_US)
        if self._is_unified:
            (self._path / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")
        else:
            (self._path / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (self._path / "cpu.cfs_quota_us").write_text(str(quota_us))

    def throttled_ns(self) -> int:
        """How long it was stopped so far, summed over its CPUs, as the kernel counts it."""
        text = (self._path / "cpu.stat").read_text()
        stat = dict(line.split() for line in text.splitlines())
        if self._is_unified:
            return int(stat["throttled_usec"]) * 1000
        return int(stat["throttled_time"])


@contextmanager
def limited_group(cpus: float) -> Iterator[Quota]:
    """Make a group with a quota.

    Raises:
        OSError: not permitted here, or there is no such controller.
    """
    root, is_unified = _controller()
    path = root / f"cputax-test-{os.getpid()}"
    path.mkdir()
    try:
        quota = Quota(path, is_unified=is_unified)
        quota.limit(cpus)
        yield quota
    finally:
        path.rmdir()


def _controller() -> tuple[Path, bool]:
    """Return the root of the tree that has the controller, and whether it is of version 2."""
    for line in MOUNTS.read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        path = Path(where)
        if kind == "cgroup" and "cpu" in options.split(","):
            return path, False
        if kind == "cgroup2" and "cpu" in (path / "cgroup.subtree_control").read_text().split():
            return path, True
    raise OSError(errno.ENOENT, "no cgroup tree here has the cpu controller")
