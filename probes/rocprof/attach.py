"""Attach to one process through AMD's library, in a child of our own; see `attacher`."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from probes.procfs import Procfs
from probes.rocprof import _search
from probes.rocprof.attach_checks import register_path
from probes.rocprof.attacher import ATTACH_TIMEOUT_S, DETACH_TIMEOUT_S
from probes.rocprof.errors import RocprofAttachFailed

MAX_SECONDS: Final = 24 * 3600.0  # longer than any recording; its session's end comes first
GRACE_S: Final = 5.0  # for the child's answer, beyond what it gives the library
COPIED: Final = "ROCP"  # the library copies variables that begin so into the server
_ROOT: Final = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class AttachLibrary:
    """AMD's attacher, and the tool that it has the server load."""

    path: Path
    is_old: bool  # of ROCm 7.1 and 7.2
    tool: Path | None  # None: the library's own choice


def find_attach_library(
    procfs: Procfs, pids: Sequence[int], environ: Mapping[str, str],
    cache: Path | None = _search.LD_CACHE,
) -> AttachLibrary | None:  # fmt: skip
    """Return the attacher of the ROCm that these processes run on, else of any other here."""
    registers = (register_path(procfs, pid) for pid in pids)
    own = [Path(path).parent for path in registers if path is not None]
    places = [*own, *_search.library_directories(environ, sys.path)]
    for names, is_old in ((_search.ROCATTACH_NAMES, False), (_search.OLD_ATTACH_NAMES, True)):
        path = _search.find_library(names, places, cache)
        if path is not None:
            lib = path.parent.parent if is_old else path.parent
            tool = None if is_old else _search.find_library(_search.TOOL_NAMES, [lib])
            return AttachLibrary(path, is_old, tool)
    return None


class Attachment:
    """One attach to a process or a tree, from its beginning to its end."""

    def __init__(
        self, library: AttachLibrary, pids: Sequence[int], settings: Mapping[str, str],
        timeouts: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        """Start the child that attaches.

        Args:
            library: AMD's.
            pids: of the server's processes: one, or a whole tree with its root first.
            settings: variables for AMD's tool; they begin with ROCP.
            timeouts: ``attach_timeout_s`` and ``detach_timeout_s``, other than those of `attacher`.
        """
        self.pids = list(pids)
        self._timeouts = {
            "attach_timeout_s": ATTACH_TIMEOUT_S, "detach_timeout_s": DETACH_TIMEOUT_S,
            **(timeouts or {}),
        }  # fmt: skip
        self._link, theirs = socket.socketpair()
        self._received = b""
        environ = {name: text for name, text in os.environ.items() if not name.startswith(COPIED)}
        if library.tool is not None:
            environ["ROCPROF_ATTACH_TOOL_LIBRARY"] = str(library.tool)
        with theirs:
            # Not by the keeper: it would kill the child in the middle of a detach.
            self._child = subprocess.Popen(
                [sys.executable, "-S", "-P", "-m", "probes.rocprof.attacher", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**environ, **settings, "PYTHONPATH": str(_ROOT)},
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
        request = {
            "library": str(library.path), "is_old": library.is_old, "pids": self.pids,
            "max_seconds": MAX_SECONDS, **self._timeouts,
        }  # fmt: skip
        self._tell(request)

    def wait_attached(self) -> None:
        """Return once the library has attached.

        Raises:
            RocprofAttachFailed: it did not; the child is gone.
        """
        self._expect("attached", self._timeouts["attach_timeout_s"])

    def beat(self) -> None:
        """Say that the session lives; to be called once a second."""
        self._tell(None)

    def begin_detach(self) -> None:
        """Have the child detach; `wait_detached` says how that went."""
        with contextlib.suppress(OSError):
            self._link.shutdown(socket.SHUT_WR)

    def wait_detached(self) -> None:
        """Return once the library has detached.

        Raises:
            RocprofAttachFailed: it did not; the server may still be traced.
        """
        self._expect("detached", self._timeouts["detach_timeout_s"])
        self._end()

    def _tell(self, message: object) -> None:
        with contextlib.suppress(OSError):  # it has ended: `_expect` says so
            self._link.sendall(json.dumps(message).encode() + b"\n")

    def _expect(self, wanted: str, timeout_s: float) -> None:
        event = self._next_event(timeout_s + GRACE_S)
        if event.get("event") == wanted:
            return
        self._end()
        text = event.get("text", f"the attacher ended with code {self._child.returncode}")
        raise RocprofAttachFailed(self.pids[0], text, event.get("status"))

    def _next_event(self, timeout_s: float) -> dict[str, Any]:
        """Return the child's next event; none when it ends, or is silent for too long."""
        deadline_s = time.monotonic() + timeout_s
        while b"\n" not in self._received:
            left_s = deadline_s - time.monotonic()
            ready, _, _ = select.select([self._link], [], [], max(0.0, left_s))
            if not ready:
                return {"text": f"the attacher did not answer within {timeout_s:.0f} s"}
            try:
                chunk = self._link.recv(1 << 16)
            except ConnectionError:
                chunk = b""
            if not chunk:
                return {}
            self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        event: dict[str, Any] = json.loads(line)
        return event

    def _end(self) -> None:
        """Let go of the child; one that does not end by itself is killed."""
        self._link.close()
        try:
            self._child.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
