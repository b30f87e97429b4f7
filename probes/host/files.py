"""Small files of /proc and /sys, below any root; one that cannot be read is unknown, not an error.

A sysfs file may be absent (the kernel lacks the feature), refused (a container), or fail when read
(a CPU went offline, a device answers EIO): for facts about the machine all three mean the same.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from collectors.cpu_lists import parse_list

ROOT: Final = Path("/")


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


def read_rows(path: Path | str) -> dict[str, str] | None:
    """Return the ``Name: value`` lines of a file such as /proc/PID/status or /proc/meminfo.

    None where it cannot be read.
    """
    text = read_text(path)
    if text is None:
        return None
    pairs = (line.partition(":") for line in text.splitlines())
    return {name: value.strip() for name, is_row, value in pairs if is_row}


def in_bytes(text: str | None) -> int | None:
    """Return the bytes of a row such as ``12 kB``; None where there is no such row."""
    number, _, unit = (text or "").partition(" ")
    return int(number) * 1024 if unit == "kB" and number.isdecimal() else None
