"""Prefix-tree interning of stacks: each distinct call path is stored once and named by its leaf."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

ROOT: Final = -1


class StackTable:
    """Interns frames ``(function, file)`` and stacks ``(parent stack, frame)`` to dense ids."""

    def __init__(self) -> None:
        self._frames: dict[tuple[str, str], int] = {}
        self._stacks: dict[tuple[int, int], int] = {}

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

    def frame_columns(self) -> dict[str, list[object]]:
        """Return the ``frames`` table's columns."""
        return {
            "frame": list(self._frames.values()),
            "function": [function for function, _ in self._frames],
            "file": [file for _, file in self._frames],
        }

    def stack_columns(self) -> dict[str, list[object]]:
        """Return the ``stacks`` table's columns."""
        return {
            "stack": list(self._stacks.values()),
            "parent": [parent for parent, _ in self._stacks],
            "frame": [frame for _, frame in self._stacks],
        }
