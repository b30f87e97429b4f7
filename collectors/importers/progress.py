"""Progress in a part, as progress in the whole."""

from __future__ import annotations

from collectors.importers.source import Progress


def part(on_progress: Progress | None, number: int, count: int) -> Progress:
    """Return what reports the progress in the part ``number`` of ``count`` equal ones."""
    if on_progress is None:
        return lambda ratio: None
    return lambda ratio: on_progress((number + ratio) / count)
