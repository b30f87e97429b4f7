"""What would lift a line: the same requests replayed with one thing changed at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from analyzers.convoy import NOBODY, ONE_BY_ONE, Demand, Replay, Rows, Serving, replay

Lever = Literal["api_servers", "engines", "tokenizer_workers", "prefix_reuse"]
FACTORS: Final = (2, 4)


@dataclass(frozen=True, slots=True)
class Gain:
    """What a change is predicted to do. Means over requests, ns.

    ``amount`` is how many there are then, or the share of the work that prefix reuse saves.
    """

    lever: Lever
    amount: float
    mean_wait_before_ns: float
    mean_wait_after_ns: float
    mean_sojourn_before_ns: float
    mean_sojourn_after_ns: float

    @property
    def saved_ns(self) -> float:
        """How much sooner after its arrival the mean request leaves; negative when later."""
        return self.mean_sojourn_before_ns - self.mean_sojourn_after_ns


def what_if(
    demand: Demand,
    serving: Serving = ONE_BY_ONE,
    *,
    copied_as: Lever = "api_servers",
    copies: Sequence[int] = FACTORS,
    workers: Sequence[int] = FACTORS,
    reuse_ratio: float | None = None,
) -> list[Gain]:
    """Return what each change alone would do; nothing for no requests.

    * ``copied_as`` API servers or engines: so many ``copies`` of the resource, each with its own
      line, and users dealt to them in turn as they come: a kept connection stays with the server
      that took it. (The kernel deals connections at random: then it is less.) A request that
      follows no other is a user;
    * ``tokenizer_workers``: so many times the servers behind the one line. Where they take
      batches, the first takes all of a burst up to the limit, and the others gain it nothing;
    * ``prefix_reuse``: service times of 1 - ``reuse_ratio``; left out while that ratio is unknown.

    All take the other service times as they were measured, and in a closed loop the time that
    requests spend elsewhere too: with more servers than free CPUs, with work that holds the GIL, or
    with an engine that gets its prompts faster than it can take them, the gain is less.
    """
    if not len(demand.arrival_ns):
        return []
    before = replay(demand, serving)
    gains = []
    for factor in copies:
        lane = _lanes(demand, factor)
        dealt = [replay(demand.of(np.flatnonzero(lane == one)), serving) for one in range(factor)]
        gains.append(_gain(copied_as, factor, before, dealt))
    for factor in workers:
        more = replace(serving, server_count=serving.server_count * factor)
        gains.append(_gain("tokenizer_workers", more.server_count, before, [replay(demand, more)]))
    if reuse_ratio is not None:
        left_ns = np.rint(demand.service_ns * (1 - reuse_ratio)).astype(np.int64)
        shorter = replay(demand.served_in(left_ns), serving)
        gains.append(_gain("prefix_reuse", reuse_ratio, before, [shorter]))
    return gains


def _lanes(demand: Demand, count: int) -> Rows:
    """Return which of ``count`` servers each request goes to: users in turn, as they first came."""
    users = np.flatnonzero(demand.previous == NOBODY)
    in_order = users[np.argsort(demand.arrival_ns[users], kind="stable")]
    lane = np.zeros(len(demand.arrival_ns), np.intp)
    lane[in_order] = np.arange(len(in_order)) % count
    first = np.where(demand.previous == NOBODY, np.arange(len(lane)), demand.previous)
    while (first[first] != first).any():  # each look doubles how far back it reaches
        first = first[first]
    return lane[first]


def _gain(lever: Lever, amount: float, before: Replay, after: Sequence[Replay]) -> Gain:
    return Gain(
        lever,
        amount,
        float(before.wait_ns.mean()),
        float(np.concatenate([one.wait_ns for one in after]).mean()),
        float(before.sojourn_ns.mean()),
        float(np.concatenate([one.sojourn_ns for one in after]).mean()),
    )
