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
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from probes.gil.decode import Batch, Decoder
from probes.gil.layout import GilLayout, to_fields
from probes.keeper import Keeper, devnull

# Far above any recording; the end of the channel ends it long before.
_CHILD_MAX_S: Final = 24 * 3600.0
_POLL_S: Final = 0.25
_CHUNK_BYTES: Final = 1 << 20
_STOP_TIMEOUT_S: Final = 2.0
_ROOT: Final = Path(__file__).resolve().parents[2]


class SamplerLink:
    """One child from its start to its end."""

    def __init__(
        self, keeper: Keeper, layouts: Iterable[GilLayout], *, rate_hz: float, look_hz: float,
        is_realtime: bool = False,
    ) -> None:  # fmt: skip
        """Start a child that samples ``layouts``; real-time only where that is allowed.

        Raises:
            KeeperGone: no child can be started.
        """
        self._keeper = keeper
        self._channel, theirs = socket.socketpair()
        errors = devnull()
        try:
            for layout in layouts:
                self.take_up(layout)
            # Without site, so that it starts in milliseconds: it needs the standard library only.
            self._child = keeper.spawn(
                [sys.executable, "-S", "-P", "-m", "probes.gil.sampler",
                 str(rate_hz), str(look_hz), str(_CHILD_MAX_S),
                 "realtime" if is_realtime else "normal"],
                stdout=theirs.fileno(), stderr=errors, max_seconds=_CHILD_MAX_S,
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

    def take_up(self, layout: GilLayout) -> None:
        """Have it sample one more process, from its next batch on. Callable from any thread."""
        with contextlib.suppress(OSError):  # it has ended: `batches` says so
            self._channel.sendall(json.dumps(to_fields(layout)).encode() + b"\n")

    def set_rate(self, rate_hz: float) -> None:
        """Have it sample at another rate, from its next batch on."""
        with contextlib.suppress(OSError):  # it has ended: `batches` says so
            self._channel.sendall(json.dumps(rate_hz).encode() + b"\n")

    def batches(self, stopping: threading.Event) -> Iterator[Batch | None]:
        """Yield batches until the child ends; None now and then when there are none.

        Once ``stopping`` is set, the child is told to end, which takes it a tenth of a second; the
        batches on the way still come.

        Raises:
            StreamBroken: what it sends makes no sense.
        """
        decoder = Decoder()
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
                yield from decoder.feed(chunk)
            else:
                yield None
            if stop_by_s is not None and time.monotonic() > stop_by_s:
                return

    def close(self) -> None:
        """End the child, if it has not ended, and let go of the channel."""
        self._channel.close()
        self._keeper.stop(self._child)
        self._child.exited.wait(_STOP_TIMEOUT_S)
