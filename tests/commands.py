"""Run the real ``cputax`` program, as a user does, and look at what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from collectors.capture import open_capture
from collectors.errors import CaptureInvalid

CPUTAX = str(Path(sys.executable).with_name("cputax"))

_ERROR = re.compile(r"^cputax: (?P<message>.+) \[(?P<slug>[a-z-]+)\]\n  try: (?P<remedy>.+)$", re.M)


def run_cputax(
    *arguments: object, wrapper: Sequence[str] = (), limit_s: float = 90.0
) -> subprocess.CompletedProcess[str]:
    """Run it to its end, which must come within a limit; return its exit code and output."""
    return subprocess.run(
        [*wrapper, CPUTAX, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=limit_s,
    )


def start_cputax(*arguments: object) -> subprocess.Popen[str]:
    """Start it in the background; its errors are kept for `said_error`."""
    return subprocess.Popen(
        [CPUTAX, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def recorded_ns(directory: Path) -> int:
    """Return how much time the rows on disk span; a capture may be read while it is recorded."""
    try:
        times_ns = open_capture(directory).table("thread_counters")["time_ns"].to_pylist()
    except CaptureInvalid:
        return 0  # not begun
    return max(times_ns, default=0) - min(times_ns, default=0)


def said_error(stderr: str) -> dict[str, str]:
    """Return the slug, the message and the remedy of the one error in ``stderr``."""
    assert "Traceback" not in stderr, stderr
    found = list(_ERROR.finditer(stderr))
    assert len(found) == 1, f"not one error with a remedy: {stderr!r}"
    return found[0].groupdict()
