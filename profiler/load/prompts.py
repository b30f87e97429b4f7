"""Prompts made of the standard library's own source: long, varied, and on every machine."""

from __future__ import annotations

import random
import sysconfig
from functools import cache
from pathlib import Path
from typing import Final

_SLICE_CHARS: Final = 200


@cache
def stdlib_text(max_chars: int) -> str:
    """The first ``max_chars`` characters of the standard library's modules, in name order."""
    parts: list[str] = []
    char_count = 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text = path.read_text(encoding="utf-8", errors="replace")
        parts.append(text)
        char_count += len(text)
        if char_count >= max_chars:
            break
    return "".join(parts)[:max_chars]


def make_prompt(char_count: int, seed: str) -> str:
    """A prompt of ``char_count`` characters; another seed shares no prefix with it."""
    source = stdlib_text(2_000_000)
    chooser = random.Random(seed)
    last_start = len(source) - _SLICE_CHARS
    slices = [f"Task {seed}: summarise what this code does.\n"]
    for _ in range(char_count // _SLICE_CHARS + 1):
        start = chooser.randrange(last_start)
        slices.append(source[start : start + _SLICE_CHARS])
    return "".join(slices)[:char_count]
