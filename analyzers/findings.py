"""Findings: claims about a capture, each with its size, its evidence and its doubts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from typing import Any

Evidence = Mapping[str, Any] | Sequence[Mapping[str, Any]]


class Rank(IntEnum):
    """Which findings stand first; within one rank the larger `Finding.cost_seconds` does."""

    REQUEST_TIME = 0  # time that requests spent, summed over them
    HOST_WAIT = 1  # time that threads waited on the host
    DEVICE_TIME = 2  # where a GPU's time went
    QUALITY = 3  # what was not seen
    CPU_TIME = 4  # where CPU time went
    ABSTAINED = 5


@dataclass(frozen=True, slots=True)
class Quantity:
    """The size of a finding. ``low`` and ``high`` bound it where that could be estimated."""

    value: float
    unit: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """A claim, or with ``abstained`` the reason why none can be made.

    ``cost_seconds`` orders findings of one rank: seconds of requests or of threads, as the rank
    says, over the capture.
    """

    slug: str
    statement: str
    rank: Rank
    quantity: Quantity | None = None
    evidence: Evidence = field(default_factory=dict)
    caveats: tuple[str, ...] = ()
    cost_seconds: float = 0.0
    remedy: str | None = None

    @property
    def abstained(self) -> bool:
        """Whether nothing could be claimed; the statement then says why."""
        return self.rank is Rank.ABSTAINED

    def to_json(self) -> dict[str, Any]:
        """Return the finding as the documented JSON object."""
        return {
            "slug": self.slug,
            "statement": self.statement,
            "quantity": None if self.quantity is None else asdict(self.quantity),
            "evidence": self.evidence,
            "caveats": list(self.caveats),
            "abstained": self.abstained,
            "reason": self.statement if self.abstained else None,
            "remedy": self.remedy,
        }


def abstention(slug: str, reason: str, remedy: str | None = None) -> Finding:
    """Return the finding that says why nothing can be said, and what would make it computable."""
    return Finding(slug, reason, Rank.ABSTAINED, remedy=remedy)


def ranked(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings in the order in which a person should read them."""
    return sorted(findings, key=lambda one: (one.rank, -one.cost_seconds))
