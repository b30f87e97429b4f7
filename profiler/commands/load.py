"""``cputax load``: ask a server as many users do, and say how long each answer took."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from profiler.load.arrivals import Arrivals
from profiler.load.endpoint import Endpoint
from profiler.load.scenario import STUDY, Kind, Scenario, ScenarioInvalid, WarmUp
from profiler.load.site import Site
from profiler.options import Duration, Pid

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

_DEFAULT_SECONDS: Final = 30.0
_DEFAULT_TOKENS: Final = 1000


@click.group()
def command() -> None:
    """Make a load that is known exactly, and measure every answer from outside.

    Streaming requests to any OpenAI-compatible server, from a process of its own: by users who
    wait for their answers, or at a rate that waits for nobody.

    \b
    Examples:
      cputax load run --url http://127.0.0.1:8000 --users 32 --prompt-tokens 8000 -d 1m
      cputax load run --url http://127.0.0.1:8000 --rate 20 --arrivals burst
      cputax load matrix --url http://127.0.0.1:8000 --scale 0.1 -o study
    """


_TOKENIZER = click.option(
    "--tokenizer", type=click.Path(exists=True, path_type=Path),
    help="A tokenizer.json or its directory, when the server cannot count tokens.",
)  # fmt: skip
_REPEATABLE = click.option(
    "--repeatable", is_flag=True,
    help="The same prompts in each run, which the prefix cache may hold from the last one.",
)  # fmt: skip
_SHARED_OPTIONS: Final = (
    click.option("--url", required=True, help="The server, as http://127.0.0.1:8000"),
    click.option("--model", help="By default the first one that the server lists."),
    click.option("--api-key-env", help="The environment variable that holds the API key."),
    _TOKENIZER,
    click.option("--shared-prompt", is_flag=True, help="One prompt for all, soon in its cache."),
    _REPEATABLE,
    click.option("-o", "--output", type=click.Path(path_type=Path), help="Keep the results here."),
    click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON."),
    click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors."),
)


def _shared_options(function: CommandT) -> CommandT:
    """Add the options that say which server, which prompts and which output."""
    for option in reversed(_SHARED_OPTIONS):
        function = option(function)
    return function


@command.command()
@click.option(
    "--kind", type=click.Choice([one.value for one in Kind]), default=Kind.CHAT.value,
    show_default=True,
)  # fmt: skip
@click.option("--users", type=click.IntRange(1), help="Closed loop.  [default: 1]")
@click.option(
    "--rate", "rate_hz", type=click.FloatRange(0, min_open=True),
    help="Open loop: requests per second.",
)  # fmt: skip
@click.option(
    "--arrivals", type=click.Choice([one.value for one in Arrivals]),
    default=Arrivals.POISSON.value, show_default=True,
    help="How requests follow one another in the open loop.",
)  # fmt: skip
@click.option("--prompt-tokens", type=click.IntRange(1), help="Exact.  [default: 1000]")
@click.option("--prompt-chars", type=click.IntRange(1), help="Instead of tokens.")
@click.option("--max-tokens", type=click.IntRange(1), default=64, show_default=True)
@click.option(
    "--ignore-eos/--stop-at-eos", default=True, show_default=True,
    help="Whether each answer is --max-tokens long, which not every server can be told.",
)  # fmt: skip
@click.option("-n", "--requests", type=click.IntRange(1), help="End after so many.")
@click.option("-d", "--duration", type=Duration(), help="End after so long.  [default: 30s]")
@click.option(
    "--batches", type=click.IntRange(1), help="Each user asks so often, all at the same time."
)
@click.option("--warm-up", type=click.IntRange(0), default=0, help="Requests that do not count.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--timeout", type=Duration(), default="10m", show_default=True, help="For each request."
)
@_shared_options
def run(
    url: str, model: str | None, api_key_env: str | None, tokenizer: Path | None,
    shared_prompt: bool, repeatable: bool, output: Path | None, as_json: bool, quiet: bool,
    kind: str, users: int | None, rate_hz: float | None, arrivals: str,
    prompt_tokens: int | None, prompt_chars: int | None, max_tokens: int, ignore_eos: bool,
    requests: int | None, duration: float | None, batches: int | None, warm_up: int, seed: int,
    timeout: float,
) -> int:  # fmt: skip
    """Run one load. Ctrl-C ends it early and keeps what was seen."""
    from profiler.load.foreground import Foreground, exit_code
    from profiler.load.tables import print_run

    has_size = prompt_tokens is not None or prompt_chars is not None
    has_length = requests is not None or duration is not None or batches is not None
    try:
        scenario = Scenario(
            name="run",
            kind=Kind(kind),
            users=1 if users is None and rate_hz is None else users,
            rate_hz=rate_hz,
            arrivals=Arrivals(arrivals),
            prompt_tokens=prompt_tokens if has_size else _DEFAULT_TOKENS,
            prompt_chars=prompt_chars,
            max_tokens=max_tokens,
            ignore_eos=ignore_eos,
            requests=requests,
            seconds=duration if has_length else _DEFAULT_SECONDS,
            batches=batches,
            warm_up=WarmUp(warm_up),
            seed=seed,
            shared_prompt=shared_prompt,
            timeout_s=timeout,
        )
    except ScenarioInvalid as error:
        raise click.UsageError(error.message) from error
    site = Site(Endpoint(url, model, api_key_env), tokenizer=tokenizer, is_repeatable=repeatable)
    with Foreground(output, quiet=quiet) as foreground:
        summary = foreground.run(scenario, site, foreground.directory)
        foreground.show(summary, lambda out: print_run(out, summary), as_json=as_json)
    return exit_code([summary])


@command.command()
@click.option(
    "--scenarios", "path", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=STUDY, help="A TOML file.  [default: the study's eight]",
)  # fmt: skip
@click.option("--only", multiple=True, metavar="NAME", help="Run only this scenario.")
@click.option(
    "--scale", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True,
    help="Prompts and answers so many times as long.",
)  # fmt: skip
@click.option(
    "--attach", "pid", type=Pid(),
    help="Record this server meanwhile, a capture per scenario, and say where its time went.",
)  # fmt: skip
@click.option(
    "--otlp", is_flag=True,
    help="With --attach: receive the server's own trace of each request (docs/otlp.md).",
)  # fmt: skip
@_shared_options
def matrix(
    url: str, model: str | None, api_key_env: str | None, tokenizer: Path | None,
    shared_prompt: bool, repeatable: bool, output: Path | None, as_json: bool, quiet: bool,
    path: Path, only: tuple[str, ...], scale: float, pid: int | None, otlp: bool,
) -> int:  # fmt: skip
    """Run a file of scenarios, one after another, and print one table.

    Without --scenarios these are the eight of the study that cputax was made to check. With
    --attach each scenario leaves a capture beside its results.
    """
    from profiler.load.foreground import Foreground, exit_code
    from profiler.load.recorded import MatrixRecorder
    from profiler.load.results import write_summary
    from profiler.load.scenario_file import choose, read_scenarios
    from profiler.load.summary import SCHEMA_VERSION
    from profiler.load.tables import print_matrix

    if otlp and pid is None:
        raise click.UsageError("--otlp needs --attach PID")
    recorder = None if pid is None else MatrixRecorder(pid, with_otlp=otlp)
    scenarios = choose(read_scenarios(path), only, scale=scale, shared_prompt=shared_prompt)
    site = Site(Endpoint(url, model, api_key_env), tokenizer=tokenizer, is_repeatable=repeatable)
    summaries: list[dict[str, Any]] = []
    with Foreground(output, quiet=quiet) as foreground:
        for scenario in scenarios:
            if foreground.is_stopping:
                break
            directory = foreground.directory / scenario.name
            if recorder is None:
                summaries.append(foreground.run(scenario, site, directory))
            else:
                summaries.append(recorder.run(foreground, scenario, site, directory))
        document = {"schema_version": SCHEMA_VERSION, "scenarios": summaries}
        write_summary(foreground.directory, document)
        foreground.show(document, lambda out: print_matrix(out, summaries), as_json=as_json)
    return exit_code(summaries)
