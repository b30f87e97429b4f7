"""Waiting for something to happen: poll it until a deadline, never sleep and hope."""

from __future__ import annotations

import time
from collections.abc import Callable

POLL_S = 0.01


def wait_until(is_so: Callable[[], bool], what: str, *, within_s: float = 20.0) -> None:
    """Return once ``is_so()``; fail with ``what`` when it is not so in time."""
    deadline_s = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline_s, f"not within {within_s} s: {what}"
        time.sleep(POLL_S)
