"""A probe's own thread: ticks at absolute deadlines, and knows how well it kept them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Pacer:
    """Calls ``tick`` at ``rate_hz`` on a thread until `stop`.

    A late tick is not made up for: deadlines that have passed are skipped, because a burst of
    catching up would load the machine just when it is short of CPU. What the system refuses in a
    tick goes to ``on_error``, and the next tick tries again.
    """

    def __init__(
        self, name: str, rate_hz: float, tick: Callable[[int], None],
        on_error: Callable[[OSError], None],
    ) -> None:  # fmt: skip
        self.rate_hz = rate_hz  # as asked; see `slow_down`
        self._divisor = 1
        self.tick_count = 0
        self.first_ns: int | None = None
        self.last_ns = 0
        self.largest_gap_ns = 0
        self._tick = tick
        self._on_error = on_error
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin with a first tick at once."""
        self._thread.start()

    def slow_down(self, divisor: int) -> None:
        """Tick at the rate asked over ``divisor`` from now on; 1 is the rate asked."""
        self._divisor = divisor

    def stop(self) -> None:
        """End after the tick in progress."""
        self._stopping.set()
        self._thread.join()

    @property
    def achieved_hz(self) -> float | None:
        """Ticks per second between the first and the last; None before the second."""
        if self.first_ns is None or self.last_ns == self.first_ns:
            return None
        return (self.tick_count - 1) * 1e9 / (self.last_ns - self.first_ns)

    def _run(self) -> None:
        deadline_ns = time.monotonic_ns()
        while True:
            period_ns = int(self._divisor * 1e9 / self.rate_hz)
            now_ns = time.monotonic_ns()
            if self.first_ns is None:
                self.first_ns = now_ns
            else:
                self.largest_gap_ns = max(self.largest_gap_ns, now_ns - self.last_ns)
            self.last_ns = now_ns
            self.tick_count += 1
            try:
                self._tick(now_ns)
            except OSError as error:
                self._on_error(error)
            now_ns = time.monotonic_ns()
            deadline_ns += period_ns * max(1, -((deadline_ns - now_ns) // period_ns))
            if self._stopping.wait(max(0, deadline_ns - now_ns) / 1e9):
                return
