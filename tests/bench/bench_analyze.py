"""How long `analyze` takes on a made capture: 60 s of a server of three processes.

Each process has 15 Python threads sampled at 100 Hz (every tick another stack, the worst case), 35
native ones, counters at 20 Hz and the GIL at 1 kHz. Run: ``python tests/bench/bench_analyze.py``.
"""

from __future__ import annotations

import cProfile
import pstats
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from analyzers.analysis import analyze
from analyzers.timeline import Timeline
from collectors.capture import Capture
from collectors.manifest import Manifest, TargetRecord
from collectors.schema import TABLES
from collectors.stacks import StackTable

SECONDS = 60
ROLES = ("api_server", "engine_core", "worker")
PYTHON_THREADS, NATIVE_THREADS = 15, 35
SAMPLE_HZ, COUNTER_HZ, GIL_HZ = 100, 20, 1000
FILES, FUNCTIONS, STACKS = 150, 800, 5_000
NS = 1_000_000_000


def made_capture(seed: int = 1) -> Capture:
    """Return the capture; the same for the same seed."""
    random = np.random.default_rng(seed)
    stacks = StackTable()
    site = "/opt/venv/lib/python3.11/site-packages/vllm/v1"
    files = [f"{site}/package{index % 12}/module_{index}.py" for index in range(FILES)]
    frames = [
        stacks.frame(f"Class{index}.method_{index}", files[index % FILES])
        for index in range(FUNCTIONS)
    ]
    frames += [
        stacks.frame("Scheduler.schedule", f"{site}/core/sched/scheduler.py"),
        stacks.frame("Condition.wait", "/usr/lib/python3.11/threading.py"),
        stacks.frame("BaseRenderer._tokenize_prompt", "/opt/vllm/renderers/base.py"),
    ]
    leaves = np.array(
        [stacks.stack(random.choice(frames, random.integers(5, 40))) for _ in range(STACKS)],
        np.int32,
    )
    tracks, samples, counters, gil = [], [], [], []
    empty_row = dict.fromkeys(TABLES["tracks"].names)
    for role in ROLES:
        process, pid = len(tracks), 1000 + len(tracks)
        common = {**empty_row, "pid": pid, "role": role}
        tracks.append({**common, "track": process, "kind": "process", "name": role})
        for index in range(PYTHON_THREADS + NATIVE_THREADS):
            track = len(tracks)
            own = {"track": track, "kind": "thread", "parent": process, "tid": pid + index}
            tracks.append({**common, **own, "name": f"thread {index}"})
            if index < PYTHON_THREADS:
                samples.append(_samples(random, track, leaves))
            counters.append(_counters(random, track))
        gil.append(_gil(random, process))
    tables = {name: schema.empty_table() for name, schema in TABLES.items()}
    tables["tracks"] = pa.Table.from_pylist(tracks, schema=TABLES["tracks"])
    tables["frames"] = pa.table(stacks.frame_columns(), schema=TABLES["frames"])
    tables["stacks"] = pa.table(stacks.stack_columns(), schema=TABLES["stacks"])
    tables |= {
        "samples": pa.concat_tables(samples).sort_by("time_ns"),
        "thread_counters": pa.concat_tables(counters).sort_by("time_ns"),
        "gil": pa.concat_tables(gil).sort_by("time_ns"),
    }
    manifest = Manifest(
        TargetRecord(1000, "vllm"), 0, "0", state="complete", stopped_ns=SECONDS * NS
    )
    return Capture(Path("bench.capture"), manifest, tables, is_recovered=False)


def _samples(random: np.random.Generator, track: int, leaves: np.ndarray) -> pa.Table:
    count = SECONDS * SAMPLE_HZ
    columns = {
        "time_ns": np.arange(count) * NS // SAMPLE_HZ,
        "duration_ns": np.full(count, NS // SAMPLE_HZ),
        "track": np.full(count, track),
        "stack": random.choice(leaves, count),
    }
    return pa.table(columns).cast(TABLES["samples"])


def _counters(random: np.random.Generator, track: int) -> pa.Table:
    count = SECONDS * COUNTER_HZ
    columns = {
        "time_ns": pa.array(np.arange(count) * NS // COUNTER_HZ),
        "track": pa.array(np.full(count, track)),
        "run_ns": pa.array(np.cumsum(random.integers(0, 3_000_000, count))),
        "wait_ns": pa.array(np.cumsum(random.integers(0, 1_000_000, count))),
        "timeslice_count": pa.array(np.arange(count)),
        "voluntary_count": pa.nulls(count),
        "involuntary_count": pa.nulls(count),
        "cpu": pa.nulls(count),
    }
    return pa.table(columns).cast(TABLES["thread_counters"])


def _gil(random: np.random.Generator, process: int) -> pa.Table:
    count = SECONDS * GIL_HZ
    holder = process + 1 + random.integers(0, PYTHON_THREADS, count)
    waiters = [[int(one)] if index % 10 == 0 else None for index, one in enumerate(holder)]
    columns = {
        "time_ns": pa.array(np.arange(count) * NS // GIL_HZ),
        "track": pa.array(np.full(count, process)),
        "holder": pa.array(holder),
        "waiter_count": pa.array(random.integers(0, 3, count)),
        "switch_count": pa.array(np.arange(count)),
        "waiters": pa.array(waiters, pa.list_(pa.int32())),
    }
    return pa.table(columns).cast(TABLES["gil"])


def main() -> None:
    """Print the best of three times, and with ``--profile`` where they went."""
    capture = made_capture()
    rows = {name: table.num_rows for name, table in capture.tables.items() if table.num_rows}
    print("rows:", ", ".join(f"{name} {count:,}" for name, count in rows.items()))
    first, *more = (_timed(capture) for _ in range(4))
    print(f"analyze, {len(Timeline(capture).threads)} threads: {first:.2f} s the first time, "
          f"then {min(more):.2f} s (best of 3)")  # fmt: skip
    if "--profile" in sys.argv:
        with cProfile.Profile() as profile:
            analyze(capture)
        pstats.Stats(profile).sort_stats("cumulative").print_stats(25)


def _timed(capture: Capture) -> float:
    begun = time.perf_counter()
    analyze(capture)
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
