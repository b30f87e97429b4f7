"""What other tools would say of the same GPU, where they count otherwise than we do.

TraceLens (0.1.0) counts what is linked to a call of the CPU, and ROCm's copy kernels as copies. HTA
(0.6.1) counts what is linked too, rounds starts up and ends down to whole microseconds unless
HTA_DISABLE_NS_ROUNDING=1, and mostly leaves out the last step of a profile.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from analyzers.gpu.busy import Category, DeviceTime, Rows, device_time, union_ns
from analyzers.gpu.launches import Launches
from analyzers.gpu.work import Work
from analyzers.intervals import Times
from collectors.slices import ANNOTATION, NONE

# What ROCm copies with when it does not use a copy engine.
COPY_KERNEL: Final = re.compile("__amd_rocclr_copyBuffer")
_STEP: Final = "ProfilerStep#"
_US: Final = 1_000
# Smaller differences are rounding.
NOTABLE_RATIO: Final = 1e-3


def other_definitions(
    work: Work, rows: Rows, launches: Launches, ours: DeviceTime
) -> list[dict[str, Any]]:
    """Return the figures of tools that would differ from ours on this GPU, and why."""
    return [*_tracelens(work, rows, launches, ours), *_hta(work, rows, launches)]


def sentence(others: list[dict[str, Any]], ours: DeviceTime) -> str | None:
    """Return what a user has to know who compares; None where nothing differs notably."""
    own = {
        "busy_ns": ours.busy_ns,
        "idle_ns": ours.idle_ns,
        "compute_ns": ours.compute_ns,
        "memcpy_ns": ours.memcpy_ns,
    }
    said = [
        f"{one['tool']} would say busy {one['busy_ns'] / 1e6:.3f} ms and idle "
        f"{one['idle_ns'] / 1e6:.3f} ms ({one['why']})"
        for one in others
        if any(
            one[key] is not None and abs(one[key] - value) > NOTABLE_RATIO * max(value, 1)
            for key, value in own.items()
        )
    ]
    return "; ".join(said) or None


def _tracelens(
    work: Work, rows: Rows, launches: Launches, ours: DeviceTime
) -> Iterator[dict[str, Any]]:
    is_linked = launches.call != NONE
    is_copy = np.array([COPY_KERNEL.search(text) is not None for _, text in work.names])
    categories = np.where(
        is_copy & (work.categories == Category.KERNEL), np.int8(Category.MEMCPY), work.categories
    )
    has_copies = bool((categories != work.categories)[work.slices.name[rows]].any())
    if not is_linked.any() or (is_linked.all() and not has_copies):
        return
    reasons = []
    if not is_linked.all():
        reasons.append(
            f"it counts only what is linked to a call on the CPU, {is_linked.mean():.1%} here"
        )
    if has_copies:
        reasons.append("it counts __amd_rocclr_copyBuffer kernels as copies")
    theirs = device_time(work.slices, rows[is_linked], categories, ours.track)
    yield {
        "tool": "TraceLens",
        "why": ", and ".join(reasons),
        "span_ns": theirs.span_ns,
        "busy_ns": theirs.busy_ns,
        "idle_ns": theirs.idle_ns,
        "compute_ns": theirs.compute_ns,
        "communication_ns": theirs.communication_ns,
        "memcpy_ns": theirs.memcpy_ns,
    }


def _hta(work: Work, rows: Rows, launches: Launches) -> Iterator[dict[str, Any]]:
    slices = work.slices
    start = slices.time_ns[rows]
    end = start + slices.duration_ns[rows]
    is_linked = launches.call != NONE
    reasons = []
    if (start % _US).any() or (end % _US).any():
        reasons.append("it rounds starts up and ends down to whole microseconds")
        start, end = -(-start // _US) * _US, end // _US * _US
    if is_linked.any() and not is_linked.all():
        reasons.append("it counts only what is linked to a call on the CPU")
    keep = end > start
    if is_linked.any():
        keep &= is_linked
    if reasons and keep.any():
        yield _rounded("HTA", "; ".join(reasons), start[keep], end[keep])
    steps = _steps(work)
    if len(steps) > 1 and is_linked.any():
        keep &= slices.time_ns[launches.call] < steps[-1]
        if keep.any():
            reasons.append("of a profile of several steps it mostly leaves out the last")
            why = "; ".join(reasons)
            yield _rounded("HTA without the last step", why, start[keep], end[keep])


def _steps(work: Work) -> Times:
    """Return when the host began each step of a profile, in order."""
    is_step = np.array([kind == ANNOTATION and text.startswith(_STEP) for kind, text in work.names])
    if not is_step.any():
        return np.empty(0, np.int64)
    rows = np.flatnonzero(is_step[work.slices.name])
    _, first = np.unique(work.slices.name[rows], return_index=True)
    return np.sort(work.slices.time_ns[rows[first]])


def _rounded(tool: str, why: str, start: Times, end: Times) -> dict[str, Any]:
    busy_ns = union_ns(start, end)
    span_ns = int(end.max() - start[0])
    return {
        "tool": tool,
        "why": why,
        "span_ns": span_ns,
        "busy_ns": busy_ns,
        "idle_ns": span_ns - busy_ns,
        "compute_ns": None,
        "communication_ns": None,
        "memcpy_ns": None,
    }
