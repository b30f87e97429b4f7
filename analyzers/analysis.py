"""All analyzers over one capture: the document that reports are made of."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from analyzers import (
    convoys,
    cpu_report,
    gil,
    numa,
    quality,
    requests,
    scheduling,
    server,
    tokenizer,
)
from analyzers.base import Analyzer, apply
from analyzers.cpu_report import process_rows
from analyzers.findings import Finding, ranked
from analyzers.gpu import report, split
from analyzers.sched import hardware, host_load
from analyzers.sched import report as sched
from analyzers.timeline import Timeline
from collectors.capture import Capture

SCHEMA_VERSION: Final = 1
ANALYZERS: Final[tuple[Analyzer, ...]] = (
    requests.ANALYZER,
    convoys.ANALYZER,
    tokenizer.ANALYZER,
    split.ANALYZER,
    report.ANALYZER,
    server.ANALYZER,
    gil.ANALYZER,
    scheduling.ANALYZER,
    sched.ANALYZER,
    sched.DEMAND,
    host_load.ANALYZER,
    numa.ANALYZER,
    hardware.ANALYZER,
    cpu_report.ANALYZER,
    quality.ANALYZER,
)
# What stands in the document when an analyzer abstains: no rows, or nothing known.
_EMPTY: Final[dict[str, Any]] = {
    "stages": [],
    "threads": [],
    "coverage": [],
    "gil": [],
    "gil_processes": [],
    "run_queue": [],
    "run_queue_roles": [],
    "switches": None,
    "sched_threads": [],
    "sched_roles": [],
    "sched_stages": [],
    "preemptions": None,
    "occupants": [],
    "yields": [],
    "gil_cpu": [],
    "cpu_demand": None,
    "wait_series": None,
    "host": None,
    "quotas": [],
    "residency": [],
    "numa": [],
    "cpu_counters": [],
    "tokenizer": None,
    "gpu": [],
    "gpu_split": None,
    "server": None,
    "requests": None,
    "convoys": [],
    "gaps": [],
    "overhead": {},
}


@dataclass(frozen=True, slots=True)
class Analysis:
    """What a capture says: ``sections`` of rows by name, and the findings, most important first."""

    capture: Capture
    processes: list[dict[str, Any]]
    sections: dict[str, Any]
    findings: list[Finding]

    def to_json(self) -> dict[str, Any]:
        """Return the documented JSON object: plain dicts, lists, strings and numbers; no NaN."""
        manifest = self.capture.manifest
        target = manifest.target
        return {
            "schema_version": SCHEMA_VERSION,
            "capture": {
                "path": str(self.capture.path),
                "cputax_version": manifest.cputax_version,
                "duration_seconds": (self.capture.end_ns - self.capture.start_ns) / 1e9,
                "is_partial": self.capture.is_partial,
                "is_recovered": self.capture.is_recovered,
                "stop_reason": manifest.stop_reason,
                "clock": manifest.clock,
                "sources": manifest.sources,
            },
            "target": {
                "kind": target.kind,
                "root_pid": target.root_pid,
                "version": target.version,
                "model": target.model,
                "processes": self.processes,
            },
            "probes": [asdict(record) for record in manifest.probes],
            **self.sections,
            "findings": [finding.to_json() for finding in self.findings],
        }


def analyze(capture: Capture) -> Analysis:
    """Run all analyzers over a capture; what cannot be answered abstains among the findings."""
    timeline = Timeline(capture)
    sections = dict(_EMPTY)
    findings: list[Finding] = []
    for analyzer in ANALYZERS:
        outcome = apply(analyzer, timeline)
        sections |= outcome.sections
        findings += outcome.findings
    return Analysis(capture, process_rows(timeline), sections, ranked(findings))
