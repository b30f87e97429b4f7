"""Small files of /proc and /sys, below any root; one that cannot be read is unknown, not an error.

A sysfs file may be absent (the kernel lacks the feature), refused (a container), or fail when read
(a CPU went offline, a device answers EIO): for facts about the machine all three mean the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

ROOT: Final = Path("/")
# The largest CONFIG_NR_CPUS of any architecture is 8192; a damaged list must not fill the memory.
_CPU_LIMIT: Final = 1 << 16


def read_text(path: Path | str) -> str | None:
    """Return the file's text without the white space around it, or None where it cannot be read."""
    raw = read_bytes(path)
    return None if raw is None else raw.decode("utf-8", "replace").strip()


def read_bytes(path: Path | str) -> bytes | None:
    """Return all of the file, or None where it cannot be read."""
    try:
        # Without a buffered file around it: thousands are read of a large machine.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        parts = []
        while part := os.read(descriptor, 1 << 16):
            parts.append(part)
        return b"".join(parts)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def read_int(path: Path | str, base: int = 10) -> int | None:
    """Return the file's whole number; None where there is none."""
    try:
        return int(read_text(path) or "", base)
    except ValueError:
        return None


def read_list(path: Path | str) -> tuple[int, ...] | None:
    """Return the CPUs or nodes of a list such as ``0-3,8``; None where there is no such list."""
    text = read_text(path)
    try:
        return None if text is None else parse_list(text)
    except ValueError:
        return None


def names_in(directory: Path | str) -> list[str]:
    """Return the sorted names in a directory; none where it cannot be listed."""
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def parse_list(text: str) -> tuple[int, ...]:
    """Return the numbers of a list in the kernel's format, ascending.

    Format: "List Format" of cpuset(7). A kernel built for ``nohz_full`` and booted without it says
    ``(null)``: no CPU.

    Raises:
        ValueError: it is no such list.
    """
    numbers: set[int] = set()
    text = text.strip()
    for part in [] if text in {"", "(null)"} else text.split(","):
        first, is_range, last = part.partition("-")
        begin, end = int(first), int(last if is_range else first)
        if not 0 <= begin <= end < _CPU_LIMIT:
            raise ValueError(f"no list of CPUs or nodes: {text[:80]!r}")
        numbers.update(range(begin, end + 1))
    return tuple(sorted(numbers))


def format_list(numbers: Iterable[int]) -> str:
    """Return the numbers in the kernel's format, as taskset(1) and numactl(8) take them."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
