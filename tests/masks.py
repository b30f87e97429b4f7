"""The masks of a server's threads, as the kernel tells them now."""

from __future__ import annotations

import contextlib
import os

import psutil

Masks = dict[tuple[int, int], frozenset[int]]


def masks_of(pid: int) -> Masks:
    """Return (PID, thread id) -> mask of a process and of all processes below it."""
    found: Masks = {}
    for one in [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # ended since
            for name in os.listdir(f"/proc/{one}/task"):
                with contextlib.suppress(ProcessLookupError):
                    found[one, int(name)] = frozenset(os.sched_getaffinity(int(name)))
    return found


def displaced(before: Masks, now: Masks) -> Masks:
    """Return the threads that are not where they were, or came since with a mask of nobody's.

    A thread that came since is as it should be if it has a mask that some thread of its process
    had, or, in a process that came since, that some thread of the server had.
    """
    had: dict[int, set[frozenset[int]]] = {}
    for (pid, _), mask in before.items():
        had.setdefault(pid, set()).add(mask)
    of_anybody = set(before.values())
    return {
        who: mask
        for who, mask in now.items()
        if (mask != before[who] if who in before else mask not in had.get(who[0], of_anybody))
    }
