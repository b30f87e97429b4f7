"""Who pushed whom off a CPU: how often, and how long the one pushed off then waited.

A thread that gave way by itself is none, though the kernel's own counters (involuntary switches)
count it as one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from analyzers.findings import Finding, Quantity, Rank
from analyzers.sched.actors import IDLE, OUTSIDER, THREAD, UNKNOWN, Actor, actors_by_track
from analyzers.sched.histories import read_histories
from analyzers.timeline import Timeline
from collectors.cpu_slices import PREEMPTED

SHOWN_COUNT: Final = 40
# A thread that lost less than this share of the time to others is on a machine in use.
NOTABLE_RATIO: Final = 0.05


@dataclass(frozen=True, slots=True)
class Preemption:
    """How often one thread (or several of one name) was pushed off by another."""

    victim: Actor
    by: Actor
    count: int
    lost_ns: int


def measure_preemptions(timeline: Timeline) -> list[Preemption]:
    """Return all pairs, the one that cost the most time first."""
    histories = timeline.once(read_histories)
    actors = timeline.once(actors_by_track)
    rows = np.flatnonzero(histories.why == PREEMPTED)
    by = histories.gave_to[rows].astype(np.int64)
    # One number for the pair; a track that was not seen is -1.
    width = int(by.max()) + 2 if len(by) else 1
    pair = histories.thread[rows].astype(np.int64) * width + by + 1
    found, place = np.unique(pair, return_inverse=True)
    counts = np.bincount(place, minlength=len(found))
    lost = np.bincount(place, (histories.start - histories.left)[rows], len(found))
    sums: dict[tuple[Actor, Actor], list[int]] = {}
    for key, count, lost_ns in zip(found.tolist(), counts.tolist(), lost.tolist(), strict=True):
        victim = actors[histories.threads[key // width]]
        pusher = actors.get(key % width - 1, Actor(UNKNOWN, UNKNOWN, "", None))
        cell = sums.setdefault((victim, pusher), [0, 0])
        cell[0] += count
        cell[1] += int(lost_ns)
    pairs = [Preemption(*pair, *cell) for pair, cell in sums.items()]
    return sorted(pairs, key=lambda one: -one.lost_ns)


def section(timeline: Timeline) -> dict[str, Any]:
    """Return the section of the document: sums, roles against roles, and the costliest pairs."""
    pairs = timeline.once(measure_preemptions)
    roles: dict[tuple[str, str], list[int]] = {}
    for one in pairs:
        cell = roles.setdefault((one.victim.role, one.by.role), [0, 0])
        cell[0] += one.count
        cell[1] += one.lost_ns
    return {
        "count": sum(one.count for one in pairs),
        "lost_seconds": sum(one.lost_ns for one in pairs) / 1e9,
        "roles": [
            {"role": role, "by_role": by, "count": count, "lost_seconds": lost_ns / 1e9}
            for (role, by), (count, lost_ns) in sorted(roles.items(), key=lambda item: -item[1][1])
        ],
        "pairs": [_row(one) for one in pairs[:SHOWN_COUNT]],
        "pair_count": len(pairs),
    }


def _row(one: Preemption) -> dict[str, Any]:
    return {
        "pid": one.victim.pid,
        "role": one.victim.role,
        "name": one.victim.name,
        "by": one.by.to_json(),
        "count": one.count,
        "lost_seconds": one.lost_ns / 1e9,
    }


def finding(timeline: Timeline) -> Finding | None:
    """Return the claim that threads lost notable time to others; None where none did."""
    pairs = timeline.once(measure_preemptions)
    window_ns = timeline.once(read_histories).window_ns
    lost_by: dict[Actor, int] = {}
    for one in pairs:
        lost_by[one.victim] = lost_by.get(one.victim, 0) + one.lost_ns
    if not lost_by or max(lost_by.values()) < NOTABLE_RATIO * window_ns:
        return None
    victim = max(lost_by, key=lambda one: lost_by[one])
    own = [one for one in pairs if one.victim == victim]
    count = sum(one.count for one in own)
    total_seconds = sum(lost_by.values()) / 1e9
    return Finding(
        "preemption",
        f"Threads were pushed off their CPU and lost {total_seconds:.2f} s by it; most of all "
        f"{victim.name} of the {victim.role} (PID {victim.pid}): {count} times, "
        f"{lost_by[victim] / 1e9:.2f} s, most of it {_pusher(own[0])}.",
        Rank.HOST_WAIT,
        Quantity(total_seconds, "s"),
        [_row(one) for one in pairs[:8]],
        ("it counts how long the thread waited until it ran again, whoever ran meanwhile",),
        cost_seconds=total_seconds,
    )


def _pusher(one: Preemption) -> str:
    if one.by.kind == THREAD:
        return f"to {one.by.name} of the {one.by.role} (PID {one.by.pid})"
    if one.by.kind == OUTSIDER:
        return f"to {one.by.name or 'a thread'}, which is no part of the server"
    if one.by.kind == IDLE:
        return "with nobody after it on the CPU, as when a CPU quota stops it"
    return "to somebody who was not seen"
