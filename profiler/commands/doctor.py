"""``cputax doctor``: what works here, what does not, and the remedy to paste."""

from __future__ import annotations

import json

import click

from collectors.errors import ExitCode
from probes.base import Level
from probes.target import find_target
from profiler.doctor import DOCKER, KUBERNETES, check_host, check_target
from profiler.options import Pid
from profiler.probe_set import make_probes
from profiler.render.console import console, safe

_COLOURS = {Level.WORKS: "green", Level.DEGRADED: "yellow", Level.UNAVAILABLE: "red"}


@click.command(epilog="Example: cputax doctor $(pgrep -f 'vllm serve' | head -1)")
@click.argument("pid", type=Pid(), required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(pid: int | None, as_json: bool) -> int:
    """Say what works on this machine and, with PID, on that server.

    Exit code 4 when something is unavailable, with its remedy.
    """
    checks = check_host()
    if pid is not None:
        target = find_target(pid)
        checks += check_target(target, make_probes(target))
    is_blocked = any(check.level is Level.UNAVAILABLE for check in checks)
    if as_json:
        document = {"schema_version": 1, "checks": [check.to_json() for check in checks]}
        click.echo(json.dumps(document, indent=1))
        return ExitCode.PERMISSION if is_blocked else ExitCode.DONE
    out = console()
    for check in checks:
        colour = _COLOURS[check.level]
        out.print(f"[{colour}]{check.level:<12}[/]{check.name:<22}{safe(check.found)}")
        if check.remedy:
            out.print(f"{'':34}try: {safe(check.remedy)}")
    if any(check.level is not Level.WORKS for check in checks):
        out.print("\n[bold]In Docker[/]", DOCKER, sep="\n", markup=True)
        out.print("\n[bold]In Kubernetes[/]")
        out.print(KUBERNETES, markup=False)
    return ExitCode.PERMISSION if is_blocked else ExitCode.DONE
