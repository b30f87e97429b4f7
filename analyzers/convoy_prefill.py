"""What requests did in the engine up to their first token, by the server's own stamps."""

from __future__ import annotations

import numpy as np

from analyzers.convoy import ONE_BY_ONE, Rows
from analyzers.convoy_visits import Resource, Unseen, Visits, divide, find_there, span_ns
from analyzers.intervals import intervals
from analyzers.request_parts import measure_requests
from analyzers.timeline import Timeline
from analyzers.waterfall import UNKNOWN


def prefill_visits(timeline: Timeline, rows: Rows) -> Visits | Unseen:
    """Return what these requests did in the engine up to their first token."""
    measured = timeline.once(measure_requests).rows
    at = measured.instants
    is_whole = measured.seen("queued", "scheduled", "engine_first")
    there = find_there(at["queued"], np.where(is_whole, at["engine_first"], UNKNOWN), rows)
    if there is None:
        return Unseen(Resource.PREFILL, "the server's own stamps were not seen")
    queued, scheduled, first = (at[name][there] for name in ("queued", "scheduled", "engine_first"))
    work_ns = intervals(scheduled, first).total()
    return Visits(
        Resource.PREFILL,
        [],
        ONE_BY_ONE,
        there,
        queued,
        first,
        divide(work_ns, measured.prompt_tokens[there]),
        np.maximum(scheduled - queued, 0),
        "the server's stamps: queued to scheduled",
        work_ns / span_ns(queued, first),
    )
