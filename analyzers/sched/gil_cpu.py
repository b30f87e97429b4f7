"""What the GIL cost for want of a CPU, in rows and findings: see `analyzers.sched.gil_stalls`."""

from __future__ import annotations

from typing import Any, Final

from analyzers.findings import Finding, Quantity, Rank
from analyzers.sched.gil_stalls import Stalls, measure_stalls
from analyzers.timeline import Timeline

# Of the time. Below it the stalls are those of any busy machine.
NOTABLE_RATIO: Final = 0.02


def rows(timeline: Timeline) -> list[dict[str, Any]]:
    """Return the rows of the document."""
    return [_row(one) for one in timeline.once(measure_stalls)]


def _row(one: Stalls) -> dict[str, Any]:
    return {
        "pid": one.process.pid,
        "role": one.process.role,
        "window_seconds": one.window_ns / 1e9,
        "held_seconds": one.held_ns / 1e9,
        "waited_seconds": None if one.waited_ns is None else one.waited_ns / 1e9,
        "without_cpu_seconds": one.without_cpu_ns / 1e9,
        "without_cpu_low_seconds": one.without_cpu_low_ns / 1e9,
        "without_cpu_high_seconds": one.without_cpu_high_ns / 1e9,
        "without_cpu_ratio": one.without_cpu_ns / one.window_ns,
        "stalled_waiter_seconds": None if one.stalled_ns is None else one.stalled_ns / 1e9,
        "yielded_holding_seconds": one.yielded_ns / 1e9,
        "blocked_holding_seconds": one.blocked_ns / 1e9,
        "gap_count": one.gap_count,
        "threads": [
            {"tid": tid, "seconds": ns / 1e9}
            for tid, ns in sorted(one.by_thread.items(), key=lambda item: -item[1])
        ],
        "stages": [
            {"stage": stage, "seconds": ns / 1e9}
            for stage, ns in sorted(one.by_stage.items(), key=lambda item: -item[1])
        ],
    }


def findings(timeline: Timeline) -> list[Finding]:
    """Return a claim for each process whose GIL's holder notably had no CPU."""
    return [
        _finding(one)
        for one in timeline.once(measure_stalls)
        if min(one.without_cpu_ns, _stalled(one)) >= NOTABLE_RATIO * one.window_ns
    ]


def _stalled(one: Stalls) -> float:
    """Return what it cost others; where waiters are not known, as much as if one had waited."""
    return one.without_cpu_ns if one.stalled_ns is None else one.stalled_ns


def _finding(one: Stalls) -> Finding:
    ratio = one.without_cpu_ns / one.window_ns
    row = _row(one)
    where = f", mostly in {row['stages'][0]['stage']}" if row["stages"] else ""
    waits = ""
    if one.stalled_ns is not None and one.waited_ns:
        waits = (
            f"; of the {one.waited_ns / 1e9:.2f} s that threads waited for the GIL "
            f"{one.stalled_ns / 1e9:.2f} s were for a holder that could not run"
        )
    return Finding(
        "gil-without-cpu",
        f"In the {one.process.role} (PID {one.process.pid}) the thread that held the GIL had no "
        f"CPU for {one.without_cpu_ns / 1e9:.2f} s ({ratio:.0%} of the time){where}{waits}.",
        Rank.HOST_WAIT,
        Quantity(
            ratio, "ratio", one.without_cpu_low_ns / one.window_ns,
            min(1.0, one.without_cpu_high_ns / one.window_ns),
        ),
        row,
        (
            "a gap counts as the holder's when a look at the GIL fell into it and says so; of "
            "others the share is estimated by those",
            "the stage of a holder comes from another sampler, whose clock is some ms apart",
        ),
        cost_seconds=max(one.without_cpu_ns, one.stalled_ns or 0.0) / 1e9,
        remedy="give the server more CPUs, or fewer threads that compete for those it has",
    )  # fmt: skip
