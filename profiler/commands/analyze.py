"""``cputax analyze``: the answer, from a capture."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command(epilog="Example: cputax analyze my.capture --json | jq '.findings[0].statement'")
@click.argument("capture", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON (has a schema_version).")
@click.option("--all", "show_all", is_flag=True, help="Show every row of every table.")
def command(capture: Path, as_json: bool, show_all: bool) -> None:
    """Say which process, thread and stage the CPU time of CAPTURE went to.

    Also: where requests spent their time and what they stood in line for, who held the GIL, who
    waited for a CPU, what tokenizing cost, and what was not seen.
    """
    from analyzers.analysis import analyze
    from collectors import open_capture

    analysis = analyze(open_capture(capture))
    if as_json:
        click.echo(json.dumps(analysis.to_json(), indent=1))
        return
    from profiler.render.terminal import print_analysis

    print_analysis(analysis.to_json(), show_all=show_all)
