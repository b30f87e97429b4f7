"""The trial's hand on its guardian, and what to do when that one is killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from collectors.errors import CputaxError
from profiler.pin.affinity import Held, Kernel, Outcome, restore

SILENCE_S: Final = 10.0  # longer than one scrape of a slow server may take
ANSWER_TIMEOUT_S: Final = 10.0  # a pass over ten thousand threads takes a tenth of that
END_TIMEOUT_S: Final = 3.0  # then we put back what it has not
_ROOT: Final = Path(__file__).resolve().parents[2]


class GuardianGone(CputaxError):
    """The guardian was killed; the masks are put back without it, and the trial ends."""

    slug = "guardian-gone"

    def __init__(self) -> None:
        super().__init__(
            "the process that guards the first masks has died; the masks were put back without it",
            "was it killed by the OOM killer, or cputax frozen for long? See dmesg; then run again",
        )


class GuardianFailed(CputaxError):
    """The guardian could not be started, so nothing was changed."""

    slug = "guardian-failed"

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the process that is to guard the first masks did not start ({reason})",
            "nothing was changed; free memory or processes (ulimit -u), then run again",
        )


class Guardian:
    """A guardian that holds ``held``; a context manager that leaves every mask as it was.

    Raises:
        GuardianFailed: it did not start.
    """

    def __init__(self, held: Held, kernel: Kernel) -> None:
        self._held = held
        self._kernel = kernel
        self._pending = b""
        self._link, theirs = socket.socketpair()
        self._link.settimeout(ANSWER_TIMEOUT_S)
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-S", "-P", "-m", "profiler.pin.guardian_process",
                     str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    env={**os.environ, "PYTHONPATH": str(_ROOT)},
                    start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                self._link.close()
                reason = os.strerror(error.errno or 0)
                raise GuardianFailed(reason) from error
        try:
            self._ask("hold", held=held.to_json(), silence_s=SILENCE_S)
        except GuardianGone as error:
            self.close()
            raise GuardianFailed(f"exit code {self._process.returncode}") from error

    @property
    def pid(self) -> int:
        """The guardian's process."""
        return self._process.pid

    def __enter__(self) -> Guardian:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def impose(self) -> Outcome:
        """Let every thread that moves have its new mask.

        Raises:
            GuardianGone: it has died.
        """
        return self._ask("impose")

    def restore(self) -> Outcome:
        """Let every thread have its first mask.

        Raises:
            GuardianGone: it has died.
        """
        return self._ask("restore")

    def beat(self) -> None:
        """Tell it that we live; at least once in `SILENCE_S`.

        Raises:
            GuardianGone: it has died.
        """
        if self._process.poll() is not None:
            raise GuardianGone
        self._send("beat")

    def close(self) -> Outcome:
        """End the guardian and look ourselves that every mask is back; return what that look did.

        May be called again.
        """
        self._link.close()
        try:
            self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        return restore(self._kernel, self._held)

    def _ask(self, op: str, **rest: Any) -> Outcome:
        self._send(op, **rest)
        deadline_s = time.monotonic() + ANSWER_TIMEOUT_S
        while b"\n" not in self._pending and time.monotonic() < deadline_s:
            try:
                chunk = self._link.recv(1 << 20)
            except OSError as error:
                raise GuardianGone from error
            if not chunk:
                raise GuardianGone
            self._pending += chunk
        line, found, self._pending = self._pending.partition(b"\n")
        if not found:
            raise GuardianGone
        return Outcome.from_json(json.loads(line))

    def _send(self, op: str, **rest: Any) -> None:
        try:
            self._link.sendall(json.dumps({"op": op, **rest}).encode() + b"\n")
        except OSError as error:
            raise GuardianGone from error
