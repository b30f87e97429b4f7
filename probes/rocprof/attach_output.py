"""Where AMD's tool, inside the server, writes; and its files, once they are whole.

A process may be attached to again only with the settings of the first time, its output's path
among them (AMD's documentation of process attachment). So the path is made of the process's
identity, not the recording's, and the settings are written down beside the files.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from collectors.errors import ImportInvalid
from collectors.importers import rocpd
from collectors.importers.trace import Trace
from probes.procfs import Procfs
from probes.rocprof.errors import RocprofAttachFailed, RocprofNoData
from probes.target import Process

SETTINGS: Final = "settings.json"
FILE_TIMEOUT_S: Final = 120.0  # the tool writes on after the detach
POLL_S: Final = 0.2
STABLE_S: Final = 1.0
_UNFINISHED: Final = ("-journal", "-wal")  # SQLite's, beside a database that is being written
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class Output:
    """One process's directory of files, in its own /tmp."""

    def __init__(
        self, procfs: Procfs, process: Process, file_timeout_s: float = FILE_TIMEOUT_S
    ) -> None:  # fmt: skip
        self._file_timeout_s = file_timeout_s
        self._pid = process.pid
        name = f"cputax-rocprof-{process.pid}-{process.start_ticks}"
        self.inner_path = f"/tmp/{name}"  # as the process sees it
        self._path = Path(f"{procfs.root}/{process.pid}/root/tmp/{name}")
        self._owner = Path(f"{procfs.root}/{process.pid}")
        self._descriptor: int | None = None

    def prepare(self, settings: Mapping[str, str]) -> None:
        """Make the directory, for the server's user to write in.

        Raises:
            RocprofAttachFailed: it cannot be made, is somebody else's, or the process was attached
                to with other settings.
        """
        try:
            owner = self._owner.stat()
            self._path.mkdir(mode=0o700, exist_ok=True)
            found = self._path.lstat()
            if os.geteuid() == 0 and found.st_uid == 0 != owner.st_uid:
                os.chown(self._path, owner.st_uid, owner.st_gid)
                found = self._path.lstat()
            is_ours = stat.S_ISDIR(found.st_mode) and not found.st_mode & _OTHERS
            if not is_ours or found.st_uid != owner.st_uid:
                raise self._failed(f"{self.inner_path} is not the server's own directory")
            # Held open: the path goes through the process, which may end before its files are read.
            self._descriptor = os.open(self._path, os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            self._path = Path(f"/proc/self/fd/{self._descriptor}")
            self._check_settings(settings)
            self.clear()
        except OSError as error:
            raise self._failed(f"{self.inner_path}: {os.strerror(error.errno or 0)}") from error

    def _check_settings(self, settings: Mapping[str, str]) -> None:
        """AMD's tool keeps the settings of the first attach for as long as the process lives."""
        written = self._path / SETTINGS
        if not written.exists():
            written.write_text(json.dumps(settings))
        elif json.loads(written.read_text()) != settings:
            raise self._failed(
                "it was attached to with other settings, which AMD's tool keeps; use the same "
                "options as the first time, or restart the server"
            )

    def clear(self) -> None:
        """Remove the files: they hold the server's environment."""
        for path in self._files():
            path.unlink(missing_ok=True)

    def read(self) -> Trace:
        """Wait for the files, read them and remove them.

        Raises:
            RocprofNoData: there are none, or none that is whole, or they hold nothing.
        """
        deadline_s = time.monotonic() + self._file_timeout_s
        problem: ImportInvalid | None = None
        seen: dict[Path, tuple[int, int]] = {}
        stable_since_s = time.monotonic()
        while time.monotonic() < deadline_s:
            files = self._files()
            sizes = {path: (one.st_size, one.st_mtime_ns) for path in files if (one := _stat(path))}
            if sizes != seen:
                seen, stable_since_s = sizes, time.monotonic()
            databases = [path for path in files if path.suffix == ".db"]
            is_whole = databases and not any(path.name.endswith(_UNFINISHED) for path in files)
            if is_whole and time.monotonic() - stable_since_s >= STABLE_S:
                try:
                    trace = rocpd.read(databases)
                except ImportInvalid as error:  # it is still being written, or damaged
                    problem = error
                else:
                    self.clear()
                    return trace
            time.sleep(POLL_S)
        self.clear()
        what = problem.message if problem is not None else "AMD's tool wrote no file"
        raise RocprofNoData(
            f"process {self._pid}: attached and detached, but {what}",
            "the server's own log may say why (ROCPROFILER_LOG_LEVEL=info); "
            "or start it through cputax: cputax attach -- COMMAND",
        )

    def close(self) -> None:
        """Let go of the directory."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _files(self) -> list[Path]:
        """Return what the tool wrote; never through a link, which another user may have laid."""
        return [
            path
            for path in sorted(self._path.rglob("*"))
            if path.name != SETTINGS and (one := _stat(path)) and stat.S_ISREG(one.st_mode)
        ]

    def _failed(self, text: str) -> RocprofAttachFailed:
        return RocprofAttachFailed(self._pid, text, None)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except OSError:
        return None
