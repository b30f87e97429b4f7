"""What requests did at the resources that serve them one at a time: came, were served, left.

Of each resource the service times are measured where it works, by its stacks or by the server's
stamps, and never from how long requests were there: so a wait that is replayed from them is a
prediction, and the wait that was measured can refute it. All work of a resource in the scenario's
time is divided among the requests that were there, by the tokens of their prompts.

| resource | comes | leaves | works |
|---|---|---|---|
| tokenizer thread | the frontend takes it up | the turn is over | its stacks |
| event loop | the client has sent it | the frontend takes it up | HTTP stages of its stacks |
| prefill | it is in the engine's queue | its first token | some request is in prefill |

At the event loop all other work is served between requests, and makes it so much slower. Prefill is
taken as if prompts went one after another, as they do where each fills the steps of the engine:
where several fit into one step that law does not hold, and the two waits differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from analyzers.convoy import Rows, Serving
from analyzers.intervals import Times
from analyzers.timeline import Thread
from analyzers.waterfall import UNKNOWN


class Resource(StrEnum):
    """What requests stand in line for."""

    TOKENIZER = "tokenizer"
    EVENT_LOOP = "event_loop"
    SCHEDULER_STEP = "scheduler_step"
    PREFILL = "prefill"
    GIL = "gil"


@dataclass(frozen=True, slots=True, eq=False)
class Visits:
    """Requests at one resource; one element each. Times in ns.

    ``waited_ns`` is as it was measured, `UNKNOWN` where it could not be, and ``waited_by`` is how.
    """

    resource: Resource
    threads: list[Thread]  # that serve; empty where no thread does
    serving: Serving
    rows: Rows  # in `RequestRows`
    arrived_ns: Times
    left_ns: Times
    service_ns: Times
    waited_ns: Times
    waited_by: str
    utilisation_ratio: float  # of the time from the first arrival until the last request left


@dataclass(frozen=True, slots=True)
class Unseen:
    """A resource at which nothing can be replayed, and why."""

    resource: Resource
    reason: str


def find_there(arrived: Times, left: Times, rows: Rows) -> Rows | None:
    """Return which requests of the capture were there while any of ``rows`` was; None: unknown.

    Those of ``rows`` that were not seen to come or to leave are left out.
    """
    is_seen = (arrived != UNKNOWN) & (left != UNKNOWN)
    own = rows[is_seen[rows]]
    if not len(own) or not span_ns(arrived[own], left[own]):
        return None
    start_ns, end_ns = arrived[own].min(), left[own].max()
    return np.flatnonzero(is_seen & (arrived < end_ns) & (left > start_ns))


def divide(work_ns: int, tokens: Times) -> Times:
    """Return each request's share of the work: by the tokens of its prompt, alike if not told."""
    if (tokens <= 0).any():
        tokens = np.ones(len(tokens), np.int64)
    shares: Times = np.rint(work_ns * (tokens / tokens.sum())).astype(np.int64)
    return shares


def not_before(earlier: Times, later: Times) -> Times:
    """Return ``later``, moved up to ``earlier`` where two clocks have them the wrong way round."""
    return np.where(later == UNKNOWN, UNKNOWN, np.maximum(earlier, later))


def span_ns(arrived: Times, left: Times) -> int:
    """Return from the first arrival until the last request left."""
    return int(left.max() - arrived.min())
