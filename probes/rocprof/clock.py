"""AMD's GPU times, which are CLOCK_BOOTTIME, on the capture's clock.

BOOTTIME and MONOTONIC differ by the time that the machine slept; the difference is constant while
it is awake. How well the runtime turned the GPU's own counter into BOOTTIME is not known here, and
not part of the error.
"""

from __future__ import annotations

from dataclasses import dataclass

from collectors.clock import Anchor


@dataclass(frozen=True, slots=True)
class BoottimeOffset:
    """``monotonic_ns = boottime_ns + offset_ns``, good to ``error_ns``."""

    offset_ns: int
    error_ns: int
    has_slept: bool  # between the two readings: earlier times are off by that sleep


def boottime_offset(first: Anchor, last: Anchor) -> BoottimeOffset:
    """Return the offset as it was at ``first``, checked against a later reading."""
    offset_ns = first.monotonic_ns - first.boottime_ns
    change_ns = abs(last.monotonic_ns - last.boottime_ns - offset_ns)
    read_error_ns = first.uncertainty_ns + last.uncertainty_ns
    return BoottimeOffset(offset_ns, read_error_ns + change_ns, change_ns > read_error_ns)
