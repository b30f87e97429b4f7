"""The arithmetic of standing in line: requests before a resource that serves one at a time.

A tokenizer thread, an event loop, an engine that takes prompts one after another: each takes
requests in the order in which they came. From measured arrivals and measured service times their
waits can be replayed exactly, and with them what more servers would change. Two ways of letting
requests go:

* one by one: each leaves when its own service ends (vLLM 0.32: one thread of a pool);
* in batches: the server takes those that wait, up to a limit, works them one after another and lets
  all go together (vLLM up to 0.19: `AsyncMicrobatchTokenizer`, at most 32).

In a closed loop who is served sooner asks again sooner. There a request is given by the one before
it of the same user, and by how long after that one had left it came.

The *wait* of a request is the time until it leaves less its own service time: in batches it holds
the requests behind it in its batch too. The *sojourn* is both. Times are int64 ns on one clock, one
array element per request, in any order; requests that arrive at the same instant are served in the
order of the array. Nothing here knows which resource it is, nor reads anything.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from analyzers.intervals import Times, intervals

Rows = NDArray[np.intp]

NOBODY: Final = -1  # in `Demand.previous`
# `max_batch_size` of vLLM's AsyncMicrobatchTokenizer (vllm/utils/async_utils.py).
VLLM_BATCH_LIMIT: Final = 32
# `batch_wait_timeout_s` there: so long it waits for company once it has a prompt.
VLLM_GATHER_NS: Final = 2_000_000


def batch_mean_sojourn_ns(
    count: int, service_ns: float, batch_limit: int = VLLM_BATCH_LIMIT
) -> float:
    """Return the mean time until ``count`` requests that arrive together leave, in batches.

    Up to the limit B all leave after the whole work: N s. Beyond it the j-th full batch leaves
    after j B s, and the r that are left over after N s. With m full batches the mean over
    requests is (B B (1 + ... + m) + r N) s / N.
    """
    full, rest = divmod(count, batch_limit)
    summed = batch_limit**2 * full * (full + 1) / 2 + rest * count
    return summed / count * service_ns


@dataclass(frozen=True, slots=True)
class Serving:
    """How a resource serves its one line.

    Each of ``server_count`` servers takes up to ``batch_limit`` requests at a time and lets them go
    together; ``gather_ns`` is how long it waits for company after it has a first one, unless the
    batch is full before.

    Raises:
        ValueError: a count is less than one, or a time is negative.
    """

    server_count: int = 1
    batch_limit: int = 1
    gather_ns: int = 0

    def __post_init__(self) -> None:
        if self.server_count < 1 or self.batch_limit < 1 or self.gather_ns < 0:
            raise ValueError(f"{self} serves nobody")


ONE_BY_ONE: Final = Serving()
VLLM_BATCHES: Final = Serving(1, VLLM_BATCH_LIMIT, VLLM_GATHER_NS)


@dataclass(frozen=True, slots=True, eq=False)
class Demand:
    """Who comes when, and how long each is served.

    A request with a ``previous`` one (a row; `NOBODY`: none) comes ``away_ns`` after that one has
    left, whenever that is; its ``arrival_ns`` does not count.

    Raises:
        ValueError: the arrays differ in length, or a service time is negative.
    """

    arrival_ns: Times
    service_ns: Times
    previous: Rows
    away_ns: Times

    def __post_init__(self) -> None:
        lengths = {len(self.arrival_ns), len(self.service_ns), len(self.previous)}
        if lengths != {len(self.away_ns)}:
            raise ValueError("a request needs an arrival, a service time, a previous one, and away")
        if (self.service_ns < 0).any():
            raise ValueError("a service time is negative")

    def of(self, rows: Rows) -> Demand:
        """Return some requests of it; who came after one that is left out comes when it did."""
        previous = previous_among(rows, self.previous)
        return Demand(self.arrival_ns[rows], self.service_ns[rows], previous, self.away_ns[rows])

    def served_in(self, service_ns: Times) -> Demand:
        """Return it with other service times."""
        return Demand(self.arrival_ns, service_ns, self.previous, self.away_ns)


def previous_among(rows: Rows, previous: Rows) -> Rows:
    """Return who came before each of ``rows``, as places in ``rows``; `NOBODY` if not among them.

    ``previous`` is the row before each row, or `NOBODY`.
    """
    place = np.full(len(previous) + 1, NOBODY, np.intp)  # the last one is nobody's
    place[rows] = np.arange(len(rows))
    return place[previous[rows]]


@dataclass(frozen=True, slots=True, eq=False)
class Replay:
    """When each request came, was begun and was let go, ns; rows as given."""

    arrival_ns: Times
    service_ns: Times
    start_ns: Times
    leave_ns: Times

    @property
    def wait_ns(self) -> Times:
        """What each request stood in line: its time until it left, less its own service."""
        return self.leave_ns - self.arrival_ns - self.service_ns

    @property
    def sojourn_ns(self) -> Times:
        """How long each request was there."""
        return self.leave_ns - self.arrival_ns


def replay(demand: Demand, serving: Serving = ONE_BY_ONE) -> Replay:
    """Return what happens to each request: the next in line takes the server that is free first.

    With servers that take one at a time this is the recursion of Kiefer and Wolfowitz (1955, On
    the theory of queues with many servers), the servers' free times kept as a heap. Batches are
    taken as `AsyncMicrobatchTokenizer._batch_encode_loop` does with one server: a first prompt is
    taken, more are waited for, all are encoded, all are answered, and only then the next is taken.

    Requests are begun in the order of their arrival, and who comes after another comes when that
    one is gone: so all that can have come before the next is begun is known by then.
    """
    played = np.zeros((3, len(demand.arrival_ns)), np.int64)
    arrivals, starts, leaves = played
    services, away = demand.service_ns.tolist(), demand.away_ns.tolist()
    following: dict[int, list[int]] = defaultdict(list)
    for row, before in enumerate(demand.previous.tolist()):
        following[before].append(row)
    coming = [(int(demand.arrival_ns[row]), row) for row in following[NOBODY]]
    heapq.heapify(coming)
    free = [min(coming)[0] if coming else 0] * serving.server_count
    while coming:
        taken_at = max(free[0], coming[0][0])
        begin = taken_at + serving.gather_ns
        batch: list[int] = []
        while coming and coming[0][0] <= begin and len(batch) < serving.batch_limit:
            arrived, row = heapq.heappop(coming)
            arrivals[row] = arrived
            batch.append(row)
            if len(batch) == serving.batch_limit:  # one that is full waits no longer
                begin = max(taken_at, arrived)
        done = begin
        for row in batch:
            starts[row] = done
            done += services[row]
        leaves[batch] = done
        heapq.heapreplace(free, done)
        for row in batch:
            for after in following.get(row, ()):
                heapq.heappush(coming, (done + away[after], after))
    return Replay(arrivals, demand.service_ns, starts, leaves)


@dataclass(frozen=True, slots=True)
class Convoys:
    """The stretches in which at least one request was there, without a pause in between."""

    count: int
    longest_ns: int
    most_request_count: int  # in one convoy
    most_behind_count: int  # stood in line at one instant, behind those being served


def convoys(played: Replay) -> Convoys:
    """Return how long the convoys were, and how deep; a request of no duration makes none."""
    stretches = intervals(played.arrival_ns, played.leave_ns)
    if not len(stretches):
        return Convoys(0, 0, 0, 0)
    is_there = played.sojourn_ns > 0
    of_request = np.searchsorted(stretches.start, played.arrival_ns[is_there], side="right") - 1
    # The line is longest just after an arrival: those that have come less those that were begun.
    arrivals, starts = np.sort(played.arrival_ns), np.sort(played.start_ns)
    come = np.searchsorted(arrivals, arrivals, side="right")
    begun = np.searchsorted(starts, arrivals, side="right")
    return Convoys(
        count=len(stretches),
        longest_ns=int(stretches.lengths().max()),
        most_request_count=int(np.bincount(of_request).max()),
        most_behind_count=int((come - begun).max()),
    )
