"""What an analyzer is: a name, the tables it needs, and a function from a timeline to an outcome.

Analyzers never print, plot, sleep or look outside the capture. One whose tables are empty is not
run: it abstains, and says which probe would have filled them and why that probe did not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from analyzers.findings import Finding, abstention
from analyzers.timeline import PROBES, Timeline


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an analyzer concluded: sections of the JSON document, and findings."""

    sections: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Analyzer:
    """``name`` is the slug under which it abstains."""

    name: str
    tables: tuple[str, ...]
    run: Callable[[Timeline], Outcome]


def apply(analyzer: Analyzer, timeline: Timeline) -> Outcome:
    """Run the analyzer, or abstain for it when a table it needs holds nothing."""
    for table in analyzer.tables:
        if timeline.capture.table(table).num_rows == 0:
            return Outcome(findings=[missing(analyzer.name, table, timeline)])
    return analyzer.run(timeline)


def missing(slug: str, table: str, timeline: Timeline) -> Finding:
    """Return the abstention for an empty table: which probe it is of, and what stopped it."""
    probes = PROBES[table]
    for record in timeline.capture.manifest.probes:
        if record.name in probes and record.reason:
            reason = f"the {record.name} probe was {record.level}: {record.reason}"
            return abstention(slug, f"not computable: {reason}", record.remedy)
    return abstention(
        slug,
        f"not computable: the capture holds no {table}, which the {probes[0]} probe records",
        _REMEDIES.get(probes[0], f"record again with --probe {probes[0]}"),
    )


_REMEDIES: Final = {
    "otlp": "record again with --otlp (docs/otlp.md)",
    "rocprof": "record GPU kernels, with --rocprof or --torch-profiler 2s (docs/gpu.md)",
}
