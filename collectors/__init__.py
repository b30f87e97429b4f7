"""The ground floor: the timeline's schemas, its recorder, clocks, captures and importers.

``from collectors import open_capture`` is the one door to a recorded timeline. It is imported on
first use, so that what needs only the errors (``cputax --help``) does not wait for pyarrow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collectors.capture import Capture, open_capture

__all__ = ["Capture", "open_capture"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from collectors import capture

    return getattr(capture, name)
