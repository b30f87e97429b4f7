"""What holds at each instant, as step functions of time, and intervals cut and labelled by them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from analyzers.intervals import Times

NOTHING: Final = -1  # the label of time of which nothing is known

Labels = NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """``label[i]`` holds in ``[edge[i], edge[i + 1])``; outside of the edges `NOTHING` does."""

    edge: Times
    label: Labels

    def where(self, is_wanted: NDArray[np.bool_]) -> tuple[Times, Times]:
        """Return starts and ends of the steps whose label is wanted; the mask is by label."""
        chosen = (self.label != NOTHING) & is_wanted[self.label]
        return self.edge[:-1][chosen], self.edge[1:][chosen]

    def with_labels(self, label_of: Labels) -> Steps:
        """Return the same steps with other labels; ``label_of`` is by label."""
        if not len(self.label):
            return self
        changed = np.where(self.label == NOTHING, NOTHING, label_of[self.label])
        return Steps(self.edge, changed.astype(np.int32))


def distinct(times: Times) -> Times:
    """Return the times in order, each once; `np.unique` hashes, which takes ten times as long."""
    ordered = np.sort(times)
    is_new = np.ones(len(ordered), np.bool_)
    is_new[1:] = ordered[1:] > ordered[:-1]
    return ordered[is_new]


def no_steps() -> Steps:
    """Return the function that knows nothing."""
    return Steps(np.empty(0, np.int64), np.empty(0, np.int32))


def steps_of(start: Times, end: Times, label: Labels) -> Steps:
    """Return the function that has these labels in these disjoint intervals, in any order.

    Intervals without length vanish.
    """
    keep = np.flatnonzero(end > start)
    if not len(keep):
        return no_steps()
    order = keep[np.argsort(start[keep], kind="stable")]
    edge = np.stack((start[order], end[order]), axis=1).ravel()
    labels = np.full(len(edge) - 1, NOTHING, np.int32)
    labels[::2] = label[order]
    # Where two intervals touch, the hole between them is empty.
    is_real = edge[1:] > edge[:-1]
    return Steps(np.concatenate((edge[:-1][is_real], edge[-1:])), labels[is_real])


@dataclass(frozen=True, slots=True, eq=False)
class Pieces:
    """Disjoint intervals, each a piece of one of ``owner``'s; in no order."""

    start: Times
    end: Times
    owner: NDArray[np.int64]
    label: Labels

    def __len__(self) -> int:
        return len(self.start)

    def where(self, rows: NDArray[np.bool_]) -> Pieces:
        """Return some of them."""
        return Pieces(self.start[rows], self.end[rows], self.owner[rows], self.label[rows])


def unlabelled(start: Times, end: Times, owner: NDArray[np.int64]) -> Pieces:
    """Return intervals of which nothing is known yet."""
    return Pieces(start, end, owner, np.full(len(start), NOTHING, np.int32))


def joined(parts: list[Pieces]) -> Pieces:
    """Return all pieces of several lists."""
    return Pieces(
        np.concatenate([one.start for one in parts]),
        np.concatenate([one.end for one in parts]),
        np.concatenate([one.owner for one in parts]),
        np.concatenate([one.label for one in parts]),
    )


def label_open(pieces: Pieces, steps: Steps) -> Pieces:
    """Return the pieces with the unlabelled ones cut at the steps and given their labels."""
    is_open = pieces.label == NOTHING
    if not len(steps.label) or not is_open.any():
        return pieces
    return joined([pieces.where(~is_open), cut(pieces.where(is_open), steps)])


def cut(pieces: Pieces, steps: Steps) -> Pieces:
    """Return the pieces cut at every step and labelled by it; nothing is lost or counted twice."""
    if not len(steps.label) or not len(pieces):
        return Pieces(
            pieces.start, pieces.end, pieces.owner, np.full(len(pieces), NOTHING, np.int32)
        )
    edge = steps.edge
    first = np.searchsorted(edge, pieces.start, side="right")  # the first edge inside a piece
    count = np.searchsorted(edge, pieces.end, side="left") - first + 1
    source = np.repeat(np.arange(len(pieces)), count)
    # The step that each part lies in: that before the first edge inside, then one after the other.
    begun = np.cumsum(count) - count
    step = np.arange(len(source)) - np.repeat(begun - first, count) - 1
    start = np.maximum(pieces.start[source], edge[np.maximum(step, 0)])
    start = np.where(step < 0, pieces.start[source], start)
    last = len(edge) - 1
    end = np.where(
        step >= last,
        pieces.end[source],
        np.minimum(pieces.end[source], edge[np.minimum(step + 1, last)]),
    )
    is_inside = (step >= 0) & (step < last)
    label = np.where(is_inside, steps.label[np.clip(step, 0, last - 1)], NOTHING)
    return Pieces(start, end, pieces.owner[source], label.astype(np.int32))
