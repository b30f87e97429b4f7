"""What requests did at the tokenizer: one thread, or several behind one line."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from analyzers.convoy import ONE_BY_ONE, VLLM_BATCHES, Rows, Serving
from analyzers.convoy_visits import (
    Resource,
    Unseen,
    Visits,
    divide,
    find_there,
    not_before,
    span_ns,
)
from analyzers.intervals import Intervals, Times, difference, intersection, intervals, joined
from analyzers.request_parts import MeasuredRequests, measure_requests
from analyzers.stages import shown
from analyzers.timeline import Thread, Timeline
from analyzers.tokenizer_cost import DEFAULT_RATE_HZ, SERVICE, is_batched
from analyzers.tokenizer_service import OTHERS_RATIO, find_tokenizers
from analyzers.tokenizer_turns import LATE_NS
from analyzers.waterfall import UNKNOWN, earlier


def tokenizer_visits(timeline: Timeline, rows: Rows) -> Visits | Unseen:
    """Return what these requests, and those that met them, did at the tokenizer."""
    work = _find_work(timeline)
    if isinstance(work, str):
        return Unseen(Resource.TOKENIZER, work)
    measured = timeline.once(measure_requests)
    at = measured.rows.instants
    is_from_server = bool((at["arrived"][rows] != UNKNOWN).all())
    arrived = at["arrived" if is_from_server else "sent"]
    hand_over, waited = _turns(measured)
    # The end of the turn is what the stacks say; where they say nothing it was not after these.
    let_go = not_before(arrived, earlier(at["headers"], at["queued"]))
    left = np.where(hand_over == UNKNOWN, let_go, at["queued"] - hand_over)
    there = find_there(arrived, left, rows)
    if there is None:
        return Unseen(Resource.TOKENIZER, "when its requests came and left was not seen")
    busy = work.seen_in(intervals(arrived[there], let_go[there]))
    if not busy:
        return Unseen(Resource.TOKENIZER, "it was not seen to work while they were there")
    service = divide(busy, measured.rows.prompt_tokens[there])
    is_cut = waited[there] != UNKNOWN
    way = np.maximum(left[there] - arrived[there] - service, 0)
    return Visits(
        Resource.TOKENIZER,
        work.threads,
        work.serving,
        there,
        arrived[there],
        left[there],
        service,
        waited[there] if is_cut.any() else way,
        "stacks: the work between its arrival and its own turn"
        if is_cut.any()
        else f"from {'its arrival' if is_from_server else 'sending it'} to the response headers, "
        "less its own service",
        busy / len(work.threads) / span_ns(arrived[there], left[there]),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """When the threads behind the one line worked; ``unseen`` is when nobody looked."""

    threads: list[Thread]
    busy: list[Intervals]  # of each
    unseen: Intervals
    serving: Serving

    def seen_in(self, there: Intervals) -> int:
        """Return how long they worked, added up, while anybody was there, in ns.

        Time in which nobody looked is taken as the rest.
        """
        seen = difference(there, self.unseen)
        busy_ns = sum(intersection(one, seen).total() for one in self.busy)
        return round(busy_ns * there.total() / seen.total()) if len(seen) else 0


def _find_work(timeline: Timeline) -> _Work | str:
    """Return the work of the threads that tokenize, or why it cannot be replayed."""
    shares = find_tokenizers(timeline)
    if isinstance(shares, str):
        return shares
    # What shows in the event loop is how prompts are handed to the others, if there are others.
    pool = [
        one
        for one, share_ratio in shares
        if one.tid != one.process.pid and share_ratio >= OTHERS_RATIO
    ] or [max(shares, key=lambda one: one[1])[0]]
    if len({one.process.track for one in pool}) > 1:
        return "several API servers tokenized: which of them took a request was not seen"
    process = pool[0].process
    slack_ns = round(1e9 / (timeline.sampling_rate_hz(process) or DEFAULT_RATE_HZ)) + LATE_NS
    busy = []
    for one in pool:
        work = shown(timeline, one, SERVICE)
        # As for its turns: between two prompts that wait a thread does not rest.
        busy.append(joined(work.start, work.end, within_ns=slack_ns))
    batches = is_batched(timeline)
    serving = replace(VLLM_BATCHES if batches else ONE_BY_ONE, server_count=len(pool))
    return _Work(pool, busy, timeline.unseen(process), serving)


def _turns(measured: MeasuredRequests) -> tuple[Times, Times]:
    """Return each request's way from its turn to the engine, and its wait before; or UNKNOWN."""
    found = np.full((2, len(measured.rows.request)), UNKNOWN, np.int64)
    for group in measured.groups:
        for place, part in enumerate(("hand_over", "tokenize_wait")):
            if part in group.falls.parts:
                found[place, group.rows] = group.falls.parts[part]
    return found[0], found[1]
