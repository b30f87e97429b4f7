"""The parent's end of one sampler child: starts it, tells it what to sample, reads its batches."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Generic, TypeVar

from probes.keeper import Keeper, devnull

# Far above any recording; the end of the channel ends it long before.
CHILD_MAX_S: Final = 24 * 3600.0
_POLL_S: Final = 1.0  # a batch comes more often than that
_CHUNK_BYTES: Final = 1 << 20
_STOP_TIMEOUT_S: Final = 2.0
_ROOT: Final = Path(__file__).resolve().parents[1]

BatchT = TypeVar("BatchT")


class StreamBroken(ValueError):
    """The bytes are not a sampler's batches."""


class ChildLink(Generic[BatchT]):
    """One child from its start to its end."""

    def __init__(
        self, keeper: Keeper, module: str, arguments: Sequence[str], commands: Iterable[object],
        feed: Callable[[bytes], list[BatchT]],
    ) -> None:  # fmt: skip
        """Start ``module`` as a child that reads ``commands``, one JSON value a line.

        Args:
            keeper: starts it, and ends it when we die.
            module: its main module, of the standard library and ours only.
            arguments: its command line.
            commands: what it is told first.
            feed: turns its bytes into whole batches; raises `StreamBroken`.

        Raises:
            KeeperGone: no child can be started.
        """
        self._keeper = keeper
        self._feed = feed
        self._channel, theirs = socket.socketpair()
        errors = devnull()
        try:
            for command in commands:
                self.tell(command)
            # Without site, so that it starts in milliseconds: it needs the standard library only.
            self._child = keeper.spawn(
                [sys.executable, "-S", "-P", "-m", module, *arguments],
                stdout=theirs.fileno(), stderr=errors, max_seconds=CHILD_MAX_S,
                env={"PYTHONPATH": str(_ROOT)},
            )  # fmt: skip
        except BaseException:
            self._channel.close()
            raise
        finally:
            theirs.close()
            os.close(errors)

    @property
    def pid(self) -> int:
        """The child's PID."""
        return self._child.pid

    def tell(self, command: object) -> None:
        """Send one command; it is heard at the next batch's end. Callable from any thread."""
        with contextlib.suppress(OSError):  # it has ended: `batches` says so
            self._channel.sendall(json.dumps(command).encode() + b"\n")

    def batches(self, stopping: threading.Event) -> Iterator[BatchT | None]:
        """Yield batches until the child ends; None now and then when there are none.

        Once ``stopping`` is set, the child is told to end, which takes it a part of a second; the
        batches on the way still come.

        Raises:
            StreamBroken: what it sends makes no sense.
        """
        stop_by_s: float | None = None
        while True:
            if stopping.is_set() and stop_by_s is None:
                stop_by_s = time.monotonic() + _STOP_TIMEOUT_S
                with contextlib.suppress(OSError):
                    self._channel.shutdown(socket.SHUT_WR)
            ready, _, _ = select.select([self._channel], [], [], _POLL_S)
            if ready:
                try:
                    chunk = self._channel.recv(_CHUNK_BYTES)
                except ConnectionError:
                    return
                if not chunk:
                    return
                yield from self._feed(chunk)
            else:
                yield None
            if stop_by_s is not None and time.monotonic() > stop_by_s:
                return

    def close(self) -> None:
        """End the child, if it has not ended, and let go of the channel."""
        self._channel.close()
        self._keeper.stop(self._child)
        self._child.exited.wait(_STOP_TIMEOUT_S)
