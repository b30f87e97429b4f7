"""Every call of the oracle that releases the GIL and waits: sockets, selectors, queues.

`time_sockets` puts `TimedSocket` where the standard library takes its sockets from, so that
asyncio's own accepts, reads, writes and self-pipe wake-ups are timed too.
"""

from __future__ import annotations

import queue
import select
import selectors
import socket
from collections.abc import Mapping
from typing import Any, TypeVar

from profiler.oracle.stages import Stage
from profiler.oracle.truth.ledger import released, staged

T = TypeVar("T")


class TimedSocket(socket.socket):
    """A socket whose system calls are booked as time without the GIL."""

    def accept(self) -> tuple[socket.socket, Any]:
        """As in the base class."""
        return released(super().accept)

    def recv(self, *args: Any) -> bytes:
        """As in the base class."""
        return released(super().recv, *args)

    def recv_into(self, *args: Any) -> int:
        """As in the base class."""
        return released(super().recv_into, *args)

    def send(self, *args: Any) -> int:
        """As in the base class."""
        return released(super().send, *args)

    def sendall(self, *args: Any) -> None:
        """As in the base class."""
        released(super().sendall, *args)

    def sendmsg(self, *args: Any) -> int:
        """As in the base class."""
        return released(super().sendmsg, *args)

    def close(self) -> None:
        """As in the base class."""
        released(super().close)


def time_sockets() -> None:
    """From here on, every socket that this process makes or accepts is a `TimedSocket`."""
    socket.socket = TimedSocket  # type: ignore[misc]


class TimedSelector(selectors.BaseSelector):
    """epoll for asyncio, with the wait as the stage `Stage.IDLE` and its calls timed.

    The standard library's epoll selector does the same work, but leaves no place between its
    Python code, which holds the GIL, and the system calls, which do not.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._keys: dict[int, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Watch ``fileobj``; KeyError when it is watched already."""
        fd = _fileno(fileobj)
        if fd in self._keys:
            raise KeyError(f"file descriptor {fd} is already registered")
        key = self._keys[fd] = selectors.SelectorKey(fileobj, fd, events, data)
        released(self._epoll.register, fd, _epoll_mask(events))
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """Stop watching; KeyError when it was not watched."""
        key = self._keys.pop(_fileno(fileobj))
        released(self._epoll.unregister, key.fd)
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Change what is watched; KeyError when it was not watched."""
        old = self._keys[_fileno(fileobj)]
        key = self._keys[old.fd] = selectors.SelectorKey(fileobj, old.fd, events, data)
        if events != old.events:
            released(self._epoll.modify, old.fd, _epoll_mask(events))
        return key

    @staged(Stage.IDLE)
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for events, at most ``timeout`` seconds (None: without limit)."""
        wait_s = -1.0 if timeout is None else max(timeout, 0.0)
        ready = []
        for fd, mask in released(self._epoll.poll, wait_s, max(len(self._keys), 1)):
            key = self._keys.get(fd)
            if key is None:
                continue
            events = selectors.EVENT_WRITE if mask & ~select.EPOLLIN else 0
            events |= selectors.EVENT_READ if mask & ~select.EPOLLOUT else 0
            ready.append((key, events & key.events))
        return ready

    def close(self) -> None:
        """Let go of epoll; the selector is of no use afterwards."""
        self._keys.clear()
        released(self._epoll.close)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """What is watched, by file descriptor."""
        return self._keys

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        """The key of ``fileobj``; KeyError when it is not watched."""
        return self._keys[_fileno(fileobj)]


def _fileno(fileobj: Any) -> int:
    return fileobj if isinstance(fileobj, int) else int(fileobj.fileno())


def _epoll_mask(events: int) -> int:
    mask = select.EPOLLIN if events & selectors.EVENT_READ else 0
    return mask | (select.EPOLLOUT if events & selectors.EVENT_WRITE else 0)


@staged(Stage.IDLE)
def wait_readable(poller: select.poll, timeout_ms: int | None = None) -> bool:
    """Wait until what ``poller`` watches is readable or closed; False when time ran out."""
    return bool(released(poller.poll, timeout_ms))


@staged(Stage.IDLE)
def wait_item(items: queue.SimpleQueue[T]) -> T:
    """Wait for the next item of a queue."""
    return released(items.get)


def drain(items: queue.SimpleQueue[T]) -> list[T]:
    """All items that are there now, without waiting (and without releasing the GIL)."""
    found: list[T] = []
    try:
        while True:
            found.append(items.get_nowait())
    except queue.Empty:
        return found
