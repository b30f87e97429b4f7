"""An alarm in the event loop that rings at an absolute instant, to the microsecond."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from profiler.load.timerfd import open_timer, set_timer

_TIMER_READ_BYTES = 8  # how often it rang, a uint64


class Alarm:
    """Calls ``ring`` from the running loop, once for each `set`. Close it, or use ``with``."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._timer = open_timer()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._timer, self._rang)

    def set(self, time_ns: int) -> None:
        """Ring at ``time_ns`` (CLOCK_MONOTONIC ns) instead of when it was set to before."""
        set_timer(self._timer, time_ns)

    def close(self) -> None:
        """Never ring again."""
        self._loop.remove_reader(self._timer)
        os.close(self._timer)

    def __enter__(self) -> Alarm:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _rang(self) -> None:
        try:
            os.read(self._timer, _TIMER_READ_BYTES)
        except BlockingIOError:
            return  # it was set anew after the loop had seen it ring
        self._ring()
