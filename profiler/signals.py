"""The signals that end what runs in the foreground, and leave what it has kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def setting_on_signals(event: threading.Event) -> Iterator[None]:
    """Let `STOPPING` set ``event``, and do nothing else, until the block ends.

    Only the main thread can do this.
    """

    def stop(_number: int, _frame: object) -> None:
        event.set()

    before = {number: signal.signal(number, stop) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
