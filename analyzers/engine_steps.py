"""By how much the server's spans place a request's engine time too late: from shared steps.

A span tells how long a request was in the engine by the engine's clock, but *when* only by the
instants at which the frontend received its first and its last output. Those are late by the
output's way: serialising, the socket, and a frontend that is busy or waits for a CPU.

The engine sends one message for each step, with one stamp for all outputs in it, and the frontend
stamps each message once when it takes it up (vLLM 0.19 and 0.32: ``EngineCoreOutputs.timestamp``,
and the ``IterationStats`` made for each message in ``AsyncLLM._run_output_handler``). So outputs
that were received at the same instant left the engine at the same instant. A request ties the step
of its first output to that of its last by its decode time, which is exact; requests that share
steps tie those into chains. In a chain all of the engine's instants are known but for one shift,
and the output that came through fastest tells it best: the shift by which no output, near in time,
was received before it was made.

What remains is the way of the fastest output itself. A request that shares no step has only its
own two outputs for that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from analyzers.intervals import Times
from analyzers.waterfall import UNKNOWN

# Instants of one message differ by what wall time as a float of seconds is rounded to (0.24 us) and
# by how well two readings of the clocks agree (1 us); two messages are a turn of a loop apart.
SAME_NS: Final = 10_000
# Outputs so near in time tell of one another: roundings add up along a chain, and the wall clock,
# which the instants come from, may have been set.
NEAR_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True, eq=False)
class EngineTimes:
    """Requests, one element each; ns, `UNKNOWN` where not told.

    ``first`` and ``last`` are when the frontend received those outputs, ``decode`` is how far they
    were apart in the engine, ``queued`` is counted back from whichever came through faster.
    """

    arrived: Times
    queued: Times
    first: Times
    last: Times
    decode: Times


def measure_lateness(times: EngineTimes) -> Times:
    """Return for each request how much earlier than told it was in the engine, ns, at least.

    Zero where nothing is known. A chain by which somebody was queued before arriving is torn: two
    messages were taken for one. All of its requests keep what was told.
    """
    late = np.zeros(len(times.first), np.int64)
    is_told = (times.first != UNKNOWN) & (times.last != UNKNOWN) & (times.decode != UNKNOWN)
    rows = np.flatnonzero(is_told)
    if not len(rows):
        return late
    received = np.concatenate((times.first[rows], times.last[rows]))
    step = _steps(received)
    chain, made = _chains(step, times.decode[rows])
    delay = received - made  # but for the chain's shift
    own = np.minimum(*np.split(delay, 2))
    chain = chain[: len(rows)]
    late[rows] = own - np.minimum(_least_near(np.tile(chain, 2), received, delay)[: len(rows)], own)
    is_queued = times.queued[rows] != UNKNOWN
    is_torn = is_queued & (times.queued[rows] - late[rows] < times.arrived[rows])
    late[rows[np.isin(chain, chain[is_torn])]] = 0
    return late


def _steps(received: Times) -> Times:
    """Return the number of the message that each output came in."""
    order = np.argsort(received, kind="stable")
    step = np.empty(len(received), np.int64)
    step[order] = np.cumsum(np.diff(received[order], prepend=received[order[0]]) > SAME_NS)
    return step


def _chains(step: Times, decode: Times) -> tuple[Times, Times]:
    """Return each output's chain, and when the engine made it, on the chain's own clock."""
    ties: list[list[tuple[int, int]]] = [[] for _ in range(int(step.max()) + 1)]
    first, last = np.split(step, 2)
    for one, other, length in zip(first.tolist(), last.tolist(), decode.tolist(), strict=True):
        ties[one].append((other, length))
        ties[other].append((one, -length))
    chain = np.full(len(ties), UNKNOWN, np.int64)
    made = np.zeros(len(ties), np.int64)
    for start in range(len(ties)):
        if chain[start] != UNKNOWN:
            continue
        chain[start] = start
        waiting = [start]
        while waiting:
            here = waiting.pop()
            for there, length in ties[here]:
                if chain[there] == UNKNOWN:
                    chain[there] = start
                    made[there] = made[here] + length
                    waiting.append(there)
    return chain[step], made[step]


def _least_near(chain: Times, received: Times, delay: Times) -> Times:
    """Return the least delay in the same chain within `NEAR_NS`, or up to twice that, of each."""
    span = received // NEAR_NS
    places, place = np.unique(np.stack((chain, span)), axis=1, return_inverse=True)
    place = place.reshape(-1)
    least = np.full(places.shape[1], np.iinfo(np.int64).max)
    np.minimum.at(least, place, delay)
    near = least.copy()
    # Sorted by chain, then by time: the spans beside one are the elements beside it.
    is_beside = (np.diff(places[0]) == 0) & (np.diff(places[1]) == 1)
    near[1:] = np.where(is_beside, np.minimum(near[1:], least[:-1]), near[1:])
    near[:-1] = np.where(is_beside, np.minimum(near[:-1], least[1:]), near[:-1])
    return near[place]
