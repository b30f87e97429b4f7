"""Prefix-tree interning of stacks: each distinct call path is stored once and named by its leaf."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pyarrow as pa

ROOT: Final = -1


class StackTable:
    """Interns frames ``(function, file)`` and stacks ``(parent stack, frame)`` to dense ids."""

    def __init__(self) -> None:
        self._frames: dict[tuple[str, str], int] = {}
        self._stacks: dict[tuple[int, int], int] = {}

    def load(self, frames: pa.Table, stacks: pa.Table) -> None:
        """Take the rows of two tables of a capture, whose ids must be dense and in order."""
        columns = zip(frames["function"].to_pylist(), frames["file"].to_pylist(), strict=True)
        for function, file in columns:
            self.frame(function, file)
        columns = zip(stacks["parent"].to_pylist(), stacks["frame"].to_pylist(), strict=True)
        for parent, frame in columns:
            self.child(parent, frame)

    def frame(self, function: str, file: str) -> int:
        """Return the id of this function in this file."""
        return self._frames.setdefault((function, file), len(self._frames))

    def child(self, parent: int, frame: int) -> int:
        """Return the id of the stack that is ``parent`` with ``frame`` called from its leaf."""
        return self._stacks.setdefault((parent, frame), len(self._stacks))

    def stack(self, frames: Iterable[int]) -> int:
        """Return the id of the stack with these frames, root first; `ROOT` when there are none."""
        parent = ROOT
        for frame in frames:
            parent = self.child(parent, frame)
        return parent

    @property
    def frame_count(self) -> int:
        """How many frames there are; their ids are below."""
        return len(self._frames)

    @property
    def stack_count(self) -> int:
        """How many stacks there are; their ids are below."""
        return len(self._stacks)

    def frame_columns(self, first: int = 0) -> dict[str, list[object]]:
        """Return the ``frames`` table's columns, from id ``first`` on."""
        frames = list(itertools.islice(self._frames, first, None))
        return {
            "frame": list(range(first, first + len(frames))),
            "function": [function for function, _ in frames],
            "file": [file for _, file in frames],
        }

    def stack_columns(self, first: int = 0) -> dict[str, list[object]]:
        """Return the ``stacks`` table's columns, from id ``first`` on."""
        stacks = list(itertools.islice(self._stacks, first, None))
        return {
            "stack": list(range(first, first + len(stacks))),
            "parent": [parent for parent, _ in stacks],
            "frame": [frame for _, frame in stacks],
        }

    def path(self, stack: int) -> list[tuple[str, str]]:
        """Return a stack's frames, innermost first."""
        frames, stacks = list(self._frames), list(self._stacks)
        path = []
        while stack != ROOT:
            stack, frame = stacks[stack]
            path.append(frames[frame])
        return path
