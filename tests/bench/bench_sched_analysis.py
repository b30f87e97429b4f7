"""What the analysis of context switches costs: made captures of 60 s, 150 threads and 8 CPUs.

Beside it plain DuckDB queries for the first of its questions, in memory and with one thread: the
sums of each kind of time off the CPU per thread, who pushed whom off, and how many threads wanted a
CPU at once. They must give the same figures.

Run: ``python tests/bench/bench_sched_analysis.py [MILLIONS ...]``; 2 by default.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from analyzers.sched import demand, gil_cpu, preemptions, yields
from analyzers.sched.account import thread_rows
from analyzers.sched.histories import read_histories
from analyzers.sched.occupants import occupant_rows
from analyzers.sched.report import ANALYZER, DEMAND
from analyzers.sched.residency import measure_residency
from analyzers.sched.stage_waits import stage_rows
from analyzers.sched.totals import ThreadTotals, measure_totals
from analyzers.sched.wait_series import measure_series
from analyzers.timeline import Timeline
from collectors.capture import Capture
from collectors.cpu_slices import BLOCKED, PREEMPTED, YIELDED
from collectors.manifest import Manifest, TargetRecord
from collectors.schema import TABLES

THREADS, PROCESSES, CPUS = 150, 3, 8
SECONDS = 60
NS = 1_000_000_000
GIL_HZ = 1_000
STACK_HZ, PYTHON_THREADS = 100, 30
FRAMES = (
    ("Scheduler.schedule", "/site/vllm/v1/core/sched/scheduler.py"),
    ("BaseRenderer._tokenize_prompt", "/site/vllm/renderers/base.py"),
    ("BaseIncrementalDetokenizer.update", "/site/vllm/v1/engine/detokenizer.py"),
    ("SpinCondition.wait", "/site/vllm/distributed/device_communicators/shm_broadcast.py"),
    ("main", "/srv/app.py"),
)


def made(count: int, seed: int = 1) -> Capture:
    """Return a capture of ``count`` slices, their threads, their stacks, and looks at the GIL."""
    random = np.random.default_rng(seed)
    each = count // THREADS
    period = SECONDS * NS // each
    columns: dict[str, list[Any]] = {name: [] for name in TABLES["cpu_slices"].names}
    for thread in range(THREADS):
        start = np.arange(each) * period + random.integers(0, period // 4, each)
        duration = random.integers(period // 10, period // 2, each)
        leave = random.choice(np.array([PREEMPTED, BLOCKED, YIELDED], np.int8), each)
        ready = start[1:] - random.integers(0, period // 20, each - 1)
        woken = np.where(leave[:-1] == BLOCKED, ready, -1)
        columns["time_ns"].append(start)
        columns["duration_ns"].append(duration)
        columns["track"].append(np.full(each, PROCESSES + thread, np.int32))
        columns["cpu"].append(random.integers(0, CPUS, each).astype(np.int16))
        columns["leave"].append(leave)
        following = PROCESSES + random.integers(0, THREADS, each)
        columns["next"].append(following.astype(np.int32))
        columns["woken_ns"].append(np.concatenate(([-1], woken)))
    whole = {name: np.concatenate(parts) for name, parts in columns.items()}
    order = np.argsort(whole["time_ns"], kind="stable")
    arrays = {name: values[order] for name, values in whole.items()}
    tables = {name: schema.empty_table() for name, schema in TABLES.items()}
    tables["cpu_slices"] = pa.table(
        {
            name: pa.array(values, mask=values < 0 if name == "woken_ns" else None)
            for name, values in arrays.items()
        },
        schema=TABLES["cpu_slices"],
    )
    tables["tracks"] = pa.Table.from_pylist(_tracks(), schema=TABLES["tracks"])
    looks = SECONDS * GIL_HZ
    holder = random.integers(PROCESSES, PROCESSES + THREADS // PROCESSES, looks)
    gil = {
        "time_ns": np.arange(looks) * (NS // GIL_HZ), "track": np.zeros(looks, np.int32),
        "holder": holder.astype(np.int32), "waiter_count": np.ones(looks, np.int16),
        "switch_count": np.arange(looks), "waiters": pa.nulls(looks, pa.list_(pa.int32())),
    }  # fmt: skip
    tables["gil"] = pa.table(gil, schema=TABLES["gil"])
    tables |= _stacks(random)
    manifest = Manifest(TargetRecord(0, "vllm"), 0, "0", state="complete", stopped_ns=SECONDS * NS)
    manifest.host["allowed_cpu_count"] = CPUS
    return Capture(Path("bench"), manifest, tables, is_recovered=False)


def _stacks(random: np.random.Generator) -> dict[str, pa.Table]:
    """Return stacks of one frame, a new one at each look."""
    looks = SECONDS * STACK_HZ
    rows = PYTHON_THREADS * looks
    threads = np.arange(PYTHON_THREADS) * (THREADS // PYTHON_THREADS) + PROCESSES
    samples = {
        "time_ns": np.tile(np.arange(looks) * (NS // STACK_HZ), PYTHON_THREADS),
        "duration_ns": np.full(rows, NS // STACK_HZ),
        "track": np.repeat(threads, looks).astype(np.int32),
        "stack": random.integers(0, len(FRAMES), rows).astype(np.int32),
    }
    ids = list(range(len(FRAMES)))
    frames = {
        "frame": ids,
        "function": [one for one, _ in FRAMES],
        "file": [one for _, one in FRAMES],
    }
    stacks = {"stack": ids, "parent": [-1] * len(ids), "frame": ids}
    return {
        name: pa.table(columns, schema=TABLES[name])
        for name, columns in (("samples", samples), ("frames", frames), ("stacks", stacks))
    }


def _tracks() -> list[dict[str, Any]]:
    roles = ("api_server", "engine_core", "worker")
    rows: list[dict[str, Any]] = [
        {"track": one, "kind": "process", "pid": 100 + one, "name": "python", "role": roles[one]}
        for one in range(PROCESSES)
    ]
    for thread in range(THREADS):
        process = thread * PROCESSES // THREADS
        rows.append(
            {
                "track": PROCESSES + thread, "kind": "thread", "parent": process,
                "pid": 100 + process, "tid": 1000 + thread, "name": f"pool-{thread}",
                "role": roles[process],
            }
        )  # fmt: skip
    return rows


SUMS = """
WITH stays AS (
  SELECT *, time_ns + duration_ns AS end_ns,
    lag(time_ns + duration_ns) OVER own AS left_ns, lag(leave) OVER own AS why
  FROM cpu_slices WINDOW own AS (PARTITION BY track ORDER BY time_ns)
)
SELECT track, sum(duration_ns) AS on_cpu,
  sum(CASE WHEN why = 1 THEN time_ns - left_ns END) AS preempted,
  sum(CASE WHEN why = 3 THEN time_ns - left_ns END) AS yielded,
  sum(CASE WHEN why = 2 THEN greatest(woken_ns, left_ns) - left_ns END) AS blocked,
  sum(CASE WHEN why = 2 THEN time_ns - greatest(woken_ns, left_ns) END) AS waking
FROM stays GROUP BY track ORDER BY track
"""
PAIRS = """
WITH stays AS (
  SELECT *, lag(time_ns + duration_ns) OVER own AS left_ns, lag(leave) OVER own AS why,
    lag(next) OVER own AS taker
  FROM cpu_slices WINDOW own AS (PARTITION BY track ORDER BY time_ns)
)
SELECT track, taker, count(*) AS count, sum(time_ns - left_ns) AS lost FROM stays
WHERE why = 1 GROUP BY track, taker
"""
DEMAND_SQL = """
WITH stays AS (
  SELECT *, lag(time_ns + duration_ns) OVER own AS left_ns, lag(leave) OVER own AS why
  FROM cpu_slices WINDOW own AS (PARTITION BY track ORDER BY time_ns)
), wanting AS (
  SELECT CASE WHEN why = 2 THEN greatest(woken_ns, left_ns) ELSE coalesce(left_ns, time_ns) END
    AS ready, time_ns + duration_ns AS end_ns FROM stays
), steps AS (
  SELECT ready AS t, 1 AS step FROM wanting UNION ALL SELECT end_ns, -1 FROM wanting
), changes AS (SELECT t, sum(step) AS step FROM steps GROUP BY t), levels AS (
  SELECT sum(step) OVER (ORDER BY t) AS level, lead(t) OVER (ORDER BY t) - t AS ns FROM changes
)
SELECT level, sum(ns) AS ns FROM levels WHERE ns IS NOT NULL GROUP BY level ORDER BY level
"""


def timed(name: str, work: Callable[[], Any]) -> Any:
    """Run, print how long it took, and return what it gave."""
    began, cpu = time.perf_counter(), time.process_time()
    found = work()
    print(
        f"  {name:44} {time.perf_counter() - began:7.2f} s {time.process_time() - cpu:7.2f} s CPU",
        flush=True,
    )
    return found


def measure(count: int) -> None:
    """Time ours and theirs at one size, and compare what they say."""
    capture = made(count)
    cpu_slices = capture.table("cpu_slices")
    print(f"{cpu_slices.num_rows / 1e6:.1f} M slices")
    timeline = Timeline(capture)
    timed("ours: read and order the histories", lambda: timeline.once(read_histories))
    totals: list[ThreadTotals] = timed("ours: sums", lambda: timeline.once(measure_totals))
    pairs = timed("ours: who pushed whom", lambda: preemptions.section(timeline))
    wanted = timed("ours: demand", lambda: timeline.once(demand.measure_demand))
    for name, work in (
        ("rows of threads", thread_rows),
        ("who had the CPU meanwhile", occupant_rows),
        ("stages", stage_rows),
        ("over time", measure_series),
        ("pools", demand.section),
        ("yields", yields.yield_rows),
        ("residency", measure_residency),
        ("the GIL", gil_cpu.rows),
    ):
        timed(f"ours: {name}", lambda work=work: work(timeline))
    whole = Timeline(capture)
    timed("ours: all of it", lambda: (ANALYZER.run(whole), DEMAND.run(whole)))
    base = duckdb.connect(config={"threads": 1})
    base.register("cpu_slices", cpu_slices)
    sums = timed("DuckDB: sums", lambda: base.sql(SUMS).fetchall())
    their_pairs = timed("DuckDB: who pushed whom", lambda: base.sql(PAIRS).fetchall())
    levels = timed("DuckDB: demand", lambda: base.sql(DEMAND_SQL).fetchall())
    ours = [
        (one.on_cpu_ns, one.preempted_ns, one.yielded_ns, one.blocked_ns, one.waking_ns)
        for one in totals
    ]
    assert [tuple(map(int, row[1:])) for row in sums] == ours
    assert sum(row[2] for row in their_pairs) == pairs["count"]
    assert round(sum(row[3] for row in their_pairs) / 1e9, 6) == round(pairs["lost_seconds"], 6)
    theirs = {int(level): int(ns) for level, ns in levels if ns}
    mine = zip(wanted.level.astype(int).tolist(), wanted.ns.astype(int).tolist(), strict=True)
    assert theirs == {level: ns for level, ns in mine if ns}
    print("  both say the same")


def main() -> None:
    """Measure all sizes."""
    for millions in [float(one) for one in sys.argv[1:]] or [2.0]:
        measure(round(millions * 1e6))


if __name__ == "__main__":
    main()
