"""Where a process may have memory: its mappings, and pages drawn from them at random.

Reading /proc/PID/maps walks the list of mappings, not their pages: a millisecond or two for a
server. ``smaps`` and ``numa_maps`` walk every page and hold up the process meanwhile.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

# proc(5): address, permissions, offset, device, inode, path.
_LINE = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) (....) \S+ \S+ \S+ *(.*)$", re.MULTILINE)
_UNTOUCHABLE: Final = b"---"  # guard pages and reserved room
# A mapped device is not this machine's memory (a GPU's), or not pages that one could move. Shared
# memory and huge pages lie below /dev by custom, and are memory.
_DEVICES: Final = b"/dev/"
_MEMORY_BELOW_DEV: Final = (b"/dev/shm/", b"/dev/zero", b"/dev/hugepages/")
_SPECIAL: Final = (b"[v", b"anon_inode:", b"/dmabuf:")  # [vdso], [vvar], [vsyscall]


@dataclass(frozen=True, slots=True, eq=False)
class Mappings:
    """The mappings that may hold memory, in order; pages of ``page_bytes``."""

    starts: NDArray[np.uint64]  # addresses
    page_counts: NDArray[np.int64]
    page_bytes: int

    @property
    def page_count(self) -> int:
        """All pages, present or not."""
        return int(self.page_counts.sum())

    def draw(self, count: int, random: np.random.Generator) -> NDArray[np.uint64]:
        """Return the addresses of ``count`` pages, each page as likely as any other.

        With replacement: the few that come up twice of millions do not matter.
        """
        ends = np.cumsum(self.page_counts)
        picks = random.integers(self.page_count, size=count)
        rows = np.searchsorted(ends, picks, side="right")
        offsets = picks - (ends[rows] - self.page_counts[rows])
        return self.starts[rows] + offsets.astype(np.uint64) * np.uint64(self.page_bytes)


def parse_maps(text: bytes, page_bytes: int) -> Mappings:
    """Parse /proc/PID/maps; lines of any other form are left out."""
    starts, counts = [], []
    for first, last, permissions, path in _LINE.findall(text):
        start, end = int(first, 16), int(last, 16)
        if _may_hold_memory(permissions, path) and start < end < 1 << 64:
            starts.append(start)
            counts.append((end - start) // page_bytes)
    return Mappings(np.array(starts, np.uint64), np.array(counts, np.int64), page_bytes)


def _may_hold_memory(permissions: bytes, path: bytes) -> bool:
    if permissions.startswith(_UNTOUCHABLE) or path.startswith(_SPECIAL):
        return False
    return not path.startswith(_DEVICES) or path.startswith(_MEMORY_BELOW_DEV)
