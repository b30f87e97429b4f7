"""What ``cputax attach`` costs a real vLLM, beside plain py-spy and beside nothing at all.

Two situations. *Headroom*: requests arrive at a fixed mean rate that leaves about 40 % of two cores
idle (a vLLM worker spins on one core while it serves, so 50 % is the most there can be); latency
is what suffers. cputax stays attached and is paused in every second block of two seconds, see
`paused_blocks`. *Saturated*: 32 users in a closed loop; throughput is what suffers. In each round
every variant has one window, in an order that changes from round to round. In both, "no tool" comes
twice in a round, and the ratio between the two is the noise floor. Intervals are 95 %, from
resampling whole rounds.

    python tests/bench/bench_attach.py --rounds 6 --window 15 --blocks 60 --json attach.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import psutil
from load_window import Situation
from overhead_windows import (
    CPUTAX,
    OFF,
    OFF_AGAIN,
    PYSPY,
    ROOT,
    VARIANTS,
    Window,
    measure,
)
from paused_blocks import measure_blocks

RESAMPLE_COUNT: Final = 2000
HEADROOM_RATE_HZ: Final = 3.5
DISTURBED_CORES: Final = 0.1  # used by other programs; more than the tools themselves use
Statistic = Callable[[Sequence[Window]], float]


def median_latency_s(windows: Sequence[Window]) -> float:
    """Return the median over all requests of the windows."""
    return float(np.median(np.concatenate([one.latencies_s for one in windows])))


def p99_latency_s(windows: Sequence[Window]) -> float:
    """Return the 99th percentile over all requests of the windows."""
    return float(np.percentile(np.concatenate([one.latencies_s for one in windows]), 99))


def throughput_hz(windows: Sequence[Window]) -> float:
    """Return the finished requests per second."""
    return sum(one.finished_count for one in windows) / sum(one.seconds for one in windows)


# What suffers in each situation, and the bar: the ratio to "no tool" that cputax must keep.
STATISTICS: Final[dict[str, list[tuple[str, Statistic, str]]]] = {
    "headroom": [
        ("median latency", median_latency_s, "at most 1.02"),
        ("p99 latency", p99_latency_s, "at most 1.05"),
    ],
    "saturated": [("throughput", throughput_hz, "at least py-spy's; aim 0.95")],
}


def ratio_with_interval(
    rounds: Sequence[dict[str, Window]], variant: str, baseline: Sequence[str], of: Statistic
) -> tuple[float, float, float]:
    """Return ``variant``'s statistic over the baseline's, and the interval's two ends."""

    def ratio(some: Sequence[dict[str, Window]]) -> float:
        reference = [windows[name] for windows in some for name in baseline]
        return of([windows[variant] for windows in some]) / of(reference)

    chooser = random.Random(0)
    resampled = [ratio(chooser.choices(rounds, k=len(rounds))) for _ in range(RESAMPLE_COUNT)]
    low, high = np.percentile(resampled, [2.5, 97.5])
    return ratio(rounds), float(low), float(high)


def measure_rounds(
    server_url: str, pids: list[int], situation: Situation, options: argparse.Namespace,
    until_s: float, place: Path,
) -> list[dict[str, Window]]:  # fmt: skip
    """Measure whole rounds until there are enough of them or the time is up."""
    measure(server_url, pids, situation, OFF, -1, 2.0, place / "warm-up")
    rounds: list[dict[str, Window]] = []
    for index in range(options.rounds):
        began_s = time.monotonic()
        order = random.Random(index).sample(VARIANTS, k=len(VARIANTS))
        windows = {}
        for variant in order:
            output = place / f"{situation.name}-{index}-{variant.replace(' ', '-')}"
            windows[variant] = measure(
                server_url, pids, situation, variant, index, options.window, output
            )
        rounds.append(windows)
        progress = f"{situation.name}: round {index + 1} of {options.rounds}"
        print(progress, file=sys.stderr, flush=True)
        if 2 * time.monotonic() - began_s > until_s:  # the next would end too late
            break
    return rounds


def print_situation(situation: Situation, rounds: Sequence[dict[str, Window]]) -> None:
    """Print the ratios, the noise floor first, and what the tools used."""
    load = f"{situation.rate_hz} requests/s" if situation.rate_hz else "32 users, closed loop"
    quiet = [windows[name] for windows in rounds for name in (OFF, OFF_AGAIN)]
    idle_ratio = float(np.mean([one.idle_ratio for one in quiet]))
    errors = sum(one.error_count for windows in rounds for one in windows.values())
    print(f"\n{situation.name}: {load}; {len(rounds)} rounds of {quiet[0].seconds:.0f} s windows")
    others = [one.other_cores for windows in rounds for one in windows.values()]
    print(
        f"  other programs used {np.mean(others):.2f} cores, at most {max(others):.2f} in a window"
    )
    if np.mean(others) > DISTURBED_CORES:
        print("  DISTURBED: that is too much to judge by; run this on a quiet machine")
    print(f"  without a tool: {idle_ratio:.0%} of the cores idle; failed requests: {errors}")
    against = {OFF_AGAIN: [OFF], CPUTAX: [OFF, OFF_AGAIN], PYSPY: [OFF, OFF_AGAIN]}
    for name, statistic, bar in STATISTICS[situation.name]:
        print(f"  {name}, ratio to no tool ({statistic(quiet):.4g} there); required: {bar}")
        for variant in (one for one in against if one in rounds[0]):
            value, low, high = ratio_with_interval(rounds, variant, against[variant], statistic)
            note = "  <- the noise floor" if variant == OFF_AGAIN else ""
            print(f"    {variant:<14} {value:6.3f}  [{low:.3f}, {high:.3f}]{note}")
        if PYSPY in rounds[0]:
            value, low, high = ratio_with_interval(rounds, CPUTAX, [PYSPY], statistic)
            print(f"    {'cputax/py-spy':<14} {value:6.3f}  [{low:.3f}, {high:.3f}]")
    print_recorders([windows[CPUTAX] for windows in rounds])
    if PYSPY in rounds[0]:
        plain = float(np.median([windows[PYSPY].pyspy_cores for windows in rounds]))
        print(f"  CPU: plain py-spy {plain:.1%} of a core")


def print_recorders(ours: Sequence[Window]) -> None:
    """Print the CPU that the recorders took, and how well they saw."""
    own = float(np.mean([one.tool_cores for one in ours]))
    children = float(np.mean([one.pyspy_cores for one in ours]))
    print(f"  CPU: cputax apart from py-spy {own:.1%} of a core (required: at most 5.0%)")
    print(f"       its look by py-spy at the start {children:.1%}")
    for name in [probe["name"] for probe in ours[0].report["probes"]]:
        probes = [probe for one in ours for probe in one.report["probes"] if probe["name"] == name]
        print(
            f"  probe {name:<15} requested {_median(probes, 'requested_hz')} Hz,"
            f" achieved {_median(probes, 'achieved_hz')} Hz,"
            f" largest gap {_median(probes, 'largest_gap_ns', 1e-6)} ms"
        )
    for role in sorted({row["role"] for one in ours for row in one.report["coverage"]}):
        rows = [row for one in ours for row in one.report["coverage"] if row["role"] == role]
        print(f"  coverage {role:<17} {_median(rows, 'classified_ratio')}")


def _median(rows: Sequence[dict[str, object]], key: str, scale: float = 1.0) -> str:
    """Return the median of what is known, as text; "unknown" when nothing is."""
    values = [value for row in rows if isinstance(value := row.get(key), int | float)]
    return f"{float(np.median(values)) * scale:.4g}" if values else "unknown"


def main() -> int:
    """Start a server, measure both situations, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description="What cputax attach costs a real vLLM.")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--window", type=float, default=15.0, help="seconds")
    parser.add_argument("--blocks", type=int, default=60, help="rounds of four two-second blocks")
    parser.add_argument("--max-minutes", type=float, default=40.0, help="for both situations")
    parser.add_argument("--rate-hz", type=float, default=HEADROOM_RATE_HZ)
    parser.add_argument("--situation", choices=["headroom", "saturated", "both"], default="both")
    parser.add_argument("--json", type=Path, help="write every window there")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT / "examples" / "vllm_cpu"))
    from serve import running_server

    every = [Situation("headroom", options.rate_hz), Situation("saturated", None)]
    situations = [one for one in every if options.situation in (one.name, "both")]
    measured: list[Window] = []
    max_s = options.max_minutes * 60
    with running_server(max_seconds=max_s + 120) as server, tempfile.TemporaryDirectory() as place:
        children = psutil.Process(server.pid).children(recursive=True)
        pids = [server.pid, *(one.pid for one in children if one.name().startswith("VLLM::"))]
        for situation in situations:
            until_s = time.monotonic() + max_s / len(situations)
            if situation.rate_hz is None:
                rounds = measure_rounds(server.url, pids, situation, options, until_s, Path(place))
            else:
                rounds = measure_blocks(
                    server.url, pids, situation, options.blocks, Path(place) / "blocks"
                )
            print_situation(situation, rounds)
            measured += [window for windows in rounds for window in windows.values()]
            if options.json:
                document = [dataclasses.asdict(window) for window in measured]
                options.json.write_text(json.dumps(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
