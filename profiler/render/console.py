"""The terminal: one width, no colour when piped or under NO_COLOR, no tricks from the target."""

from __future__ import annotations

import sys
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

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


def plain_table(*headings: str) -> Table:
    """Return a plain table; a heading that begins with ``>`` is set to the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading in headings:
        is_right = heading.startswith(">")
        table.add_column(heading.lstrip(">"), justify="right" if is_right else "left")
    return table


def duration(value: float) -> str:
    """Return seconds as text, in the unit that fits."""
    if abs(value) >= 10:
        return f"{value:.1f} s"
    return f"{value:.2f} s" if abs(value) >= 1 else f"{value * 1e3:.3g} ms"


def percent(value: float | None) -> str:
    """Return a ratio in percent; ``?`` for what is not known."""
    return "?" if value is None else f"{value:.1%}"


def heading(out: Console, text: str, note: str = "") -> None:
    """Print the heading of a section, and what its figures are."""
    out.print(f"\n[bold]{text}[/]" + (f"  [dim]{note}[/]" if note else ""))
