"""The hand on the child that runs one slice of the server's profiler."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from probes.keeper import Keeper, devnull
from probes.torch_profiler import switch

_MODULE: Final = "probes.torch_profiler.switch"
_ROOT: Final = Path(__file__).resolve().parents[2]
# Over all that the child may wait for; beyond it, it is killed.
_SLACK_S: Final = 10.0
# The last resort when the child was killed; the server has only to take the request.
_RESCUE_LIMIT_S: Final = 5.0
_CHUNK_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Call:
    """One request to the server: when it was sent, when it was answered, and how."""

    begin_ns: int
    end_ns: int
    status: int | None  # None: not answered
    reason: str

    @property
    def is_ok(self) -> bool:
        """Whether the server did it."""
        return self.status == 200


class SliceChild:
    """One slice, from the start of the child to its end; `wait` until it is over."""

    def __init__(
        self, keeper: Keeper, url: str, slice_s: float, body: dict[str, Any],
        on_call: Callable[[str, Call], None],
    ) -> None:  # fmt: skip
        """Start the child.

        Args:
            keeper: starts it, and ends it when we die.
            url: of the server.
            slice_s: how long the profiler is to run.
            body: of the start request.
            on_call: called on a thread, with `switch.STARTED` or `switch.STOPPED`.

        Raises:
            KeeperGone: no child can be started.
        """
        self.started: Call | None = None
        self.stopped: Call | None = None
        self._may_run = True  # the child may die before it says what it did
        self._url = url
        self._on_call = on_call
        self._channel, theirs = socket.socketpair()
        errors = devnull()
        try:
            self._child = keeper.spawn(
                [sys.executable, "-S", "-P", "-m", _MODULE, url, str(slice_s), json.dumps(body)],
                stdout=theirs.fileno(), stderr=errors,
                max_seconds=switch.START_LIMIT_S + slice_s + switch.STOP_LIMIT_S + _SLACK_S,
                env={"PYTHONPATH": str(_ROOT)},
            )  # fmt: skip
        except BaseException:
            self._channel.close()
            raise
        finally:
            theirs.close()
            os.close(errors)
        self._listener = threading.Thread(target=self._listen, name="torch profiler", daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int:
        """The child's PID."""
        return self._child.pid

    def end_early(self) -> None:
        """Let the child stop the profiler now."""
        try:
            self._channel.shutdown(socket.SHUT_WR)
        except OSError:  # it has ended
            return

    def wait(self, limit_s: float) -> bool:
        """Wait until the slice is over and the child gone; False when that takes longer."""
        self._listener.join(limit_s)
        return not self._listener.is_alive()

    def _listen(self) -> None:
        text = b""
        while chunk := self._receive():
            *lines, text = (text + chunk).split(b"\n")
            for line in lines:
                self._note(json.loads(line))
        if self.stopped is None and self._may_run:  # the child was killed
            begin_ns = time.monotonic_ns()
            answer = switch.post(self._url, "/stop_profile", _RESCUE_LIMIT_S)
            self._note({"what": switch.STOPPED, **switch.timed(begin_ns, answer)})
        self._channel.close()

    def _receive(self) -> bytes:
        try:
            return self._channel.recv(_CHUNK_BYTES)
        except ConnectionError:
            return b""

    def _note(self, event: dict[str, Any]) -> None:
        call = Call(event["begin_ns"], event["end_ns"], event["status"], event["reason"])
        if event["what"] == switch.STARTED:
            self.started = call
            self._may_run = switch.may_be_running(event)
        else:
            self.stopped = call
        self._on_call(event["what"], call)
