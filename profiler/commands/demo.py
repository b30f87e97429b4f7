"""``cputax demo``: a small server under load, recorded and explained, in under a minute."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from profiler.options import Duration
from profiler.practice import Load, record_oracle, running_oracle, under_load
from profiler.render.console import console

# 24 users with prompts of some 16,000 characters: one tokenizer thread cannot keep up with them.
LOAD = Load(users=24, prompt_chars=16_000, max_tokens=16, warm_up_s=2.0)


@click.command()
@click.option(
    "-d", "--duration", type=Duration(), default="12s", show_default=True,
    help="How long to record.",
)  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Keep the capture here.")
def command(duration: float, output: Path | None) -> int:
    """Start a small server, load it, attach to it by PID, and show where its CPU time went.

    The server has vLLM's three roles and one tokenizer thread, and needs no GPU and no model.
    """
    from analyzers.analysis import analyze
    from profiler.render.terminal import print_analysis

    out = console(to_stderr=True)
    with tempfile.TemporaryDirectory(prefix="cputax-demo-") as scratch:
        directory = output or Path(scratch) / "demo.capture"
        out.print(f"starting a small server (no GPU, no model) and {LOAD.users} users ...")
        with running_oracle() as oracle, under_load(oracle, LOAD, duration):
            out.print(f"[bold]$ cputax attach {oracle.pid} -d {duration:g}s[/]")
            capture = record_oracle(oracle, directory, duration, out)
        out.print("[bold]$ cputax analyze demo.capture[/]")
        print_analysis(analyze(capture).to_json())
    click.echo("\nNow your own server: cputax ps, then cputax attach PID")
    return 0
