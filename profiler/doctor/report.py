"""Prints what the doctor found, for people and as JSON (docs/doctor.md)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from probes.base import Level
from probes.target import Target
from profiler.doctor.check import Diagnosis, Outcome, Severity
from profiler.doctor.evidence import Evidence, Missing
from profiler.doctor.permissions import CONTAINER_NEEDS, DOCKER, KUBERNETES, Permission
from profiler.render.console import safe

SCHEMA_VERSION: Final = 2

_SEVERITY_COLOURS: Final = {
    Severity.CRITICAL: "bold red",
    Severity.WARNING: "yellow",
    Severity.INFO: "cyan",
}
_LEVEL_COLOURS: Final = {
    Level.WORKS: "green",
    Level.DEGRADED: "yellow",
    Level.UNAVAILABLE: "red",
    Level.NOT_APPLICABLE: "dim",
}
_LACKING: Final = frozenset({Level.DEGRADED, Level.UNAVAILABLE})
_QUIET: Final = {
    Outcome.FINE: "fine",
    Outcome.NOT_APPLICABLE: "not applicable",
    Outcome.UNKNOWN: "unknown",
}


def to_json(
    target: Target | None,
    evidence: Evidence | None,
    diagnoses: Sequence[Diagnosis],
    permissions: Sequence[Permission],
    failed: Sequence[Diagnosis],
) -> dict[str, Any]:
    """Return the whole report; ``failed`` are the diagnoses that broke the gate."""
    server = None
    if target is not None:
        version = evidence.version if evidence else None
        server = {
            "pid": target.root_pid,
            "kind": target.kind,
            "model": target.model,
            "version": None if isinstance(version, Missing) else version,
        }
    return {
        "schema_version": SCHEMA_VERSION,
        "server": server,
        "checks": [diagnosis.to_json() for diagnosis in diagnoses],
        "failed": [diagnosis.check.slug for diagnosis in failed],
        "permissions": [permission.to_json() for permission in permissions],
    }


def print_server(out: Console, target: Target, evidence: Evidence) -> None:
    """Print which server it is about."""
    version = evidence.version
    said = "version unknown" if isinstance(version, Missing) else version
    count = len(evidence.processes)
    name = f"{target.kind} {said}, model {target.model or 'unknown'}, PID {target.root_pid}"
    out.print(f"{safe(name)}: {count} processes, looked at for {evidence.looked_s:.1f} s\n")


def print_diagnoses(out: Console, diagnoses: Sequence[Diagnosis], *, is_all: bool) -> None:
    """Print what fired, worst first, then the others in one line, or one by one."""
    for diagnosis in diagnoses:
        if diagnosis.has_fired():
            _print_fired(out, diagnosis)
    quiet = [one for one in diagnoses if not one.has_fired()]
    counts = Counter(one.answer.outcome for one in quiet)
    fired = len(diagnoses) - len(quiet)
    parts = [f"{fired} fired", *(f"{counts[one]} {said}" for one, said in _QUIET.items())]
    hint = "" if is_all else " (--all lists them)"
    out.print(f"{len(diagnoses)} checks: {', '.join(parts)}{hint}")
    if is_all:
        out.print()
        out.print(_quiet_table(quiet))


def print_permissions(out: Console, permissions: Sequence[Permission], *, is_all: bool) -> None:
    """Print what cputax lacks here, or all that it looked at, and what to paste."""
    lacking = [one for one in permissions if one.level in _LACKING]
    shown = permissions if is_all else lacking
    counts = Counter(one.level for one in permissions)
    parts = [f"{level} {counts[level]}" for level in Level if counts[level]]
    out.print(f"\n[bold]What cputax can see here[/]: {', '.join(parts)}")
    table = _grid(14, 24)
    for one in shown:
        colour = _LEVEL_COLOURS[one.level]
        remedy = f"\ntry: {safe(one.remedy)}" if one.remedy else ""
        table.add_row(f"[{colour}]{one.level}[/]", safe(one.name), safe(one.found) + remedy)
    if shown:
        out.print(table)
    if any(one.name in CONTAINER_NEEDS for one in lacking):
        for place, lines in (("Docker", DOCKER), ("Kubernetes", KUBERNETES)):
            out.print(f"\n[bold]In {place}[/]")
            out.print(lines, markup=False)


def _print_fired(out: Console, diagnosis: Diagnosis) -> None:
    colour = _SEVERITY_COLOURS[diagnosis.severity]
    label, check = diagnosis.severity.label, diagnosis.check
    out.print(f"[{colour}]{label:<9}[/][bold]{safe(check.title)}[/] [dim]\\[{check.slug}][/]")
    table = _grid(7, 4)
    table.add_row("", "[dim]seen[/]", _lines(diagnosis.answer.evidence))
    table.add_row("", "[dim]why[/]", safe(check.why))
    table.add_row("", "[dim]fix[/]", _lines(diagnosis.fix.splitlines()))
    out.print(table)
    out.print()


def _quiet_table(diagnoses: Sequence[Diagnosis]) -> Table:
    table = _grid(14, 20)
    for outcome, said in _QUIET.items():
        for one in diagnoses:
            if one.answer.outcome is outcome:
                remedy = f"\ntry: {safe(one.answer.remedy)}" if one.answer.remedy else ""
                found = _lines(one.answer.evidence) + remedy
                table.add_row(f"[dim]{said}[/]", safe(one.check.slug), found)
    return table


def _grid(*widths: int) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for width in widths:
        table.add_column(min_width=width, no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _lines(texts: Sequence[str]) -> str:
    return "\n".join(safe(text) for text in texts)
