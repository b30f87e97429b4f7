"""Run scenarios in the foreground: progress, Ctrl-C, results kept or not, tables or JSON."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from collectors.errors import CputaxError, ExitCode
from profiler.load.results import write_summary
from profiler.load.runner import Progress, do_nothing, run_scenario
from profiler.load.scenario import Scenario
from profiler.load.site import Site
from profiler.load.summary import summarize
from profiler.load.tables import describe
from profiler.render.console import console
from profiler.signals import setting_on_signals


class NothingAnswered(CputaxError):
    """Not one request got its answer."""

    slug = "nothing-answered"
    exit_code = ExitCode.TARGET

    def __init__(self, url: str, failures: dict[str, int]) -> None:
        kinds = ", ".join(f"{count} x {kind}" for kind, count in failures.items())
        super().__init__(
            f"{url} answered no request: {kinds}",
            "check --url, --model and the server's log; cputax ps lists the servers here",
        )


class Foreground:
    """Runs scenarios in front of a person; SIGINT, SIGTERM and SIGHUP end them early.

    Results go to ``output``, or, if that is None, to a directory that goes away with the ``with``.
    """

    def __init__(self, output: Path | None, *, quiet: bool) -> None:
        self._output = output
        self._quiet = quiet
        self._err = console(to_stderr=True)
        self._stack = ExitStack()
        self._stopping = threading.Event()

    def __enter__(self) -> Foreground:
        self._stack.enter_context(setting_on_signals(self._stopping))
        if self._output is None:
            scratch = tempfile.TemporaryDirectory(prefix="cputax-load-")
            self.directory = Path(self._stack.enter_context(scratch)) / "results"
        else:
            self.directory = self._output
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    @property
    def is_stopping(self) -> bool:
        """Whether a signal came: no further scenario should be begun."""
        return self._stopping.is_set()

    def run(
        self,
        scenario: Scenario,
        site: Site,
        directory: Path,
        *,
        before: Callable[[], None] = do_nothing,
        after: Callable[[], None] = do_nothing,
    ) -> dict[str, Any]:
        """Run a scenario and return its summary, which is also written beside its rows.

        Raises:
            CputaxError: see `runner.run_scenario`.
        """
        if not self._quiet:
            self._err.print(f"{scenario.name}: {describe(scenario)}")
        with self._err.status("preparing") as status:

            def watch(progress: Progress) -> None:
                status.update(_progress_text(progress))

            results = run_scenario(
                scenario, site, directory,
                before=before, after=after, watch=watch, should_stop=self._stopping.is_set,
            )  # fmt: skip
        summary = summarize(results)
        write_summary(directory, summary)
        return summary

    def show(
        self, document: dict[str, Any], print_tables: Callable[[Console], None], *, as_json: bool
    ) -> None:
        """Print ``document`` as JSON, or the tables that stand for it, and where the rows are."""
        if as_json:
            print(json.dumps(document, indent=1))
        elif not self._quiet:
            print_tables(console())
            if self._output is not None:
                self._err.print(f"results: {self._output}")


def exit_code(summaries: Sequence[dict[str, Any]]) -> ExitCode:
    """Return `ExitCode.GATE_OR_PARTIAL` if a run was cut short.

    Raises:
        NothingAnswered: not one request of a run got its answer.
    """
    for summary in summaries:
        if summary["failures"] and not summary["requests"]["ok_count"]:
            raise NothingAnswered(summary["url"], summary["failures"])
    is_whole = all(summary["is_whole"] for summary in summaries)
    return ExitCode.DONE if is_whole else ExitCode.GATE_OR_PARTIAL


def _progress_text(progress: Progress) -> str:
    in_flight_count = progress.begun_count - progress.over_count
    return (
        f"{progress.over_count:,} over, {in_flight_count:,} in flight, "
        f"{progress.failed_count:,} failed; Ctrl-C ends the run and keeps it"
    )
