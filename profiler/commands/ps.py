"""``cputax ps``: the inference servers on this machine."""

from __future__ import annotations

import json
from typing import Any

import click

from probes.server_metrics import server_urls, server_version
from probes.target import Target, find_servers


@click.command(epilog="Example: cputax attach $(cputax ps --json | jq '.servers[0].pid')")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """List the inference servers on this machine: PID, model, port, version, processes."""
    servers = [describe(target) for target in find_servers()]
    if as_json:
        click.echo(json.dumps({"schema_version": 1, "servers": servers}, indent=1))
        return
    if not servers:
        click.echo("no vLLM server is running here (or none that this user can see)")
        click.echo("  try: sudo $(command -v cputax) ps, or any Python process: cputax attach PID")
        return
    from rich.table import Table

    from profiler.render.console import console, safe

    table = Table(box=None, pad_edge=False)
    for heading in ("PID", "KIND", "VERSION", "MODEL", "URL", "PROCESSES"):
        table.add_column(heading, justify="right" if heading == "PID" else "left")
    for server in servers:
        roles = [f"{process['role']} {process['pid']}" for process in server["processes"]]
        table.add_row(
            str(server["pid"]), server["kind"], server["version"] or "?",
            safe(server["model"] or "?"), server["url"] or "?", "\n".join(roles),
        )  # fmt: skip
    console().print(table)


def describe(target: Target) -> dict[str, Any]:
    """Return what can be said of a server from outside; None for what cannot."""
    url = version = None
    for candidate in server_urls(target):
        version = server_version(candidate)
        if version is not None or url is None:
            url = candidate
        if version is not None:
            break
    return {
        "pid": target.root_pid,
        "kind": target.kind,
        "version": version,
        "model": target.model,
        "url": url,
        "processes": [
            {"pid": process.pid, "role": process.role, "rank": process.rank, "name": process.name}
            for process in target.processes.values()
            if process.is_python
        ],
    }
