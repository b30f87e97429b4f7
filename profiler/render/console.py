"""The terminal: one width, no colour when piped or under NO_COLOR, no tricks from the target."""

from __future__ import annotations

import sys
from typing import Final

from rich.console import Console
from rich.markup import escape

MAX_WIDTH: Final = 100


def console(*, to_stderr: bool = False) -> Console:
    """Return a console at most `MAX_WIDTH` wide."""
    out = Console(stderr=to_stderr, highlight=False, file=None if to_stderr else sys.stdout)
    if not out.is_terminal or out.width > MAX_WIDTH:
        out = Console(
            stderr=to_stderr, highlight=False, width=MAX_WIDTH,
            file=None if to_stderr else sys.stdout,
        )  # fmt: skip
    return out


def safe(text: str) -> str:
    """Return text that came from the target, without control characters and markup."""
    return escape("".join(char if char.isprintable() else "?" for char in text))
