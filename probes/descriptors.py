"""File descriptors: one per thread that is watched, one per connection of a load."""

from __future__ import annotations

import resource
from contextlib import suppress


def allow_many_descriptors() -> None:
    """Let this process open as many files as it may without asking anyone."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    # Refused where the hard limit is above the kernel's own (fs.nr_open): what there is must do.
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
