"""What a check is: text for people, and one small function from evidence to an answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any

from profiler.doctor.evidence import CannotTell, Evidence


class Severity(IntEnum):
    """How much a mistake costs; they compare."""

    INFO = 1  # a few percent, or a choice to know about
    WARNING = 2  # tens of percent, or under load only
    CRITICAL = 3  # the server does a multiple of the work, or stands still

    @property
    def label(self) -> str:
        """The word on the command line and in JSON."""
        return self.name.lower()


class Outcome(StrEnum):
    """What became of a check."""

    FIRES = "fires"
    FINE = "fine"
    NOT_APPLICABLE = "not_applicable"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a check made of the evidence; ``evidence`` says what was seen, one fact a line.

    ``fix`` and ``severity`` stand for the check's own where the evidence tells more exactly;
    ``remedy`` says how an unknown could be known.
    """

    outcome: Outcome
    evidence: tuple[str, ...]
    fix: str | None = None
    severity: Severity | None = None
    remedy: str | None = None


def fires(*evidence: str, fix: str | None = None, severity: Severity | None = None) -> Answer:
    """Answer that the mistake is there."""
    return Answer(Outcome.FIRES, evidence, fix, severity)


def fine(*evidence: str) -> Answer:
    """Answer that it was looked for and is not there."""
    return Answer(Outcome.FINE, evidence)


def not_applicable(*evidence: str) -> Answer:
    """Answer that it cannot cost anything on this server."""
    return Answer(Outcome.NOT_APPLICABLE, evidence)


@dataclass(frozen=True, slots=True)
class Check:
    """One silent killer."""

    slug: str
    title: str  # the mistake, as a statement
    severity: Severity
    reads: str  # where the evidence comes from
    fires_when: str
    why: str  # what it costs, with a figure and its source where there is one
    fix: str  # to paste
    ask: Callable[[Evidence], Answer]

    def run(self, evidence: Evidence) -> Diagnosis:
        """Ask; what the evidence does not hold makes the answer unknown."""
        try:
            return Diagnosis(self, self.ask(evidence))
        except CannotTell as unknown:
            return Diagnosis(
                self, Answer(Outcome.UNKNOWN, (unknown.reason,), remedy=unknown.remedy)
            )


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A check and its answer."""

    check: Check
    answer: Answer

    @property
    def severity(self) -> Severity:
        """The answer's severity, else the check's."""
        return self.answer.severity or self.check.severity

    @property
    def fix(self) -> str:
        """The answer's fix, else the check's."""
        return self.answer.fix or self.check.fix

    def has_fired(self) -> bool:
        """Whether the mistake is there."""
        return self.answer.outcome is Outcome.FIRES

    def to_json(self) -> dict[str, Any]:
        """Return the diagnosis as a JSON object; ``why`` and ``fix`` only for what fired."""
        document: dict[str, Any] = {
            "slug": self.check.slug,
            "title": self.check.title,
            "severity": self.severity.label,
            "outcome": self.answer.outcome.value,
            "evidence": list(self.answer.evidence),
        }
        if self.has_fired():
            document |= {"why": self.check.why, "fix": self.fix}
        if self.answer.remedy:
            document["remedy"] = self.answer.remedy
        return document
