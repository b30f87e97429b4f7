"""The load client beside ``vllm bench serve``: the same latencies on the same real vLLM?

Two programs that time the same server must agree. Both are at work at the same time, each with N
users in a closed loop (so the server has 2 N), on the same prompts, with the prefix cache off.
Taking turns does not do: on two cores the server's own processes fight for them, whole seconds are
twice as slow as others, and two windows of one client differ by more than the two clients. Side by
side, a slow moment hits both alike. But they must not fall into step, or who comes first stays
first: the server's model has many tokens that end an answer, so that each prompt's answer has a
length of its own, and the two send the prompts in different orders.

What counts are the requests that began and ended while all users of both were at work. A ratio is
the median of ours over that of theirs. Its 95 % interval comes from resampling blocks of time, the
requests of both in a block together, so that what hit both alike cancels out. Beside it stands the
same of two clients of ours, in a shorter run: the noise floor, which also tells how many requests
to give to theirs, which has no other end. "holds" is said of a ratio within 2 % of 1, and with a
question mark when the interval does not settle it.

Like is compared with like, from the source of vLLM 0.32
(vllm/benchmarks/lib/endpoint_request_func.py):

* Its clock starts when the fields of the request are a dict, before they are JSON, and after the
  wait for its semaphore: our ``built_ns``.
* Its TTFT ends at the first event with ``choices``, be their text empty or not: a token that is
  half a character, or the event with the role that begins a chat. vLLM sends nothing before that
  event, so it is what our ``first_byte_ns`` sees: the row "first event".
* Its end-to-end latency (E2EL) ends at the last event with ``choices``. Our nearest is ``done_ns``,
  later by the event with the usage and ``[DONE]``, which follow at once: the row "end", of answers
  of full length.
* Its clock also runs while aiohttp looks for a password and a proxy in other threads, because of
  ``trust_env``. With 1, 8 and 32 users each, on two cores, 0.7, 0.9 and 1.5 ms lie in the median
  between its start and the sending of a request, and 0.2 ms in ours: a short TTFT is longer by
  that in theirs. ``--without-lookups`` turns it off.
* The TTFT that ``cputax load`` itself prints counts from ``time_ns``, before the prompt is made,
  to the first event that has text, ``token_ns[0]``: the row "first text", over their TTFT. It has
  no bar, because where a model begins with half a character it is a decode step longer by intent.
* Its completions say ``repetition_penalty`` 1 and no ``logprobs`` on top, its chats
  ``max_completion_tokens`` for ``max_tokens``. Prompts, lengths, temperature and
  ``stream_options`` are the same.

Fewer events an answer than tokens: the server was short of CPU, or tokens had no text (ours does
not count those).

    python tests/bench/bench_client.py [--seconds 240] [--kind completion] [--json client.json]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from client_runs import ClientRun, Pair, SideBySide
from vllm_client import VllmClient

from profiler.load.endpoint import Endpoint
from profiler.load.scenario import Kind, Scenario
from profiler.load.site import Site
from profiler.render.console import console, plain_table

ROOT: Final = Path(__file__).parents[2]
VOCABULARY_SIZE: Final = 16_000  # of the tiny model
TOKENS_PER_STOP: Final = 64  # one in so many ends the answer
SERVER_SPARE_S: Final = 120.0  # for runs that take longer than their floor made one expect
SHARES: Final = {1: 3, 8: 4, 32: 2}  # of the time, by users: by how much the latencies spread
BAR: Final = 0.02  # how far from 1 a ratio may be
END: Final = "end"
QUANTITIES: Final = {"first event": BAR, "first text": None, END: BAR}
BLOCK_S: Final = 2.0  # longer than most of the server's bad moments
RESAMPLE_COUNT: Final = 1000
Integers = np.ndarray[tuple[int], np.dtype[np.int64]]
Floats = np.ndarray[tuple[int], np.dtype[np.float64]]


@dataclass(frozen=True)
class Comparison:
    """The pairs of one concurrency."""

    floor: Pair
    pair: Pair


@dataclass(frozen=True)
class Ratio:
    """One median over another, with the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def verdict(self, bar: float) -> str:
        """Say whether it keeps the bar, and whether the interval leaves no doubt of it."""
        if abs(self.value - 1) <= bar:
            return "holds" if max(self.high - 1, 1 - self.low) <= bar else "holds?"
        return "fails" if self.low > 1 + bar or self.high < 1 - bar else "fails?"


def ratio_of_medians(pair: Pair, quantity: str) -> Ratio:
    """Return the ratio of the first's median to the second's, resampled by blocks of time."""
    timed = [latencies(run, quantity) for run in pair]
    first_block = min(blocks.min() for blocks, _ in timed)
    count = 1 + max(blocks.max() for blocks, _ in timed) - first_block

    def ratio(draws: Integers) -> float:
        over, under = (
            np.median(np.repeat(seconds, draws[blocks - first_block])) for blocks, seconds in timed
        )
        return float(over / under)

    chooser = np.random.default_rng(0)
    ratios = [
        ratio(np.bincount(chooser.integers(count, size=count), minlength=count))
        for _ in range(RESAMPLE_COUNT)
    ]
    low, high = np.percentile(ratios, [2.5, 97.5])
    return Ratio(ratio(np.ones(count, int)), float(low), float(high))


def latencies(run: ClientRun, quantity: str) -> tuple[Integers, Floats]:
    """Return the number of the block that each request began in, and its latency, seconds.

    The end is that of answers of full length.
    """
    field = f"{quantity.replace(' ', '_')}_s"
    longest = max(one.output_tokens for one in run.requests)
    seen = [
        one for one in run.requests
        if getattr(one, field) is not None and (quantity != END or one.output_tokens == longest)
    ]  # fmt: skip
    blocks = np.array([one.start_s // BLOCK_S for one in seen], np.int64)
    return blocks, np.array([getattr(one, field) for one in seen])


def compare(clients: SideBySide, concurrency: int, options: argparse.Namespace) -> Comparison:
    """Measure the floor, then the two clients for about as long as the options say."""
    scenario = Scenario(
        f"floor-{concurrency}", options.kind,
        users=concurrency, seconds=options.floor_seconds,
        prompt_tokens=options.prompt_tokens, max_tokens=options.max_tokens, ignore_eos=False,
        timeout_s=60.0,
    )  # fmt: skip
    floor = clients.ours_and_ours(scenario)
    starts_s = [one.start_s for one in floor[1].requests]
    rate_hz = len(starts_s) / (max(starts_s) - min(starts_s))
    scenario = replace(scenario, name=f"pair-{concurrency}")
    shares = sum(SHARES[users] for users in options.concurrency)
    seconds = options.seconds * SHARES[concurrency] / shares
    return Comparison(floor, clients.ours_and_theirs(scenario, round(rate_hz * seconds)))


def print_latencies(comparisons: dict[int, Comparison]) -> None:
    """Print the medians and the ratios."""
    table = plain_table(
        "users each", "to", ">ours ms", ">theirs ms", ">ours/theirs", ">ours/ours", "",
    )  # fmt: skip
    for concurrency, comparison in comparisons.items():
        for quantity, bar in QUANTITIES.items():
            medians_s = [np.median(latencies(run, quantity)[1]) for run in comparison.pair]
            ratio = ratio_of_medians(comparison.pair, quantity)
            table.add_row(
                str(concurrency), quantity, *(f"{median_s * 1e3:.2f}" for median_s in medians_s),
                str(ratio), str(ratio_of_medians(comparison.floor, quantity)),
                "" if bar is None else ratio.verdict(bar),
            )  # fmt: skip
    console().print(table)


def print_clients(comparisons: dict[int, Comparison]) -> None:
    """Print what the clients sent, got and cost."""
    table = plain_table(
        "users each", "client", ">CPU ms each", ">requests", ">failed", ">tokens in",
        ">out", ">events",
    )  # fmt: skip
    for concurrency, comparison in comparisons.items():
        for run in comparison.pair:
            prompts = sorted({one.prompt_tokens for one in run.requests})
            table.add_row(
                str(concurrency), run.client, f"{run.cpu_s_per_request * 1e3:.2f}",
                f"{len(run.requests):,}", str(run.failed_count),
                ", ".join(map(str, prompts)),
                f"{np.mean([one.output_tokens for one in run.requests]):.1f}",
                f"{np.mean([one.event_count for one in run.requests]):.1f}",
            )  # fmt: skip
    console().print(table)


def server_arguments(place: Path) -> list[str]:
    """Return vLLM's arguments; the model's settings go to a file in ``place``."""
    stops = list(range(1, VOCABULARY_SIZE, TOKENS_PER_STOP))
    settings = place / "generation_config.json"  # the name that vLLM looks for
    settings.write_text(json.dumps({"eos_token_id": stops}))
    return ["--no-enable-prefix-caching", "--generation-config", str(place)]


def measure(options: argparse.Namespace) -> dict[int, Comparison]:
    """Start the server and their client, and compare at each concurrency."""
    sys.path.insert(0, str(ROOT / "examples" / "vllm_cpu"))
    from make_env import default_place
    from serve import MODEL_NAME, SERVER_ENVIRONMENT, running_server

    place = default_place()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    seconds = options.seconds + len(options.concurrency) * options.floor_seconds
    with (
        tempfile.TemporaryDirectory() as scratch,
        VllmClient(
            place.python,
            environment | SERVER_ENVIRONMENT,
            Path(scratch) / "log",
            with_lookups=not options.without_lookups,
        ) as theirs,
        running_server(
            None, server_arguments(Path(scratch)), max_seconds=seconds + SERVER_SPARE_S, place=place
        ) as server,
    ):
        version = theirs.await_ready()
        console().print(f"vLLM {version}, {options.kind}; 95 % intervals in brackets\n")
        site = Site(Endpoint(server.url, MODEL_NAME), is_repeatable=True)
        clients = SideBySide(site, theirs, Path(scratch))
        return {
            concurrency: compare(clients, concurrency, options)
            for concurrency in options.concurrency
        }


def main() -> int:
    """Measure, print the tables and write the JSON."""
    parser = argparse.ArgumentParser(description="cputax load beside vllm bench serve.")
    parser.add_argument("--seconds", type=float, default=240.0, help="in all, about")
    parser.add_argument("--floor-seconds", type=float, default=15.0, help="each, of two of ours")
    parser.add_argument("--kind", choices=[*Kind], type=Kind, default=Kind.COMPLETION)
    parser.add_argument("--prompt-tokens", type=int, default=1024)
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--without-lookups", action="store_true", help="their trust_env off")
    parser.add_argument("--concurrency", type=int, nargs="+", choices=[*SHARES], default=[*SHARES])
    parser.add_argument("--json", type=Path, help="write every request there")
    options = parser.parse_args()
    comparisons = measure(options)
    print_latencies(comparisons)
    console().print()
    print_clients(comparisons)
    if options.json:
        document = {
            concurrency: asdict(comparison) for concurrency, comparison in comparisons.items()
        }
        options.json.write_text(json.dumps(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
