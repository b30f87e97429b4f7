"""A sampler child as a process of its own, started as its probe does it, and its stream."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Generic, TypeVar

from probes.gil.layout import GilLayout
from probes.stacks.layout import StackLayout

BatchT = TypeVar("BatchT")
Layout = GilLayout | StackLayout

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 30.0
# Put before a command: a parent for it that we may kill, and whose standard output it inherits.
PARENT = (sys.executable, "-c", "import subprocess, sys; subprocess.call(sys.argv[1:])")


class Sampler(Generic[BatchT]):
    """A running child (or the parent that was asked for) and the stream of its batches."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        channel: socket.socket,
        feed: Callable[[bytes], Iterable[BatchT]],
    ) -> None:
        self.process = process
        self.channel = channel
        self._feed = feed

    def tell(self, layout: Layout) -> None:
        self.channel.sendall(json.dumps(layout).encode() + b"\n")

    def batches(self) -> Iterator[BatchT]:
        """Until it ends."""
        with suppress(ConnectionError):
            while chunk := self.channel.recv(1 << 20):
                yield from self._feed(chunk)

    def wait(self) -> int:
        """Return its exit code."""
        return self.process.wait(DEADLINE_S)

    def until_it_has_used(self, ticks: int) -> None:
        """Return, having read nothing, when it has had so many clock ticks of CPU time."""
        deadline_s = time.monotonic() + DEADLINE_S
        while _cpu_ticks(self.process.pid) < ticks:
            assert time.monotonic() < deadline_s
            os.sched_yield()


@contextmanager
def running_sampler(
    module: str,
    arguments: Iterable[object],
    layouts: Iterable[Layout],
    feed: Callable[[bytes], Iterable[BatchT]],
    *,
    reader_bytes: int = 0,
    parent: Sequence[str] = (),
) -> Iterator[Sampler[BatchT]]:
    """Start ``python -m module ARGUMENTS`` on ``layouts``, and end it.

    ``feed`` decodes its stream, for which the socket has a buffer of ``reader_bytes`` if not 0.
    """
    ours, theirs = socket.socketpair()
    if reader_bytes:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, reader_bytes)
    ours.settimeout(DEADLINE_S)
    with ours:
        for layout in layouts:
            ours.sendall(json.dumps(layout).encode() + b"\n")
        command = [*parent, sys.executable, "-S", "-P", "-m", module, *map(str, arguments)]
        with theirs:
            process = subprocess.Popen(
                command, stdout=theirs, env={**os.environ, "PYTHONPATH": str(ROOT)}
            )
        try:
            yield Sampler(process, ours, feed)
        finally:
            process.kill()
            process.wait()


def _cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
