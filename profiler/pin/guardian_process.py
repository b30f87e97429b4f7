"""The guardian: holds the first masks in a process of its own, and puts them back whatever happens.

Run with ``python -S -P -m``: standard library and the few modules beside it, so that it starts in
no time. It alone moves threads, when it is told to, so that there is nothing half done when whoever
told it dies. Its link is a stream socket; a message is a JSON object on a line, and each but a
``beat`` gets one answer. It puts back and ends when

* the link closes: the trial is over, or its process was killed;
* it has heard nothing for ``silence_s``: the trial is frozen.

It has a session of its own and heeds no polite signal: those are the trial's to handle.
"""

from __future__ import annotations

import contextlib
import json
import select
import signal
import socket
import sys
import time
from typing import Any, Final

from profiler.pin.affinity import Held, Kernel, LinuxKernel, Outcome, impose, restore

START_SILENCE_S: Final = 10.0  # until it is told its own


class GuardianProcess:
    """Serves one trial until it is over."""

    def __init__(self, link: socket.socket, kernel: Kernel) -> None:
        self._link = link
        self._kernel = kernel
        self._held = Held([], {})
        self._silence_s = START_SILENCE_S
        self._heard_s = time.monotonic()
        self._pending = b""

    def run(self) -> None:
        """Serve; when this returns, everything is back in its place."""
        try:
            while self._is_wanted():
                pass
        finally:
            restore(self._kernel, self._held)

    def _is_wanted(self) -> bool:
        """Wait for messages and answer them; return whether there may be more."""
        limit_s = self._heard_s + self._silence_s - time.monotonic()
        if limit_s <= 0:
            return False
        if not select.select([self._link], [], [], limit_s)[0]:
            return True  # the limit tells, next time
        try:
            chunk = self._link.recv(1 << 20)
        except OSError:
            return False
        self._heard_s = time.monotonic()
        *lines, self._pending = (self._pending + chunk).split(b"\n")
        for line in lines:
            answer = self._obey(json.loads(line))
            if answer is not None:
                self._answer(answer)
        return bool(chunk)

    def _obey(self, message: dict[str, Any]) -> Outcome | None:
        match message["op"]:
            case "hold":
                self._held = Held.from_json(message["held"])
                self._silence_s = message["silence_s"]
                return Outcome()
            case "impose":
                return impose(self._kernel, self._held)
            case "restore":
                return restore(self._kernel, self._held)
        return None

    def _answer(self, outcome: Outcome) -> None:
        # Nobody may be there any more: then the link's end comes next.
        with contextlib.suppress(OSError):
            self._link.sendall(json.dumps(outcome.to_json()).encode() + b"\n")


def main() -> None:
    """Serve on the socket whose descriptor is the first argument."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    GuardianProcess(socket.socket(fileno=int(sys.argv[1])), LinuxKernel()).run()


if __name__ == "__main__":
    main()
