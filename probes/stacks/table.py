"""Interning of frames and stacks in the sampler child, which sends each of them once.

Part of the sampler child: the standard library only.
"""

from __future__ import annotations

from typing import Final

ROOT: Final = -1


class Interned:
    """Frames ``(function, file)`` and stacks ``(parent, frame)``, numbered from 0 in order."""

    def __init__(self) -> None:
        self._frames: dict[tuple[str, str], int] = {}
        self._stacks: dict[tuple[int, int], int] = {}
        self.new_frames: list[tuple[str, str]] = []  # not sent yet
        self.new_stacks: list[tuple[int, int]] = []

    def frame(self, function: str, file: str) -> int:
        """Return the number of this function in this file."""
        key = (function, file)
        number = self._frames.get(key)
        if number is None:
            number = self._frames[key] = len(self._frames)
            self.new_frames.append(key)
        return number

    def stack(self, frames: list[int]) -> int:
        """Return the number of the stack of these frames, outermost first; `ROOT` for none."""
        parent = ROOT
        for frame in frames:
            key = (parent, frame)
            number = self._stacks.get(key)
            if number is None:
                number = self._stacks[key] = len(self._stacks)
                self.new_stacks.append(key)
            parent = number
        return parent
