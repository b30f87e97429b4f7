"""Writing a timeline: our recorder against what a user would reach for instead.

Prints rows per second and bytes per row for the same batches of thread counters (20 Hz, 50 threads
that changed, one minute), each written so that a kill loses at most the last batch.

    python tests/bench/bench_recorder.py
"""

from __future__ import annotations

import csv
import json
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from collectors.manifest import Manifest, TargetRecord
from collectors.recorder import Recorder
from probes.threads import COLUMNS

BATCHES = 60
ROWS = 1000
ROUNDS = 5

Rows = dict[str, list[int | None]]


def make_batches() -> list[Rows]:
    """One batch a second, as the thread probe makes them."""
    random = np.random.default_rng(0)
    batches: list[Rows] = []
    for second in range(BATCHES):
        batch: Rows = {name: random.integers(0, 1 << 40, ROWS).tolist() for name in COLUMNS}
        batch["time_ns"] = (np.arange(ROWS) + second * 1_000_000_000).tolist()
        batch["track"] = (np.arange(ROWS) % 50).tolist()
        batch["cpu"] = (np.arange(ROWS) % 2).tolist()
        batch["voluntary_count"] = [None] * ROWS
        batches.append(batch)
    return batches


def write_ours(batches: list[Rows], directory: Path) -> Path:
    recorder = Recorder(directory / "capture", Manifest(TargetRecord(1, "python"), 0, "bench"))
    for batch in batches:
        recorder.append("thread_counters", batch)
        recorder.flush()
    recorder.close()
    return directory / "capture" / "stream" / "thread_counters.arrows"


def write_json_lines(batches: list[Rows], directory: Path) -> Path:
    path = directory / "rows.jsonl"
    with path.open("w") as out:
        for batch in batches:
            for row in zip(*batch.values(), strict=True):
                out.write(json.dumps(dict(zip(COLUMNS, row, strict=True))) + "\n")
            out.flush()
    return path


def write_csv(batches: list[Rows], directory: Path) -> Path:
    path = directory / "rows.csv"
    with path.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(COLUMNS)
        for batch in batches:
            writer.writerows(zip(*batch.values(), strict=True))
            out.flush()
    return path


def write_sqlite(batches: list[Rows], directory: Path) -> Path:
    path = directory / "rows.db"
    connection = sqlite3.connect(path)
    connection.execute(f"CREATE TABLE rows ({', '.join(COLUMNS)})")
    holes = ", ".join("?" * len(COLUMNS))
    for batch in batches:
        rows = zip(*batch.values(), strict=True)
        connection.executemany(f"INSERT INTO rows VALUES ({holes})", rows)
        connection.commit()
    connection.close()
    return path


WRITERS: dict[str, Callable[[list[Rows], Path], Path]] = {
    "cputax recorder": write_ours,
    "JSON lines": write_json_lines,
    "csv": write_csv,
    "sqlite3": write_sqlite,
}


def main() -> None:
    batches = make_batches()
    seconds: dict[str, list[float]] = {name: [] for name in WRITERS}
    sizes: dict[str, int] = {}
    for _ in range(ROUNDS):
        for name, write in WRITERS.items():
            with tempfile.TemporaryDirectory() as scratch:
                before = time.process_time()
                path = write(batches, Path(scratch))
                seconds[name].append(time.process_time() - before)
                sizes[name] = path.stat().st_size
    rows = BATCHES * ROWS
    ours = statistics.median(seconds["cputax recorder"])
    print(f"{rows} rows in {BATCHES} batches, CPU time, median of {ROUNDS} interleaved rounds")
    print(f"{'writer':18}{'ms':>8}{'rows/s':>12}{'ratio':>8}{'bytes/row':>11}")
    for name in WRITERS:
        median = statistics.median(seconds[name])
        size = sizes[name] / rows
        print(f"{name:18}{median * 1e3:8.0f}{rows / median:12.0f}{median / ours:8.1f}{size:11.0f}")


if __name__ == "__main__":
    main()
