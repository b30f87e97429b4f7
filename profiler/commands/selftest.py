"""``cputax selftest``: this tool's own error, measured on this machine against a known truth."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Final

import click

from analyzers.analysis import analyze
from collectors.errors import ExitCode
from profiler.options import Duration
from profiler.oracle.selftest import Comparison, Figure, compare
from profiler.practice import Load, record_oracle, running_oracle, under_load
from profiler.probe_set import Rates
from profiler.render.console import console, safe

# Stages last as long as on a server with thousands of sequences: py-spy, which does not stop its
# target, takes up to a millisecond to read a stack and smears what is shorter.
OPTIONS: Final = ("--ghosts", "2500", "--device-ms", "50")
LOAD: Final = Load(users=6, prompt_chars=24_000, max_tokens=16, warm_up_s=3.0)
RATES: Final = Rates(stack_hz=200, is_governed=False)  # the probes are tested, not their governor

_HEADINGS: Final = {
    Figure.STAGE_SHARE: "CPU by stage, share of the server's CPU time",
    Figure.GIL_HELD: "GIL held, share of the time",
    Figure.RUN_QUEUE_WAIT: "Ready to run and waiting for a CPU, share of the time",
}


@click.command()
@click.option(
    "-d", "--duration", type=Duration(), default="60s", show_default=True,
    help="How long to record.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Keep the capture here.")
def command(duration: float, as_json: bool, output: Path | None) -> int:
    """Record a small server that keeps its own books, and print the error of each figure.

    Exit code 1 when a figure is off by more than its limit.
    """
    out = console(to_stderr=True)
    with tempfile.TemporaryDirectory(prefix="cputax-selftest-") as scratch:
        directory = output or Path(scratch) / "selftest.capture"
        with running_oracle(*OPTIONS) as oracle, under_load(oracle, LOAD, duration):
            capture = record_oracle(oracle, directory, duration, out, RATES)
            truth = oracle.truth(capture.start_ns, capture.end_ns)
        rows = compare(truth, analyze(capture).to_json())
    is_ok = all(row.is_ok for row in rows)
    if as_json:
        figures = [{**asdict(row), "is_ok": row.is_ok} for row in rows]
        click.echo(json.dumps({"schema_version": 1, "is_ok": is_ok, "figures": figures}, indent=1))
    else:
        _print(rows)
    return ExitCode.DONE if is_ok else ExitCode.GATE_OR_PARTIAL


def _print(rows: list[Comparison]) -> None:
    from rich.table import Table

    out = console()
    for figure, heading in _HEADINGS.items():
        table = Table(box=None, pad_edge=False, header_style="dim", title_justify="left")
        table.add_column("")
        names = ["truth", "measured", "error", "limit", ""]
        if figure is Figure.STAGE_SHARE:
            names.append("of its role")
        for name in names:
            table.add_column(name, justify="right")
        for row in rows:
            if row.figure is figure:
                table.add_row(*_cells(row))
        out.print(f"\n[bold]{heading}[/]")
        out.print(table)
    wrong = sum(not row.is_ok for row in rows)
    verdict = "[green]all within their limits[/]" if not wrong else f"[red]{wrong} off[/]"
    out.print(f"\n{len(rows)} figures, {verdict}")


def _cells(row: Comparison) -> list[str]:
    # Shares differ by percentage points; the wait differs by a share of itself.
    unit = "%" if row.figure is Figure.RUN_QUEUE_WAIT else "pp"

    def value(number: float | None) -> str:
        return "?" if number is None else f"{number:.2%}"

    error = "?" if row.error is None else f"{row.error * 100:+.2f} {unit}"
    mark = "[green]ok[/]" if row.is_ok else "[red]off[/]"
    subject = safe(row.subject)
    cells = [subject, value(row.truth), value(row.measured), error, f"{row.limit:.0%}", mark]
    if row.figure is Figure.STAGE_SHARE:
        role = "?" if row.role_error is None else f"{row.role_error * 100:+.1f} pp"
        cells.append(f"[dim]{role}[/]")
    return cells
