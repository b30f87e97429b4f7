"""Option types that several commands share."""

from __future__ import annotations

import re
from typing import Final

import click

_UNIT_SECONDS: Final = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")


class Duration(click.ParamType):  # type: ignore[type-arg]  # generic only in click 8.5
    """A time with its unit: ``500ms``, ``30s``, ``2m``, ``1m30s``; converts to seconds."""

    name = "duration"

    def convert(
        self, value: str | float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return seconds."""
        if isinstance(value, float):
            return value
        parts = _DURATION.findall(value)
        if not parts or "".join(number + unit for number, unit in parts) != value:
            self.fail(f"{value!r} is no duration: give a number with its unit, as 30s or 2m", param)
        seconds = sum(float(number) * _UNIT_SECONDS[unit] for number, unit in parts)
        if seconds <= 0:
            self.fail("a duration must be longer than nothing", param)
        return seconds


class Pid(click.ParamType):  # type: ignore[type-arg]
    """A process id."""

    name = "pid"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Return it as an int."""
        if isinstance(value, int):
            return value
        if not value.isdecimal() or not 0 < int(value) < 1 << 22:  # PID_MAX_LIMIT
            self.fail(f"{value!r} is no process id; cputax ps lists the servers here", param)
        return int(value)
