"""Cut a request's wall time at the boundaries that were seen. Arithmetic only: no capture, no I/O.

A *chain* is the order in which a request passes its boundaries; a *part* lies between two that
follow one another. Parts are half-open, do not overlap and are exact (integer ns). A part is known
only when both of its boundaries were seen; the time of the others is unattributed, and is never
given a name because nothing else claims it. So parts and unattributed add up to the wall time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from analyzers.intervals import Times

# A boundary that was not seen, a part that is not known. CLOCK_MONOTONIC is never negative.
UNKNOWN: Final = -1
UNATTRIBUTED: Final = "unattributed"


@dataclass(frozen=True, slots=True)
class Chain:
    """Boundaries in the order in which they pass, and the names of the parts between them."""

    boundaries: tuple[str, ...]
    parts: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.boundaries) != len(self.parts) + 1:
            raise ValueError(f"{len(self.boundaries)} boundaries bound {len(self.parts)} parts")


# What the client does on its own, before and after the server.
_SENDING: Final = ("due", "begun", "built", "serialised", "connected")
_SENDING_PARTS: Final = ("lag", "build", "serialise", "connect")
# Both sides were seen. The first token's way out and the decoding after it overlap in the server;
# on the request's own wall clock the client has nothing until the first token is there.
BOTH: Final = Chain(
    (*_SENDING, "arrived", "queued", "scheduled", "engine_first", "first", "engine_last",
     "finished", "done", "parsed"),
    (*_SENDING_PARTS, "wire", "frontend", "queue", "prefill", "first_output", "decode",
     "detokenize", "sse", "parse"),
)  # fmt: skip
# Only the client was seen: its boundaries cut the server's time in other places.
CLIENT: Final = Chain(
    (*_SENDING, "sent", "headers", "first", "last", "done", "parsed"),
    (*_SENDING_PARTS, "send", "to_headers", "to_first_token", "stream", "end", "parse"),
)
# Only the server was seen.
SERVER: Final = Chain(
    ("arrived", "queued", "scheduled", "engine_first", "engine_last", "finished"),
    ("frontend", "queue", "prefill", "decode", "detokenize"),
)


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """Requests cut along a chain; ns, one row per request."""

    instants: Times  # [request, boundary], clamped into order; UNKNOWN where not seen
    parts: Times  # [request, part]; UNKNOWN where not known
    wall: Times  # from the first boundary seen to the last
    unattributed: Times
    disorder: Times  # by how much the boundaries were out of order, at most, before clamping


def cut(instants: Times) -> Cut:
    """Cut requests at their boundaries.

    Args:
        instants: [request, boundary] in ns, in the chain's order; `UNKNOWN` where not seen.

    A boundary that stands before one that must precede it is moved up to that one, and nothing
    leaves the wall time: two clocks that differ by microseconds make no negative part. By how much
    that was is told in ``disorder``.
    """
    is_seen = instants != UNKNOWN
    rows = np.arange(len(instants))
    width = instants.shape[1]
    first = is_seen.argmax(axis=1)
    last = width - 1 - is_seen[:, ::-1].argmax(axis=1)
    start = instants[rows, first]
    end = np.maximum(instants[rows, last], start)
    inside = np.clip(np.where(is_seen, instants, start[:, None]), start[:, None], end[:, None])
    ordered = np.maximum.accumulate(inside, axis=1)
    is_known = is_seen[:, :-1] & is_seen[:, 1:]
    parts = np.where(is_known, np.diff(ordered, axis=1), UNKNOWN)
    wall = end - start
    named = np.where(is_known, parts, 0).sum(axis=1)
    moved = np.where(is_seen, np.abs(ordered - instants), 0)
    return Cut(
        instants=np.where(is_seen, ordered, UNKNOWN),
        parts=parts,
        wall=wall,
        unattributed=wall - named,
        disorder=moved.max(axis=1, initial=0),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Waterfalls:
    """Requests and their parts by name; ns, UNKNOWN where not known; one element per request.

    For every request its known parts and ``unattributed`` add up to ``wall``.
    """

    parts: dict[str, Times]
    wall: Times
    unattributed: Times

    def of(self, rows: NDArray[np.intp]) -> Waterfalls:
        """Return those of some requests."""
        chosen = {name: values[rows] for name, values in self.parts.items()}
        return Waterfalls(chosen, self.wall[rows], self.unattributed[rows])

    def split(self, name: str, pieces: dict[str, Times]) -> Waterfalls:
        """Return them with a part replaced by its pieces, for the requests that have pieces.

        ``pieces`` are UNKNOWN, all of them, where a request keeps the part whole. What they leave
        of the part becomes unattributed.

        Raises:
            ValueError: the pieces of a request are longer than the part.
        """
        values = np.stack(list(pieces.values()))
        whole = self.parts[name]
        is_split = (values != UNKNOWN).all(axis=0) & (whole != UNKNOWN)
        left = np.where(is_split, whole - values.sum(axis=0), 0)
        if (left < 0).any():
            raise ValueError(f"the pieces of {name} are longer than it is")
        parts: dict[str, Times] = {}
        for part, lasted in self.parts.items():
            if part == name:
                parts |= {
                    piece: np.where(is_split, row, UNKNOWN)
                    for piece, row in zip(pieces, values, strict=True)
                }
                lasted = np.where(is_split, UNKNOWN, lasted)
            parts[part] = lasted
        return Waterfalls(parts, self.wall, self.unattributed + left)


def waterfalls(chain: Chain, made: Cut) -> Waterfalls:
    """Return a cut along ``chain`` with its parts by name."""
    named = dict(zip(chain.parts, made.parts.T, strict=True))
    return Waterfalls(named, made.wall, made.unattributed)


def stack(chain: Chain, instants: dict[str, Times], rows: Sequence[int] | Times) -> Times:
    """Return the chain's boundaries of some requests as [request, boundary]."""
    return np.stack([instants[name][rows] for name in chain.boundaries], axis=1)


def earlier(a: Times, b: Times) -> Times:
    """Return the earlier of two instants, or the one that was seen."""
    return np.where((a != UNKNOWN) & ((a < b) | (b == UNKNOWN)), a, b)
