"""Lists of CPUs or memory nodes as text, ``0-3,8``: the kernel's format, and what tools take."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

# The largest CONFIG_NR_CPUS of any architecture is 8192; a damaged list must not fill the memory.
_CPU_LIMIT: Final = 1 << 16


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
