"""``cputax doctor``: the settings that cost silently, and what cputax itself may see here."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click

from collectors.errors import ExitCode
from probes.base import Level, Probe
from probes.rocprof.probe import has_amd_gpu
from probes.target import Target, find_target
from profiler.doctor.catalogue import diagnose
from profiler.doctor.check import Diagnosis, Severity
from profiler.doctor.permissions import NEEDED_BY_ATTACH, Permission, check_host, check_target
from profiler.doctor.reading import read_evidence
from profiler.doctor.report import print_diagnoses, print_permissions, print_server, to_json
from profiler.options import Pid
from profiler.probe_set import ALL_NAMES, PROBE_NAMES, Rocprof, make_probes
from profiler.render.console import console

NEVER = "never"


@click.command(epilog="Example: cputax doctor --fail-on warning $(pgrep -f 'vllm serve' | head -1)")
@click.argument("pid", type=Pid(), required=False)
@click.option("--all", "is_all", is_flag=True, help="List also what is fine, or cannot be told.")
@click.option(
    "--fail-on",
    type=click.Choice([one.label for one in reversed(Severity)] + [NEVER]),
    default=Severity.CRITICAL.label,
    show_default=True,
    help="Exit with 1 when a check of this severity, or a worse one, fires.",
)
@click.option("--metrics-url", help="Where the server listens, if it cannot be seen from here.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON (docs/doctor.md).")
def command(
    pid: int | None, is_all: bool, fail_on: str, metrics_url: str | None, as_json: bool
) -> int:
    """Find what costs a server silently, and say what cputax may see here.

    With PID it looks at a vLLM server from outside for a second: its settings, its processes and
    the machine. Each mistake comes with what was seen, why it costs, and the line that mends it.

    Exit code 1 when a check at or above --fail-on fires; else 4 when something that `cputax attach`
    uses by itself is unavailable here. Unknown is no failure. With --fail-on never it is 0.
    """
    permissions = check_host()
    target = None if pid is None else find_target(pid)
    evidence, diagnoses = None, []
    if target is not None:
        permissions += check_target(target, _probes(target, metrics_url))
        if target.kind == "vllm":
            evidence = read_evidence(target, metrics_url=metrics_url)
            diagnoses = diagnose(evidence)
    failed = _broken_gate(diagnoses, fail_on)
    if as_json:
        document = to_json(target, evidence, diagnoses, permissions, failed)
        click.echo(json.dumps(document, indent=1))
    else:
        out = console()
        if target is not None and evidence is not None:
            print_server(out, target, evidence)
            print_diagnoses(out, diagnoses, is_all=is_all)
        elif target is not None:
            out.print(f"PID {target.root_pid} is no vLLM server: its settings were not looked at")
        print_permissions(out, permissions, is_all=is_all or target is None)
    if fail_on == NEVER:
        return ExitCode.DONE
    if failed:
        return ExitCode.GATE_OR_PARTIAL
    return ExitCode.PERMISSION if _lacks_default(permissions) else ExitCode.DONE


def _probes(target: Target, metrics_url: str | None) -> list[Probe]:
    """Return all probes that may be of use on this machine."""
    rocprof = Rocprof() if has_amd_gpu() else None
    return make_probes(target, ALL_NAMES, metrics_url=metrics_url, rocprof=rocprof)


def _broken_gate(diagnoses: Sequence[Diagnosis], fail_on: str) -> list[Diagnosis]:
    """Return what fired at or above the level."""
    if fail_on == NEVER:
        return []
    least = Severity[fail_on.upper()]
    return [one for one in diagnoses if one.has_fired() and one.severity >= least]


def _lacks_default(permissions: Sequence[Permission]) -> bool:
    """Whether something that `cputax attach` uses by itself cannot work at all."""
    needed = {*NEEDED_BY_ATTACH, *(f"probe {name}" for name in PROBE_NAMES)}
    return any(one.level is Level.UNAVAILABLE and one.name in needed for one in permissions)
