"""``cputax analyze``: the answer, from a capture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collectors.capture import Capture


@click.command(epilog="Example: cputax analyze my.capture --json | jq '.findings[0].statement'")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON (has a schema_version).")
@click.option("--all", "show_all", is_flag=True, help="Show every row of every table.")
def command(paths: tuple[Path, ...], as_json: bool, show_all: bool) -> None:
    """Say which process, thread and stage the CPU time of a capture went to.

    Also: where requests spent their time and what they stood in line for, who held the GIL, who
    waited for a CPU, what tokenizing cost, what each GPU did and why it was idle, and what was not
    seen.

    PATHS is one capture, or files of another tool: see cputax import --help.
    """
    from analyzers.analysis import analyze

    analysis = analyze(_open(paths))
    if as_json:
        click.echo(json.dumps(analysis.to_json(), indent=1))
        return
    from profiler.render.terminal import print_analysis

    print_analysis(analysis.to_json(), show_all=show_all)


def _open(paths: tuple[Path, ...]) -> Capture:
    from collectors import open_capture

    if len(paths) == 1 and not paths[0].is_file():
        return open_capture(paths[0])
    from profiler.traces import read_traces

    return read_traces(paths)
