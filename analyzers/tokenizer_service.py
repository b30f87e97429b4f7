"""When the API server's tokenizer thread was at work, by its stacks; or why that cannot be told."""

from __future__ import annotations

from typing import Final

import numpy as np

from analyzers.intervals import Intervals, covered_before, intervals
from analyzers.stages import UNKNOWN, classify
from analyzers.timeline import STACK_PROBES, Runs, Thread, Timeline, runs_by_thread
from analyzers.tokenizer_cost import API_SERVER, DEFAULT_RATE_HZ, SERVICE, TOKENIZE
from analyzers.tokenizer_turns import Service

# A second thread with more than this share of the tokenizing is a second server of the line. The
# event loop's own frames around it (handing over, fetching results) are less.
OTHERS_RATIO: Final = 0.05
# vLLM's micro-batching tokenizer (up to 0.19) lets up to 32 prompts go together.
_BATCHING: Final = "AsyncMicrobatchTokenizer."
# What the thread does for microseconds between two prompts. A tick that hits it says nothing of the
# time until the next tick, least of all that the thread rests.
_BETWEEN: Final = frozenset({"dispatch", UNKNOWN})


def find_service(timeline: Timeline) -> Service | str:
    """Return the one tokenizer thread's work, or the reason why turns cannot be cut by it."""
    runs = {
        track: one
        for track, one in timeline.once(runs_by_thread).items()
        if timeline.threads[track].process.role == API_SERVER
    }
    if not runs:
        return "the capture holds no stacks of the API server"
    functions = timeline.capture.table("frames")["function"].to_pylist()
    if any(name.startswith(_BATCHING) for name in functions):
        return "this server's tokenizer lets the prompts of a batch go together: they have no turns"
    threads = [timeline.threads[track] for track in runs]
    tokenized = {
        one.track: _shown(timeline, one, runs[one.track], {TOKENIZE}).total() for one in threads
    }
    total = sum(tokenized.values())
    if not total:
        return "no thread of the API server was seen to tokenize"
    busiest = max(threads, key=lambda one: tokenized[one.track])
    if tokenized[busiest.track] < (1 - OTHERS_RATIO) * total:
        return "several threads tokenized at once: whose prompt each worked on cannot be told"
    own = runs[busiest.track]
    rate_hz = timeline.sampling_rate_hz(busiest.process) or DEFAULT_RATE_HZ
    return Service(
        busy=_filled(
            _shown(timeline, busiest, own, SERVICE), _shown(timeline, busiest, own, _BETWEEN)
        ),
        template=_shown(timeline, busiest, own, SERVICE - {TOKENIZE}),
        unseen=_unseen(timeline, busiest),
        tick_ns=round(1e9 / rate_hz),
    )


def _shown(
    timeline: Timeline, thread: Thread, runs: Runs, stages: frozenset[str] | set[str]
) -> Intervals:
    """Return when a thread's stacks were of these stages."""
    known = timeline.once(classify)
    codes = known.stage(thread.process.role, runs.stack)
    is_shown = np.isin(codes, [known.map.code(stage) for stage in stages])
    return intervals(runs.start[is_shown], runs.end[is_shown])


def _filled(busy: Intervals, between: Intervals) -> Intervals:
    """Return ``busy`` with the holes closed that ``between`` covers whole."""
    start, end = busy.end[:-1], busy.start[1:]
    is_covered = covered_before(between, end) - covered_before(between, start) == end - start
    return intervals(
        np.concatenate((busy.start, start[is_covered])), np.concatenate((busy.end, end[is_covered]))
    )


def _unseen(timeline: Timeline, thread: Thread) -> Intervals:
    tracks = (thread.process.track, None)
    gaps = [
        (row["start_ns"], row["end_ns"])
        for row in timeline.capture.table("gaps").to_pylist()
        if row["probe"] in STACK_PROBES and row["track"] in tracks
    ]
    start, end = np.array(gaps, np.int64).reshape(-1, 2).T
    return intervals(start, end)
