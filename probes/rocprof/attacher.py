"""The process that attaches to a server and detaches from it, in one thread as ptrace wants it.

It is small and its own, because AMD's library copies every variable of its environment that begins
with ROCP into the server, and because it must outlive a killed session for as long as a detach
takes: it detaches when its session ends or falls silent, when it is told to end, and at the latest
when its time is over. Standard library only.

``python -m probes.rocprof.attacher FD``: a socket; the session's first line is the request, any
further one says that it lives.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ._library import LibraryUnusable, SdkError
from ._rocattach import OldAttach, Rocattach

ATTACH_TIMEOUT_S = 60.0
DETACH_TIMEOUT_S = 180.0  # AMD's own tool says that it may take one to two minutes
SILENCE_S = 10.0  # a session says that it lives once a second
STUCK = 3  # exit code: a call into the library never returned


class Watchdog:
    """Ends the process when a call takes too long; the kernel then ends its ptrace."""

    def __init__(self, tell: Any) -> None:
        self._tell = tell
        self._timer: threading.Timer | None = None

    def arm(self, seconds: float, what: str) -> None:
        """Give the next call this long."""
        self._timer = threading.Timer(seconds, self._bite, (what, seconds))
        self._timer.daemon = True
        self._timer.start()

    def calm(self) -> None:
        """It has returned."""
        if self._timer is not None:
            self._timer.cancel()

    def _bite(self, what: str, seconds: float) -> None:
        self._tell(event="failed", text=f"{what} did not return within {seconds:.0f} s")
        os._exit(STUCK)


def main(descriptor: int) -> None:
    """Serve one request."""
    link = socket.socket(fileno=descriptor)
    wake = _wake_on_signals()

    def tell(**event: object) -> None:
        try:
            link.sendall(json.dumps(event).encode() + b"\n")
        except OSError:  # the session is gone: nobody wants to know
            return

    request = json.loads(link.makefile().readline())
    pids = request["pids"]
    watchdog = Watchdog(tell)
    try:
        path = Path(request["library"])
        library = OldAttach(path) if request["is_old"] else Rocattach(path)
        watchdog.arm(request.get("attach_timeout_s", ATTACH_TIMEOUT_S), "the attach")
        library.attach(pids)
        watchdog.calm()
        tell(event="attached")
        _wait(link, wake, request["max_seconds"], request.get("silence_s", SILENCE_S))
        watchdog.arm(request.get("detach_timeout_s", DETACH_TIMEOUT_S), "the detach")
        library.detach(pids)
        watchdog.calm()
        tell(event="detached")
    except SdkError as error:
        tell(event="failed", text=str(error), status=error.status)
    except LibraryUnusable as error:
        tell(event="failed", text=str(error))


def _wake_on_signals() -> int:
    """Have SIGTERM and its like end the wait, not the process; return what becomes readable."""
    wake, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writer)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is the session's to handle
    return wake


def _wait(link: socket.socket, wake: int, max_seconds: float, silence_s: float) -> None:
    """Return when it is time to detach."""
    end_s = time.monotonic() + max_seconds
    heard_s = time.monotonic()
    while True:
        now_s = time.monotonic()
        left_s = min(end_s, heard_s + silence_s) - now_s
        if left_s <= 0:
            return
        ready, _, _ = select.select([link.fileno(), wake], [], [], left_s)
        if wake in ready:
            return
        if ready:
            try:
                if not link.recv(4096):
                    return
            except OSError:
                return
            heard_s = time.monotonic()


if __name__ == "__main__":
    main(int(sys.argv[1]))
