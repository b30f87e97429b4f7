"""``cputax attach``: record a running server by PID, or start one and record it."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from pathlib import Path

import click

from collectors.errors import CputaxError
from probes.base import Level
from probes.cpu_counters.probe import CpuCounterProbe
from probes.otlp.probe import GRPC_PORT, HTTP_PORT
from probes.rocprof.spool import hook_environment, spool_directory
from probes.switches.probe import SwitchProbe
from probes.target import Target, find_target
from profiler.cli import show_error
from profiler.launch import launch
from profiler.options import Duration, Pid
from profiler.probe_set import (
    ALL_NAMES,
    DEFAULT_NAMES,
    GIL_HZ,
    STACK_HZ,
    OtlpPorts,
    Rates,
    Rocprof,
    StackReading,
    TorchSlice,
    make_probes,
)
from profiler.recording import record
from profiler.render.console import console, safe
from profiler.session import Session


@click.command(
    epilog="Examples: cputax attach 1234 -d 30s · cputax attach -d 1m -- vllm serve MODEL"
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[PID | -- COMMAND...]")
@click.option("-p", "--pid", type=Pid(), help="The process; any PID of the server will do.")
@click.option(
    "-d", "--duration", type=Duration(), default="30s", show_default=True,
    help="How long to record.",
)  # fmt: skip
@click.option("--until-exit", is_flag=True, help="Record until Ctrl-C or the target exits.")
@click.option(
    "-r", "--rate", "stack_hz", type=click.IntRange(1, 1000), default=STACK_HZ,
    show_default=True, help="Stack samples per second; less when the host has no CPU to spare.",
)  # fmt: skip
@click.option(
    "--gil-rate", "gil_hz", type=click.FloatRange(1, 10_000), default=GIL_HZ,
    show_default=True, help="Looks at each GIL per second.",
)  # fmt: skip
@click.option(
    "--gil-realtime", is_flag=True,
    help="Look at the GIL at real-time priority (root): unbiased on a full host, but dearer.",
)  # fmt: skip
@click.option(
    "--stacks", "stack_reading", type=click.Choice([one.value for one in StackReading]),
    default=StackReading.AUTO.value, show_default=True,
    help="Who reads Python stacks: our reader, py-spy, or py-spy only where ours cannot.",
)  # fmt: skip
@click.option(
    "--otlp", is_flag=True,
    help="Receive the server's own trace of each request (docs/otlp.md).",
)  # fmt: skip
@click.option(
    "--otlp-grpc-port", type=click.IntRange(0, 65535), default=GRPC_PORT,
    show_default=True, help="Loopback port for --otlp; 0: any that is free.",
)  # fmt: skip
@click.option(
    "--otlp-http-port", type=click.IntRange(0, 65535), default=HTTP_PORT,
    show_default=True, help="Likewise, for OTLP over HTTP.",
)  # fmt: skip
@click.option(
    "--torch-profiler", "torch_s", type=Duration(),
    help="Switch the torch profiler that the server was started with on for so long, as 2s.",
)  # fmt: skip
@click.option(
    "--torch-profiler-stacks", "torch_stacks", is_flag=True,
    help="Even one that records Python stacks, which can take the server down.",
)  # fmt: skip
@click.option(
    "--rocprof", "with_rocprof", is_flag=True,
    help="Record the kernels of AMD GPUs through rocprofiler-sdk (docs/rocprof.md).",
)  # fmt: skip
@click.option("--hip-api", is_flag=True, help="With --rocprof: every call of HIP, too; dear.")
@click.option(
    "--switches", is_flag=True,
    help="Every context switch: who pushed whom off a CPU, and when (docs/switches.md).",
)  # fmt: skip
@click.option(
    "--cpu-counters", is_flag=True,
    help="Cycles, instructions and cache misses of each thread, where the CPU counts them.",
)  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The capture directory.")
@click.option(
    "--probe", "only", multiple=True, type=click.Choice(ALL_NAMES), help="Use only this probe."
)
@click.option(
    "--no-probe", "without", multiple=True, type=click.Choice(ALL_NAMES),
    help="Leave this probe out.",
)  # fmt: skip
@click.option("--metrics-url", help="Base URL of /metrics, when it is not found by itself.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def command(
    words: tuple[str, ...], pid: int | None, duration: float, until_exit: bool, stack_hz: int,
    gil_hz: float, gil_realtime: bool, stack_reading: str, otlp: bool, otlp_grpc_port: int,
    otlp_http_port: int, torch_s: float | None, torch_stacks: bool, with_rocprof: bool,
    hip_api: bool, switches: bool, cpu_counters: bool, output: Path | None, only: tuple[str, ...],
    without: tuple[str, ...], metrics_url: str | None, quiet: bool,
) -> int:  # fmt: skip
    """Record a running server without touching it, then show the findings.

    Attach by PID, any of the server's; or give a command after -- to start one, record it, and
    stop it at the end. Ctrl-C ends the recording early and keeps it.
    """
    if pid is None and len(words) == 1 and words[0].isdecimal():
        pid = Pid().convert(words[0], None, None)
        words = ()
    if (pid is None) == (not words):
        raise click.UsageError("give one PID (cputax ps lists them), or -- and a command to start")
    asked = {SwitchProbe.name: switches, CpuCounterProbe.name: cpu_counters}
    names = [*(only or DEFAULT_NAMES), *(name for name, is_asked in asked.items() if is_asked)]
    names = [name for name in names if name not in without]
    if not names:
        raise click.UsageError("no probe is left to record with")
    rates = Rates(stack_hz, gil_hz, gil_realtime)
    ports = OtlpPorts(otlp_grpc_port, otlp_http_port) if otlp else None
    torch_slice = TorchSlice(torch_s, torch_stacks) if torch_s is not None else None

    if hip_api and not with_rocprof:
        raise click.UsageError("--hip-api is for --rocprof")

    def session(target: Target, spool: Path | None = None) -> Session:
        probes = make_probes(
            target, names, rates, metrics_url, StackReading(stack_reading), ports, torch_slice,
            Rocprof(hip_api, spool) if with_rocprof else None,
        )  # fmt: skip
        return Session(target, output or _default(target), probes)

    duration_s = None if until_exit else duration
    out = console(to_stderr=True)
    if words:
        with ExitStack() as stack:
            spool, hook = None, {}
            if with_rocprof:
                spool = stack.enter_context(spool_directory())
                hook = hook_environment(spool, os.environ, is_hip_traced=hip_api)
            target = stack.enter_context(launch(words, out, hook))
            return _record(session(target, spool), duration_s, quiet)
    assert pid is not None
    return _record(session(find_target(pid)), duration_s, quiet)


def _record(session: Session, duration_s: float | None, quiet: bool) -> int:
    out = console(to_stderr=True)
    for capability in session.capabilities.values():
        if capability.level in (Level.DEGRADED, Level.UNAVAILABLE) and not quiet:
            reason = safe(capability.reason or "")
            out.print(f"[yellow]{capability.probe} {capability.level}[/]: {reason}")
            if capability.remedy:
                out.print(f"  try: {safe(capability.remedy)}")
    problem = record(session, duration_s, None if quiet else out)
    if not quiet:
        _show_findings(session.directory)
    if problem is not None:
        show_error(problem)
        return problem.exit_code
    return 0


def _show_findings(directory: Path) -> None:
    from analyzers.analysis import analyze
    from collectors import open_capture
    from profiler.render.terminal import print_findings

    try:
        print_findings(analyze(open_capture(directory)).to_json(), limit=3)
    except CputaxError as error:
        show_error(error)
        return
    click.echo(f"\ncapture: {directory}\neverything: cputax analyze {directory}")


def _default(target: Target) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return Path(os.curdir) / f"cputax-{target.root_pid}-{stamp}.capture"
