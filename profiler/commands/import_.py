"""``cputax import``: foreign traces into a capture."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(
    name="import",
    epilog="Example: cputax import rank0.pt.trace.json.gz rank1.pt.trace.json.gz -o run.capture",
)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="The capture directory."
)
def command(files: tuple[Path, ...], output: Path) -> int:
    """Turn FILES of one format into a capture: ranks of one run, or files of one set.

    Reads traces of the torch profiler (JSON, gzip), rocprofv3 (JSON, CSV, rocpd, pftrace), Nsight
    Systems (SQLite export), py-spy (chrometrace, raw) and collapsed stacks; the format is told by
    the content. To look without keeping anything: cputax analyze FILE.
    """
    from collectors.importers.tables import write_import
    from profiler.traces import read_traces

    capture = write_import(read_traces(files), output)
    slices, samples = len(capture.table("slices")), len(capture.table("samples"))
    span_s = (capture.end_ns - capture.start_ns) / 1e9
    click.echo(f"{output}: {slices:,} slices, {samples:,} runs of stacks, {span_s:.3f} s")
    for probe in capture.manifest.probes:
        if probe.reason:
            click.echo(f"  {probe.reason}", err=True)
    click.echo(f"everything: cputax analyze {output}", err=True)
    return 0
