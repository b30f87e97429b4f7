"""What requests did at the API server's event loop, before the frontend took them up."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import numpy as np

from analyzers.convoy import ONE_BY_ONE, Rows
from analyzers.convoy_visits import Resource, Unseen, Visits, find_there, not_before, span_ns
from analyzers.intervals import clip, difference, intersection, intervals
from analyzers.request_parts import measure_requests
from analyzers.stages import IDLE, shown
from analyzers.timeline import Thread, Timeline, runs_by_thread
from analyzers.tokenizer_cost import API_SERVER

HTTP: Final = ("http_parse", "validation")  # stages of the event loop before the frontend


def event_loop_visits(timeline: Timeline, rows: Rows) -> Visits | Unseen:
    """Return what these requests did at the API server's event loop before the frontend."""
    loops = [
        timeline.threads[track]
        for track in timeline.once(runs_by_thread)
        if timeline.threads[track].process.role == API_SERVER
        and timeline.threads[track].tid == timeline.threads[track].process.pid
    ]
    if len(loops) != 1:
        reason = "several API servers: which of them took a request was not seen"
        return Unseen(Resource.EVENT_LOOP, reason if loops else "its stacks were not seen")
    at = timeline.once(measure_requests).rows.instants
    came = not_before(at["sent"], at["arrived"])
    there = find_there(at["sent"], came, rows)
    if there is None:
        return Unseen(Resource.EVENT_LOOP, "sending and arrival were not both seen")
    arrived, left = at["sent"][there], came[there]
    http_ratio, busy_ratio = _loop_shares(timeline, loops[0], int(arrived.min()), int(left.max()))
    lasted_ns = span_ns(arrived, left)
    # All other work is in between: of each second only the rest is left for these requests.
    own_ns = http_ratio * lasted_ns / len(there)
    slowed_ns = own_ns / max(1 - (busy_ratio - http_ratio), own_ns / lasted_ns)
    service = np.full(len(there), round(slowed_ns), np.int64)
    return Visits(
        Resource.EVENT_LOOP,
        loops,
        ONE_BY_ONE,
        there,
        arrived,
        left,
        service,
        np.maximum(left - arrived - service, 0),
        "at most: from sending it to its arrival in the frontend, less its own service; the wire, "
        "and waiting for a CPU or the GIL, are in it",
        busy_ratio,
    )


def _loop_shares(
    timeline: Timeline, thread: Thread, start_ns: int, end_ns: int
) -> tuple[float, float]:
    """Return which share of the time the loop read requests, and in which it did anything."""
    runs = timeline.once(runs_by_thread)[thread.track]
    shown_at_all = clip(intervals(runs.start, runs.end), start_ns, end_ns)
    seen = difference(shown_at_all, timeline.unseen(thread.process))
    if not len(seen):
        return 0.0, 0.0

    def share(stages: Collection[str]) -> float:
        return intersection(shown(timeline, thread, stages), seen).total() / seen.total()

    return share(HTTP), 1 - share({IDLE})
