"""What recording every context switch costs a real vLLM under load: its own throughput, in turns.

The events cost where a switch happens, in the kernel, so pausing the recorder would not show what
they cost: for every block a recorder process begins a recording and ends it. A round is four
blocks, twice without the probe and twice with it, in an order that turns from round to round, so
that a drift of the machine's speed is the same for both. What the server generated is its own
counter, read at the ends of each block; the ratio of the two blocks *without* the probe is the
noise floor. Intervals are 95 %, from resampling whole rounds.

    python tests/bench/bench_switch_overhead.py --rounds 60 --block 3 --json switch_overhead.json
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
from overhead_windows import ROOT, Meter

sys.path.insert(0, str(ROOT))

OFF, OFF_AGAIN, ON, ON_AGAIN = "off", "off again", "switches", "switches again"
ORDERS: Final = ((OFF, ON, ON_AGAIN, OFF_AGAIN), (ON, OFF, OFF_AGAIN, ON_AGAIN))
RESAMPLE_COUNT: Final = 2000
WARM_UP_S: Final = 6.0
SETTLE_S: Final = 0.7  # until a recording's own helper process is up
# Used by other programs, the load's client among them, which takes a tenth of a core.
DISTURBED_CORES: Final = 0.25
MIN_RATIO: Final = 0.98
MAX_RECORDER_CORES: Final = 0.03
GENERATED: Final = "vllm:generation_tokens_total"


@dataclass(frozen=True)
class Block:
    """What was measured in one block."""

    variant: str
    round: int
    seconds: float
    token_count: float
    recorder_cores: float
    server_cores: float
    other_cores: float
    slice_count: int | None = None  # of the target; None: not recorded
    record: dict[str, Any] | None = None  # the probe's entry in the manifest
    lost: list[dict[str, Any]] | None = None  # the capture's gaps


class Recorder:
    """A process that records the server's switches, or waits."""

    def __init__(self, pid: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--record", str(pid)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._answer()
        self.pid = self._process.pid

    def begin(self, directory: Path) -> None:
        """Return once it records."""
        self._ask(str(directory))

    def end(self) -> None:
        """Return once the recording has been closed."""
        self._ask("")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _ask(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        self._answer()

    def _answer(self) -> None:
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "done\n":
            raise RuntimeError("the recorder has failed; see above")


def record(pid: int) -> None:
    """Be the recorder: a line names the directory to record into, an empty one ends it."""
    from probes.switches.probe import SwitchProbe
    from probes.target import find_target
    from profiler.session import Session, StopReason

    target = find_target(pid)
    session: Session | None = None
    print("done", flush=True)
    for line in map(str.strip, sys.stdin):
        if session is not None:
            problem = session.finish(StopReason.USER)
            if problem is not None:
                raise problem
            session = None
        if line:
            session = Session(target, Path(line), [SwitchProbe()])
            session.start()
        print("done", flush=True)


def generated_count(url: str) -> tuple[float, float]:
    """Return how many tokens the server has generated, and when it said so, s."""
    began_s = time.monotonic()
    with urllib.request.urlopen(f"{url}/metrics", timeout=10.0) as page:
        lines = page.read().decode().splitlines()
    now_s = (began_s + time.monotonic()) / 2
    counts = [float(line.split()[-1]) for line in lines if line.startswith(f"{GENERATED}{{")]
    return sum(counts), now_s


def measure_block(
    url: str, server: list[psutil.Process], recorder: Recorder, variant: str, index: int,
    seconds: float, place: Path,
) -> Block:  # fmt: skip
    """Measure one block; what a recording costs at its beginning and its end is outside."""
    directory = place / f"{index}-{variant.replace(' ', '-')}"
    is_on = variant in (ON, ON_AGAIN)
    if is_on:
        recorder.begin(directory)
    time.sleep(SETTLE_S)
    meter = Meter(server, [psutil.Process(recorder.pid)])
    meter.begin()
    count, began_s = generated_count(url)
    time.sleep(max(0.0, began_s + seconds - time.monotonic()))
    last_count, ended_s = generated_count(url)
    meter.end()
    measured = Block(
        variant, index, ended_s - began_s, last_count - count,
        meter.tool_cores, meter.server_cores, meter.other_cores,
    )  # fmt: skip
    if not is_on:
        return measured
    recorder.end()
    return dataclasses.replace(measured, **_recorded(directory))


def _recorded(directory: Path) -> dict[str, Any]:
    from collectors.capture import open_capture

    capture = open_capture(directory)
    (probe,) = capture.manifest.probes
    return {
        "slice_count": capture.table("cpu_slices").num_rows,
        "record": dataclasses.asdict(probe),
        "lost": capture.table("gaps").to_pylist(),
    }


@contextlib.contextmanager
def loaded(url: str, options: argparse.Namespace) -> Iterator[None]:
    """Keep the users chatting over one prompt until the block ends."""
    shape = ["--users", options.users, "--prompt-chars", options.prompt_chars]
    shape += ["--max-tokens", options.max_tokens]
    command = [Path(sys.executable).with_name("cputax"), "load", "run", "--url", url, "-q"]
    length = ["--shared-prompt", "-d", f"{options.max_minutes * 60:.0f}s"]
    process = subprocess.Popen([str(word) for word in (*command, *shape, *length)])
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def ratio_with_interval(
    rounds: Sequence[dict[str, Block]], of: Sequence[str], to: Sequence[str]
) -> tuple[float, float, float]:
    """Return the throughput of some variants over that of others, and the interval's two ends."""

    def sums(variants: Sequence[str], value: Callable[[Block], float]) -> np.ndarray:
        return np.array([sum(value(blocks[name]) for name in variants) for blocks in rounds])

    columns = [
        sums(variants, value)
        for variants in (of, to)
        for value in (lambda one: one.token_count, lambda one: one.seconds)
    ]
    chooser = np.random.default_rng(0)
    chosen = chooser.integers(len(rounds), size=(RESAMPLE_COUNT, len(rounds)))

    def ratio(rows: np.ndarray) -> np.ndarray:
        tokens, seconds, other_tokens, other_seconds = (c[rows].sum(axis=-1) for c in columns)
        return np.asarray((tokens / seconds) / (other_tokens / other_seconds))

    low, high = np.percentile(ratio(chosen), [2.5, 97.5])
    return float(ratio(np.arange(len(rounds)))), float(low), float(high)


def print_result(rounds: Sequence[dict[str, Block]]) -> None:
    """Print the ratios, the noise floor first, and what the recorder used and saw."""
    every = [block for blocks in rounds for block in blocks.values()]
    recorded = [one for one in every if one.record is not None]
    quiet = [one for one in every if one.record is None]
    tokens_hz = sum(one.token_count for one in quiet) / sum(one.seconds for one in quiet)
    calm = [
        blocks
        for blocks in rounds
        if all(one.other_cores < DISTURBED_CORES for one in blocks.values())
    ]
    print(f"{len(rounds)} rounds of four blocks of {every[0].seconds:.1f} s")
    print(f"without the probe: {tokens_hz:.0f} tokens/s")
    others = [one.other_cores for one in every]
    print(f"other programs (the load's client among them) used {np.mean(others):.2f} cores")
    if len(calm) < len(rounds):
        print(f"DISTURBED: {len(rounds) - len(calm)} rounds by other programs; those are left out")
    for name, of, to in (
        ("noise floor", [OFF_AGAIN], [OFF]),
        (f"throughput with the probe (at least {MIN_RATIO})", [ON, ON_AGAIN], [OFF, OFF_AGAIN]),
    ):
        value, low, high = ratio_with_interval(calm or rounds, of, to)
        print(f"{name}: {value:.3f} [{low:.3f}, {high:.3f}]")
    seconds = sum(one.seconds for one in recorded)
    slices_hz = sum(one.slice_count or 0 for one in recorded) / seconds
    cores = float(np.average([one.recorder_cores for one in recorded]))
    print(f"recorder {cores:.2%} of a core (at most {MAX_RECORDER_CORES:.0%})")
    print(f"stays on a CPU {slices_hz:.0f}/s; gaps {sum(len(one.lost or []) for one in recorded)}")
    print(f"the last recording: {json.dumps(recorded[-1].record, default=str)}")


def main() -> int:
    """Start a server and a load, measure the rounds, print the result."""
    parser = argparse.ArgumentParser(description="What recording switches costs a real vLLM.")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--block", type=float, default=3.0, help="seconds")
    parser.add_argument("--users", type=int, default=8)
    parser.add_argument("--prompt-chars", type=int, default=20_000)
    # Long answers: at the seams between requests the throughput jumps.
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--max-minutes", type=float, default=20.0, help="of load")
    parser.add_argument("--json", type=Path, help="write every block there")
    parser.add_argument("--record", type=int, metavar="PID", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.record is not None:
        record(options.record)
        return 0
    sys.path.insert(0, str(ROOT / "examples" / "vllm_cpu"))
    from serve import running_server

    rounds: list[dict[str, Block]] = []
    max_s = options.max_minutes * 60
    with running_server(max_seconds=max_s + 60) as server, tempfile.TemporaryDirectory() as place:
        processes = [psutil.Process(server.pid)]
        processes += processes[0].children(recursive=True)
        recorder = Recorder(server.pid)
        until_s = time.monotonic() + max_s - 30
        try:
            with loaded(server.url, options):
                time.sleep(WARM_UP_S)
                for index in range(options.rounds):
                    blocks = {}
                    for variant in ORDERS[index % len(ORDERS)]:
                        blocks[variant] = measure_block(
                            server.url, processes, recorder, variant, index, options.block,
                            Path(place),
                        )  # fmt: skip
                    rounds.append(blocks)
                    print(f"round {index + 1} of {options.rounds}", file=sys.stderr, flush=True)
                    if time.monotonic() > until_s:
                        break
        finally:
            recorder.close()
    print_result(rounds)
    if options.json:
        document = [dataclasses.asdict(one) for blocks in rounds for one in blocks.values()]
        options.json.write_text(json.dumps(document, default=str))
    return 0


if __name__ == "__main__":
    sys.exit(main())
