"""How long cputax and its peers take for a trace's GPU breakdown, and how much memory.

Every run is a fresh process, its interpreter's start and its imports included; the best wall and
CPU time of the runs counts, and the largest memory. Run::

    python -m venv HTA && HTA/bin/pip install traceinsight 'pandas<3' orjson
    python tests/bench/bench_trace_peers.py --hta HTA/bin/python TRACE.json.gz ...

``cputax`` is reading what ran on GPUs and `gpu_busy`'s unions, ``cputax --json`` the full ``cputax
analyze FILE --json``. ``--tracelens PYTHON`` adds AMD's TraceLens in the way of ``--hta`` (from its
repository: the package index has another project of that name); ``--quoted FILE`` compares with
timings that were taken elsewhere.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
RUNS = Path(__file__).with_name("trace_peer_runs.py")
GZIP_MAGIC = b"\x1f\x8b"
LARGE_BYTES = 50_000_000  # from here on memory is compared
SHOWN = ("span_ns", "busy_ns", "idle_ns")


@dataclass(frozen=True)
class Run:
    """One process, from its start to its end."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    output: bytes
    is_well: bool


Best = dict[tuple[str, Path], Run | None]  # by tool and file; None: it failed


def run(command: list[str]) -> Run:
    """Run a command to its end; its peak memory is its own, for this process is small."""
    read_end, write_end = os.pipe()
    actions: list[Any] = [
        (os.POSIX_SPAWN_DUP2, write_end, 1),
        (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
    ]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    started_s = time.perf_counter()
    pid = os.posix_spawn(command[0], command, environment, file_actions=actions)
    os.close(write_end)
    with open(read_end, "rb") as pipe:
        output = pipe.read()
    _, status, usage = os.wait4(pid, 0)
    wall_s = time.perf_counter() - started_s
    cpu_s = usage.ru_utime + usage.ru_stime
    return Run(wall_s, cpu_s, usage.ru_maxrss / 1024, output, status == 0)


def best_of(runs: list[Run]) -> Run | None:
    """Return the best times and the largest memory of runs; `None` if one failed."""
    if not all(one.is_well for one in runs):
        return None
    return Run(
        min(one.wall_s for one in runs),
        min(one.cpu_s for one in runs),
        max(one.peak_mb for one in runs),
        runs[-1].output,
        True,
    )


def commands(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """Return each tool's command, to which the file is appended."""
    found = {"cputax": [sys.executable, str(RUNS), "cputax"]}
    cli = Path(sys.executable).with_name("cputax")
    if cli.exists() and not arguments.no_cli:
        found["cputax --json"] = [str(cli), "analyze", "--json"]
    for tool in ("hta", "tracelens"):
        if python := getattr(arguments, tool):
            found[tool] = [python, str(RUNS), tool]
    found["gunzip"] = [sys.executable, str(RUNS), "gunzip"]
    if arguments.hta:
        found["orjson"] = [arguments.hta, str(RUNS), "orjson"]
    return found


@cache
def raw_bytes(path: Path) -> int:
    """Return the unpacked size of a file."""
    with path.open("rb") as file:
        if file.read(2) != GZIP_MAGIC:
            return path.stat().st_size
    size = 0
    with gzip.open(path) as unpacked:
        while block := unpacked.read(1 << 20):
            size += len(block)
    return size


def measure(paths: list[Path], tools: dict[str, list[str]], run_count: int) -> Best:
    """Return the best run of each tool on each file; the tools take turns."""
    found: dict[tuple[str, Path], list[Run]] = {}
    for _ in range(run_count):
        for path in paths:
            for tool, command in tools.items():
                found.setdefault((tool, path), []).append(run([*command, str(path)]))
    return {key: best_of(runs) for key, runs in found.items()}


def show_files(paths: list[Path], tools: dict[str, list[str]], best: Best) -> None:
    """Print a line for each file and tool."""
    print(f"{'file':44}{'raw MB':>8}  {'tool':14}{'wall s':>8}{'CPU s':>8}{'peak MB':>9}", end="")
    print("  span, busy, idle in ms")
    for path in paths:
        for tool in tools:
            print(f"{path.name[:43]:44}{raw_bytes(path) / 1e6:8.1f}  {tool:14}", end="")
            one = best[tool, path]
            if one is None:
                print("  failed")
            else:
                print(f"{one.wall_s:8.3f}{one.cpu_s:8.3f}{one.peak_mb:9.1f}  {figures_of(one)}")


def figures_of(one: Run) -> str:
    """Return span, busy and idle as a tool printed them, in ms."""
    document = json.loads(one.output)
    devices = document.get("gpu", [document])
    if not all(name in device for name in SHOWN for device in devices):
        return ""
    return ", ".join(f"{sum(device[name] for device in devices) / 1e6:.6f}" for name in SHOWN)


def show_totals(paths: list[Path], tools: dict[str, list[str]], best: Best) -> None:
    """Print how cputax compares with each tool, over the files that both could read."""
    for ours in [tool for tool in tools if tool.startswith("cputax")]:
        for tool in tools:
            both = [
                (path, one, other)
                for path in paths
                if (one := best[ours, path]) is not None and (other := best[tool, path]) is not None
            ]
            if tool == ours or not both:
                continue
            wall_s = sum(one.wall_s for _, one, _ in both)
            cpu_s = sum(one.cpu_s for _, one, _ in both)
            other_wall_s = sum(other.wall_s for _, _, other in both)
            other_cpu_s = sum(other.cpu_s for _, _, other in both)
            print(f"{ours} against {tool}, {len(both)} files: ", end="")
            print(f"wall {wall_s:.2f} and {other_wall_s:.2f} s", end="")
            print(f" ({other_wall_s / wall_s:.1f} times), CPU {cpu_s:.2f} and {other_cpu_s:.2f} s")
            for path, one, other in both:
                if raw_bytes(path) > LARGE_BYTES:
                    print(f"    {path.name}: peak {one.peak_mb:.0f} and {other.peak_mb:.0f} MB")


def show_quoted(paths: list[Path], best: Best, quoted: Path) -> None:
    """Print totals against timings of tools that were run elsewhere, on the same files."""
    traces = json.loads(quoted.read_text())["traces"]
    timings = {Path(name).name: trace["tools"] for name, trace in traces.items()}
    for tool in sorted({tool for tools in timings.values() for tool in tools}):
        both = [
            (one, timings[path.name][tool])
            for path in paths
            if (one := best["cputax", path]) is not None
            and "process_wall_s" in timings.get(path.name, {}).get(tool, {})
        ]
        if both:
            wall_s = sum(one.wall_s for one, _ in both)
            quoted_s = sum(other["process_wall_s"] for _, other in both)
            print(f"cputax against {tool} as quoted, {len(both)} files: ", end="")
            print(f"wall {wall_s:.2f} and {quoted_s:.2f} s ({quoted_s / wall_s:.1f} times)")


def main() -> None:
    """Measure, and print one table."""
    parser = argparse.ArgumentParser(description="Compare cputax with its peers.")
    parser.add_argument("traces", nargs="+", type=Path)
    parser.add_argument("--hta", help="interpreter of an environment with HolisticTraceAnalysis")
    parser.add_argument("--tracelens", help="interpreter of an environment with TraceLens")
    parser.add_argument("--quoted", type=Path, help="timings of tools that were run elsewhere")
    parser.add_argument("--no-cli", action="store_true", help="without cputax analyze FILE --json")
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    tools = commands(arguments)
    best = measure(arguments.traces, tools, arguments.runs)
    show_files(arguments.traces, tools, best)
    show_totals(arguments.traces, tools, best)
    if arguments.quoted:
        show_quoted(arguments.traces, best, arguments.quoted)


if __name__ == "__main__":
    main()
