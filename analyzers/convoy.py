"""The arithmetic of standing in line: requests before a resource that serves one at a time.

A tokenizer thread, an event loop, a scheduler step, the GIL: each takes requests in the order in
which they came. From measured arrivals and measured service times their waits can be replayed
exactly, and with them what more servers would change. Two ways of letting requests go:

* ``fifo``: each leaves when its own service ends (vLLM 0.32: one thread of a pool);
* ``batch``: the server takes those that wait, up to a limit, works them one after another and lets
  all go together (vLLM up to 0.19: `AsyncMicrobatchTokenizer`, at most 32).

The *wait* of a request is the time until it leaves less its own service time: with ``batch`` it
holds the requests behind it in its batch too. The *sojourn* is both. Times are int64 ns on one
clock, one array element per request, in any order; requests that arrive at the same instant are
served in the order of the array. Nothing here knows which resource it is, nor reads anything.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np

from analyzers.intervals import Times, intervals

Discipline = Literal["fifo", "batch"]
Lever = Literal["api_servers", "tokenizer_workers", "prefix_reuse"]
# `max_batch_size` of vLLM's AsyncMicrobatchTokenizer (vllm/utils/async_utils.py).
VLLM_BATCH_LIMIT: Final = 32
# `batch_wait_timeout_s` there: so long it waits for company once it has a prompt.
VLLM_GATHER_NS: Final = 2_000_000


def fifo_mean_wait_ns(count: int, service_ns: float) -> float:
    """Return the mean wait of ``count`` requests that arrive together and leave one by one.

    The k-th of N stands behind k - 1 others, so it waits (k - 1) s; the mean over k = 1..N of
    (k - 1) s is (N - 1) / 2 s.
    """
    return (count - 1) / 2 * service_ns


def fifo_mean_sojourn_ns(count: int, service_ns: float) -> float:
    """Return their mean time until they leave: the wait and the own service, (N + 1) / 2 s."""
    return fifo_mean_wait_ns(count, service_ns) + service_ns


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


@dataclass(frozen=True, slots=True, eq=False)
class Replay:
    """When each request's own service began and when it was let go, ns; rows as given."""

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


def replay(
    arrival_ns: Times,
    service_ns: Times,
    servers: int = 1,
    discipline: Discipline = "fifo",
    batch_limit: int = VLLM_BATCH_LIMIT,
    gather_ns: int = 0,
) -> Replay:
    """Return what happens to each request with ``servers`` equal servers behind one line.

    ``batch_limit`` and ``gather_ns`` are for ``batch`` only: how many a server takes at most, and
    how long it waits for company after it has a first one, unless the batch is full before.
    Raises ValueError when the arrays differ in length, a service time is negative, a count is less
    than one, or the discipline is unknown.
    """
    if len(arrival_ns) != len(service_ns):
        raise ValueError(f"{len(arrival_ns)} arrivals but {len(service_ns)} service times")
    if (service_ns < 0).any():
        raise ValueError("a service time is negative")
    if servers < 1 or batch_limit < 1 or gather_ns < 0:
        raise ValueError(f"{servers=} {batch_limit=} must be at least 1, {gather_ns=} at least 0")
    if discipline not in get_args(Discipline):
        raise ValueError(f"{discipline=} is none of {get_args(Discipline)}")
    order = np.argsort(arrival_ns, kind="stable")
    arrivals, services = arrival_ns[order], service_ns[order]
    if discipline == "batch":
        starts, leaves = _batches(arrivals, services, servers, batch_limit, gather_ns)
    elif servers == 1:
        starts, leaves = _one_by_one(arrivals, services)
    else:
        starts, leaves = _by_several(arrivals, services, servers)
    start_ns, leave_ns = np.empty_like(starts), np.empty_like(leaves)
    start_ns[order], leave_ns[order] = starts, leaves
    return Replay(arrival_ns, service_ns, start_ns, leave_ns)


def predict_waits(
    arrival_ns: Times,
    service_ns: Times,
    servers: int = 1,
    discipline: Discipline = "fifo",
    batch_limit: int = VLLM_BATCH_LIMIT,
    gather_ns: int = 0,
) -> Times:
    """Return the wait of each request, ns: see `replay` and `Replay.wait_ns`."""
    return replay(arrival_ns, service_ns, servers, discipline, batch_limit, gather_ns).wait_ns


def _one_by_one(arrivals: Times, services: Times) -> tuple[Times, Times]:
    """Return starts and leaves at one server.

    Lindley's recursion (Lindley 1952, The theory of queues with a single server) unrolled: a
    request leaves at the summed work up to it, plus the largest of (arrival - work before it) so
    far, which is the server's first start and all its idle time since.
    """
    worked = np.cumsum(services)
    if not len(worked):
        return worked, worked
    leaves = worked + np.maximum.accumulate(arrivals - (worked - services))
    return leaves - services, leaves


def _by_several(arrivals: Times, services: Times, servers: int) -> tuple[Times, Times]:
    """Return starts and leaves at several servers: the next request takes the first free one.

    The recursion of Kiefer and Wolfowitz (1955, On the theory of queues with many servers), with
    the vector of the servers' free times kept as a heap.
    """
    starts = np.empty_like(arrivals)
    free = [int(arrivals.min(initial=0))] * servers
    for row, (arrival, service) in enumerate(
        zip(arrivals.tolist(), services.tolist(), strict=True)
    ):
        start = max(arrival, free[0])
        starts[row] = start
        heapq.heapreplace(free, start + service)
    return starts, starts + services


def _batches(
    arrivals: Times, services: Times, servers: int, limit: int, gather_ns: int
) -> tuple[Times, Times]:
    """Return starts and leaves where each server takes, and lets go, many at a time.

    What `AsyncMicrobatchTokenizer._batch_encode_loop` does with one server: a first prompt is
    taken, more are waited for, all are encoded, all are answered, and only then the next is taken.
    """
    starts, leaves = np.empty_like(arrivals), np.empty_like(arrivals)
    when = arrivals.tolist()
    free = [int(arrivals.min(initial=0))] * servers
    first = 0
    while first < len(when):
        taken_at = max(free[0], when[first])
        begin = taken_at + gather_ns
        if first + limit <= len(when):  # a batch that is full waits no longer
            begin = min(begin, max(taken_at, when[first + limit - 1]))
        last = bisect_right(when, begin, first, min(first + limit, len(when)))
        done = begin + np.cumsum(services[first:last])
        starts[first:last] = done - services[first:last]
        leaves[first:last] = done[-1]
        heapq.heapreplace(free, int(done[-1]))
        first = last
    return starts, leaves


def utilisation(arrival_ns: Times, service_ns: Times, servers: int = 1) -> float | None:
    """Return the share of the servers' time that is work: 0 to 1.

    From the first arrival until the last request leaves. None where that lasts no time.
    """
    if not len(arrival_ns):
        return None
    leave_ns = replay(arrival_ns, service_ns, servers).leave_ns
    lasted_ns = int(leave_ns.max() - arrival_ns.min())
    return float(service_ns.sum()) / (servers * lasted_ns) if lasted_ns else None


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


@dataclass(frozen=True, slots=True)
class Gain:
    """What a change is predicted to do to the same arrivals. Means over requests, ns.

    ``amount`` is the factor for servers, the hit ratio for prefix reuse.
    """

    name: Lever
    amount: float
    mean_wait_before_ns: float
    mean_wait_after_ns: float
    mean_sojourn_before_ns: float
    mean_sojourn_after_ns: float

    @property
    def saved_ns(self) -> float:
        """How much earlier the mean request leaves; negative when later."""
        return self.mean_sojourn_before_ns - self.mean_sojourn_after_ns


def what_if(
    arrival_ns: Times,
    service_ns: Times,
    servers: int = 1,
    discipline: Discipline = "fifo",
    batch_limit: int = VLLM_BATCH_LIMIT,
    gather_ns: int = 0,
    *,
    factors: Sequence[int] = (2, 4),
    hit_ratio: float | None = None,
) -> list[Gain]:
    """Return what would lift the line, each change alone; nothing for no requests.

    * ``api_servers``: ``factor`` times the resource, each with its own line, and the requests dealt
      to them in turn as they come (the kernel deals connections at random: then it is less);
    * ``tokenizer_workers``: ``factor`` times the servers behind the one line; where they take
      batches, the first takes all of a burst up to the limit, and the others gain it nothing;
    * ``prefix_reuse``: a service time of 1 - ``hit_ratio``; left out while that ratio is unknown.
      An engine's prefix cache is no such reuse: vLLM tokenizes a cached prefix again.

    All take service times as they were measured: with more servers than free CPUs, or with work
    that holds the GIL, they grow and the gain is less.
    """
    if not len(arrival_ns):
        return []

    def play(arrivals: Times, services: Times, count: int = servers) -> Replay:
        return replay(arrivals, services, count, discipline, batch_limit, gather_ns)

    before = play(arrival_ns, service_ns)
    gains = []
    for factor in factors:
        turn = np.empty(len(arrival_ns), np.int64)
        turn[np.argsort(arrival_ns, kind="stable")] = np.arange(len(arrival_ns)) % factor
        dealt = [play(arrival_ns[turn == one], service_ns[turn == one]) for one in range(factor)]
        gains.append(_gain("api_servers", factor, before, dealt))
    for factor in factors:
        shared = play(arrival_ns, service_ns, servers * factor)
        gains.append(_gain("tokenizer_workers", factor, before, [shared]))
    if hit_ratio is not None:
        left_ns = np.rint(service_ns * (1 - hit_ratio)).astype(np.int64)
        gains.append(_gain("prefix_reuse", hit_ratio, before, [play(arrival_ns, left_ns)]))
    return gains


def _gain(name: Lever, amount: float, before: Replay, after: Sequence[Replay]) -> Gain:
    return Gain(
        name,
        amount,
        float(before.wait_ns.mean()),
        float(np.concatenate([one.wait_ns for one in after]).mean()),
        float(before.sojourn_ns.mean()),
        float(np.concatenate([one.sojourn_ns for one in after]).mean()),
    )
