"""The session's hand on its recorders: every child process is spawned through the keeper.

The work is done by `probes.keeper_process`, a process of its own that survives this one just long
enough to end the recorders.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from collectors.errors import CputaxError

BEAT_S: Final = 1.0  # well within the keeper's `SILENCE_S`
SPAWN_TIMEOUT_S: Final = 10.0
CLOSE_TIMEOUT_S: Final = 10.0


class KeeperGone(CputaxError):
    """The keeper was killed, so no recorder may run."""

    slug = "keeper-gone"

    def __init__(self) -> None:
        super().__init__(
            "the process that watches over the recorders has died",
            "was it killed by the OOM killer? See dmesg; what was recorded is kept",
        )


class Child:
    """A running recorder. ``exit_code`` is None while it lives; a signal's is negative."""

    def __init__(self, key: int) -> None:
        self.key = key
        self.pid = 0
        self.spawn_ns = 0
        self.exit_ns: int | None = None
        self.exit_code: int | None = None
        self.cpu_seconds = 0.0
        self.spawned = threading.Event()
        self.exited = threading.Event()

    @property
    def is_alive(self) -> bool:
        """Whether no end of it was reported."""
        return not self.exited.is_set()


class Keeper:
    """Spawns and stops recorders; all methods may be called from any thread."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = ours
        self._lock = threading.Lock()
        self._children: dict[int, Child] = {}
        self._next_key = 0
        self._closing = threading.Event()
        self._is_gone = False
        with theirs:
            # Its own session: Ctrl-C in the terminal is ours to handle, not its.
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S",
                 str(Path(__file__).with_name("keeper_process.py")), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
        self._thread = threading.Thread(target=self._listen, name="keeper", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        """The keeper's process."""
        return self._process.pid

    @property
    def is_gone(self) -> bool:
        """Whether the keeper has died; asked of the kernel, since our thread may not know yet."""
        return self._is_gone or self._process.poll() is not None

    def spawn(
        self, argv: Sequence[str], *, stdout: int, stderr: int, max_seconds: float,
        stop_signal: signal.Signals = signal.SIGTERM,
        env: Mapping[str, str] | None = None,
    ) -> Child:  # fmt: skip
        """Start a recorder that ends by itself after ``max_seconds`` at the latest.

        Args:
            argv: the program and its arguments.
            stdout: a file descriptor, duplicated for the child; the caller keeps its own.
            stderr: likewise.
            max_seconds: it is told to stop then, and killed a second later.
            stop_signal: how it is told to stop, by us and when the keeper dies.
            env: added to our environment.

        Raises:
            KeeperGone: the keeper has died.
        """
        with self._lock:
            child = Child(self._next_key)
            self._next_key += 1
            self._children[child.key] = child
        self._send(
            [stdout, stderr], op="spawn", key=child.key, argv=list(argv),
            stop_signal=int(stop_signal), max_seconds=max_seconds, env=dict(env or {}),
        )  # fmt: skip
        if not child.spawned.wait(SPAWN_TIMEOUT_S) or self.is_gone:
            raise KeeperGone
        return child

    def stop(self, child: Child) -> None:
        """Tell a recorder to stop; wait on ``child.exited`` for its end."""
        if child.is_alive and not self.is_gone:
            self._send([], op="stop", key=child.key)

    def close(self) -> None:
        """Stop every recorder and the keeper; returns when they are gone."""
        self._closing.set()
        # The keeper reads our end of file as the end of the session.
        self._socket.shutdown(socket.SHUT_WR)
        self._thread.join(CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            self._process.kill()  # it was stopped; its children die with it
            self._thread.join()
        self._process.wait()
        self._socket.close()

    def _send(self, fds: list[int], **message: Any) -> None:
        try:
            socket.send_fds(self._socket, [json.dumps(message).encode()], fds)
        except OSError as error:
            raise KeeperGone from error

    def _listen(self) -> None:
        """Hear the keeper out, and let it hear us breathe."""
        next_beat_s = time.monotonic()
        while True:
            if not self._closing.is_set() and time.monotonic() >= next_beat_s:
                try:
                    self._send([], op="beat")
                except KeeperGone:
                    break
                next_beat_s = time.monotonic() + BEAT_S
            ready, _, _ = select.select([self._socket], [], [], BEAT_S)
            if not ready:
                continue
            try:
                message = self._socket.recv(1 << 16)
            except OSError:
                break
            if not message:
                break
            self._note(json.loads(message))
        self._is_gone = True
        with self._lock:
            children = list(self._children.values())
        for child in children:
            child.spawned.set()
            child.exited.set()

    def _note(self, event: dict[str, Any]) -> None:
        with self._lock:
            child = self._children[event["key"]]
            if event["event"] == "exited":
                del self._children[event["key"]]
        if event["event"] == "spawned":
            child.pid, child.spawn_ns = event["pid"], event["time_ns"]
            child.spawned.set()
        else:
            child.exit_ns, child.exit_code = event["time_ns"], event["exit_code"]
            child.cpu_seconds = event["cpu_seconds"]
            child.exited.set()


def devnull() -> int:
    """Open /dev/null for a child's output."""
    return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
