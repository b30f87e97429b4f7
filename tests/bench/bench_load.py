"""What the load client costs and how late it is, against the practice server.

Prints how late requests of an open loop were begun, how late the client's event loop was, and the
CPU it took: for a rate of short requests, and for many streams at once.

    python tests/bench/bench_load.py [--rate 200] [--streams 1000] [--seconds 10]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from rich.table import Table

from profiler.load.arrivals import Arrivals
from profiler.load.endpoint import Endpoint
from profiler.load.runner import run_scenario
from profiler.load.scenario import Scenario, WarmUp
from profiler.load.site import Site
from profiler.load.summary import summarize
from profiler.oracle.model_card import MODEL_NAME
from profiler.practice import running_oracle
from profiler.render.console import console

PROMPT_CHARS = 400
RATE_TOKENS = 4
STREAM_TOKENS = 32


def scenarios(rate_hz: float, streams: int, seconds: float) -> list[Scenario]:
    """A rate in each shape of arrivals, then all streams at once."""
    rates = [
        Scenario(
            f"{arrivals}-{rate_hz:g}", rate_hz=rate_hz, arrivals=arrivals, seconds=seconds,
            prompt_chars=PROMPT_CHARS, max_tokens=RATE_TOKENS, warm_up=WarmUp(3),
        )
        for arrivals in (Arrivals.UNIFORM, Arrivals.POISSON)
    ]  # fmt: skip
    at_once = Scenario(
        f"streams-{streams}", users=streams, batches=1, prompt_chars=PROMPT_CHARS,
        max_tokens=STREAM_TOKENS, warm_up=WarmUp(3),
    )  # fmt: skip
    return [*rates, at_once]


def cells(summary: dict[str, Any]) -> list[str]:
    """Return one run as a row."""
    counts, client, lag = summary["requests"], summary["client"], summary["lag_seconds"]
    waited = client["run_queue_wait_ratio"]
    lags = ["", "", ""] if lag is None else [in_ms(lag[key]) for key in ("p50", "p99", "max")]
    return [
        summary["scenario"]["name"],
        f"{counts['ok_count']:,}",
        " ".join(f"{count} x {kind}" for kind, count in summary["failures"].items()) or "0",
        *lags,
        in_ms(client["loop_lag_p99_seconds"]),
        in_ms(client["loop_lag_max_seconds"]),
        f"{client['cpu_ratio']:.0%}",
        "?" if waited is None else f"{waited:.0%}",
    ]


def in_ms(seconds: float) -> str:
    """Format a time; the goal is a millisecond."""
    return f"{seconds * 1e3:.2f}"


def main() -> None:
    """Run the scenarios and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    table = Table(box=None, pad_edge=False, title="lag in ms; CPU in shares of a core")
    for heading in ("load", "answered", "failed", "lag p50", "p99", "max", "loop p99", "max",
                    "CPU", "waited for one"):  # fmt: skip
        table.add_column(heading, justify="left" if heading == "load" else "right")
    with running_oracle() as oracle, tempfile.TemporaryDirectory() as scratch:
        site = Site(Endpoint(oracle.url, MODEL_NAME))
        for scenario in scenarios(options.rate, options.streams, options.seconds):
            results = run_scenario(scenario, site, Path(scratch) / scenario.name)
            table.add_row(*cells(summarize(results)))
    console().print(table)


if __name__ == "__main__":
    main()
