"""``cputax pin``: propose which process runs where, and try it before anybody believes it."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Final

import click

from collectors.errors import CputaxError, ExitCode, TargetExited
from probes import roles
from probes.server_metrics import ServerMetricsProbe
from probes.target import Target, find_target
from profiler.options import Duration, Pid
from profiler.pin.affinity import Kernel, LinuxKernel
from profiler.pin.choice import from_file, with_choices
from profiler.pin.gain import LEAST_PAIR_COUNT
from profiler.pin.plan import Plan, propose
from profiler.pin.plan_tables import plan_document, print_commands, print_plan
from profiler.pin.survey import survey
from profiler.pin.trial import Result, Schedule, StopReason, Trial
from profiler.pin.trial_tables import opening, print_result, result_document, window_line
from profiler.render.console import console, safe
from profiler.signals import setting_on_signals

_WINDOWS: Final = 2 * (LEAST_PAIR_COUNT + 2)  # two pairs may meet a pause in the load


class NoThroughput(CputaxError):
    """The server has no counters, so a trial would prove nothing."""

    slug = "no-throughput"
    exit_code = ExitCode.TARGET


class TargetNotServer(CputaxError):
    """The process is none whose parts we know."""

    slug = "target-not-server"
    exit_code = ExitCode.TARGET


@click.command(
    epilog="Examples: cputax pin --plan 1234 · cputax pin --trial 1234 --cpus engine_core=2"
)
@click.argument("pid", type=Pid())
@click.option("--plan", "is_plan", is_flag=True, help="Propose, change nothing.  [default]")
@click.option("--trial", "is_trial", is_flag=True, help="Try the plan, and put every mask back.")
@click.option(
    "--cpus", "choices", multiple=True, metavar="WHO=CPUS",
    help="A mask of your own, by role or PID, as engine_core=2-3.",
)  # fmt: skip
@click.option(
    "--plan-file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The plan as --plan --json has written it, and you have edited it.",
)  # fmt: skip
@click.option("--tool", "tools", multiple=True, type=Pid(), help="A process that works for it.")
@click.option(
    "--windows", "window_count", type=click.IntRange(2 * LEAST_PAIR_COUNT), default=_WINDOWS,
    show_default=True, help="With --trial: half with the plan, half without.",
)  # fmt: skip
@click.option("--window", "window_s", type=Duration(), default="10s", show_default=True)
@click.option(
    "--settle", "settle_s", type=Duration(), default="2s", show_default=True,
    help="Before each window.",
)  # fmt: skip
@click.option("--metrics-url", help="Base URL of /metrics, when it is not found by itself.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    pid: int, is_plan: bool, is_trial: bool, choices: tuple[str, ...], plan_file: Path | None,
    tools: tuple[int, ...], window_count: int, window_s: float, settle_s: float,
    metrics_url: str | None, as_json: bool,
) -> int:  # fmt: skip
    """Propose CPUs for each process of a server, near its GPU, and try whether that is faster.

    --plan only looks. --trial moves the server's threads to and fro, compares its own counters,
    and leaves every mask as it was, also when it is killed.
    """
    if is_plan and is_trial:
        raise click.UsageError("give --plan or --trial, not both")
    if window_count % 2:
        raise click.UsageError("--windows must be even: they stand in pairs")
    target, kernel = find_target(pid), LinuxKernel()
    if target.kind == roles.PYTHON:
        raise TargetNotServer(
            f"process {target.root_pid} is no inference server: nothing is known of its parts",
            "list the servers here: cputax ps",
        )
    seen = survey(target, kernel, tools)
    plan = propose(seen.topology, seen.members, seen.allowed)
    if plan_file is not None:
        plan = from_file(plan, plan_file, seen.allowed)
    plan = with_choices(plan, choices, seen.allowed)
    document = plan_document(plan, target.root_pid, seen.allowed)
    if not is_trial:
        if as_json:
            click.echo(json.dumps(document, indent=1))
        else:
            print_plan(console(), plan)
            print_commands(console(), plan)
            if plan.moves:
                console().print(f"[bold]To try it first[/]\n  cputax pin --trial {target.root_pid}")
        return ExitCode.DONE
    schedule = Schedule(window_count // 2, window_s, settle_s)
    result = _try(target, plan, _find_metrics(target, metrics_url), schedule, kernel)
    if as_json:
        click.echo(json.dumps(document | result_document(result), indent=1))
    else:
        print_result(console(), result)
    if result.stop_reason is StopReason.TARGET_EXITED:
        raise TargetExited("the server exited during the trial", "find a live one: cputax ps")
    return ExitCode.DONE if result.stop_reason is StopReason.COMPLETE else ExitCode.GATE_OR_PARTIAL


def _try(target: Target, plan: Plan, url: str, schedule: Schedule, kernel: Kernel) -> Result:
    """Say what will be done, and do it."""
    err = console(to_stderr=True)
    stopping = threading.Event()
    trial = Trial(target, plan, url, schedule, kernel, stopping)
    with setting_on_signals(stopping):
        print_plan(err, plan)
        trial.check()
        print_commands(err, plan)
        err.print(opening(schedule))
        with err.status("starting") as status:

            def watch(index: int, is_pinned: bool) -> None:
                status.update(window_line(index, is_pinned, schedule))

            return trial.run(watch)


def _find_metrics(target: Target, url: str | None) -> str:
    """Return the base URL of the server's counters.

    Raises:
        NoThroughput: there are none.
    """
    probe = ServerMetricsProbe(url)
    capability = probe.check(target)
    if not capability.level.is_usable or probe.url is None:
        raise NoThroughput(
            f"nothing tells how fast the server is: {safe(capability.reason or '')}",
            capability.remedy or "give --metrics-url",
        )
    return probe.url
