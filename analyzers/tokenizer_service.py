"""When the API server's tokenizer thread was at work, by its stacks; or why that cannot be told."""

from __future__ import annotations

from typing import Final

import numpy as np

from analyzers.gil_holds import find_holds
from analyzers.intervals import Intervals, covered_before, intervals
from analyzers.stages import UNKNOWN, shown
from analyzers.timeline import Thread, Timeline, runs_by_thread
from analyzers.tokenizer_cost import (
    API_SERVER,
    DEFAULT_RATE_HZ,
    SERVICE,
    TOKENIZE,
    is_batched,
)
from analyzers.tokenizer_turns import Service

# A second thread with more than this share of the tokenizing is a second server of the line. The
# event loop's own frames around it (handing over, fetching results) are less.
OTHERS_RATIO: Final = 0.05
# What the thread does for microseconds between two prompts. A tick that hits it says nothing of the
# time until the next tick, least of all that the thread rests.
_BETWEEN: Final = frozenset({"dispatch", UNKNOWN})


def find_service(timeline: Timeline) -> Service | str:
    """Return the one tokenizer thread's work, or the reason why turns cannot be cut by it."""
    if is_batched(timeline):
        return "this server's tokenizer lets the prompts of a batch go together: they have no turns"
    shares = find_tokenizers(timeline)
    if isinstance(shares, str):
        return shares
    busiest, share_ratio = max(shares, key=lambda one: one[1])
    if share_ratio < 1 - OTHERS_RATIO:
        return "several threads tokenized at once: whose prompt each worked on cannot be told"
    rate_hz = timeline.sampling_rate_hz(busiest.process) or DEFAULT_RATE_HZ
    template = shown(timeline, busiest, SERVICE - {TOKENIZE})
    between = shown(timeline, busiest, _BETWEEN)
    return Service(
        busy=_filled(shown(timeline, busiest, SERVICE), between),
        template=template,
        unseen=timeline.unseen(busiest.process),
        tick_ns=round(1e9 / rate_hz),
        between=np.sort(np.concatenate((between.start, template.start))),
        holds=find_holds(timeline, busiest),
    )


def find_tokenizers(timeline: Timeline) -> list[tuple[Thread, float]] | str:
    """Return the API servers' threads with each one's share of the tokenizing, by their stacks.

    Or the reason why there are none.
    """
    sampled = [timeline.threads[track] for track in timeline.once(runs_by_thread)]
    threads = [thread for thread in sampled if thread.process.role == API_SERVER]
    if not threads:
        return "the capture holds no stacks of the API server"
    tokenized = [shown(timeline, one, {TOKENIZE}).total() for one in threads]
    total = sum(tokenized)
    if not total:
        return "no thread of the API server was seen to tokenize"
    return [(one, spent / total) for one, spent in zip(threads, tokenized, strict=True)]


def _filled(busy: Intervals, between: Intervals) -> Intervals:
    """Return ``busy`` with the holes closed that ``between`` covers whole."""
    start, end = busy.end[:-1], busy.start[1:]
    is_covered = covered_before(between, end) - covered_before(between, start) == end - start
    return intervals(
        np.concatenate((busy.start, start[is_covered])), np.concatenate((busy.end, end[is_covered]))
    )
