"""How long it takes to import and analyze a made trace of millions of kernels, and what memory.

60 s of eight GPUs in one process, four streams each, as rocprofv3 writes it: a rocpd database or
CSV files. Each size is made in a temporary directory, read and analyzed in a fresh process, and
removed. Run: ``python tests/bench/bench_import_20m.py [--format rocpd|csv] [--rows 1000000 ...]``.
20 million rows take 4 GB of disk as rocpd, 5 GB as CSV.
"""

from __future__ import annotations

import argparse
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv

GUID = "00000000-0000-7000-8000-00000000beef"
SUFFIX = "_" + GUID.replace("-", "_")
PID, NODE = 4242, 77
GPU_COUNT, STREAMS_PER_GPU, KERNEL_COUNT = 8, 4, 600
BASE_NS, SPAN_NS = 10**15, 60 * 10**9
SIZES = (1_000_000, 5_000_000, 20_000_000)
CHUNK_ROWS = 1_000_000
KERNEL_NAMES = [
    f"void vllm::made_kernel_{index}<float, {index % 16}, true>(float*, float const*, int, int)"
    if index % 50
    else f"ncclDevKernel_Generic_{index}(ncclDevKernelArgsStorage<4096ul>)"
    for index in range(KERNEL_COUNT)
]
# As schema version 3 has them, foreign keys apart.
TABLES = {
    "metadata": '"id" INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, "tag" TEXT, "value" TEXT',
    "string": "*, string TEXT NOT NULL",
    "info_node": "*, hash BIGINT, machine_id TEXT, system_name TEXT, hostname TEXT, release TEXT,"
    " version TEXT, hardware_name TEXT, domain_name TEXT",
    "info_process": "*, nid INTEGER, ppid INTEGER, pid INTEGER, init BIGINT, fini BIGINT,"
    ' start BIGINT, "end" BIGINT, command TEXT, environment JSONB, extdata JSONB',
    "info_thread": "*, nid INTEGER, ppid INTEGER, pid INTEGER, tid INTEGER, name TEXT",
    "info_agent": "*, nid INTEGER, pid INTEGER, type TEXT, absolute_index INTEGER,"
    " logical_index INTEGER, type_index INTEGER, name TEXT, product_name TEXT",
    "info_kernel_symbol": "*, nid INTEGER, pid INTEGER, code_object_id INTEGER, kernel_name TEXT,"
    " display_name TEXT",
    "event": "*, category_id INTEGER, stack_id INTEGER, parent_stack_id INTEGER,"
    " correlation_id INTEGER, call_stack JSONB, line_info JSONB, extdata JSONB",
    "kernel_dispatch": "*, nid INTEGER, pid INTEGER, tid INTEGER, agent_id INTEGER,"
    " kernel_id INTEGER, dispatch_id INTEGER, queue_id INTEGER, stream_id INTEGER,"
    ' start BIGINT, "end" BIGINT, private_segment_size INTEGER, group_segment_size INTEGER,'
    " workgroup_size_x INTEGER, workgroup_size_y INTEGER, workgroup_size_z INTEGER,"
    " grid_size_x INTEGER, grid_size_y INTEGER, grid_size_z INTEGER, region_name_id INTEGER,"
    " event_id INTEGER, extdata JSONB",
}
AGENT_OF_GPU = 2  # the first two agents are CPUs


def make_rocpd(directory: Path, row_count: int) -> list[Path]:
    """Write a database with that many dispatches, each with its event."""
    path = directory / "bench_results.db"
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA journal_mode = OFF")
    database.execute("PRAGMA synchronous = OFF")
    database.execute("BEGIN")
    key = '"id" INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, "guid" TEXT NOT NULL'
    for name, columns in TABLES.items():
        database.execute(f"CREATE TABLE rocpd_{name}{SUFFIX} ({columns.replace('*', key)})")

    def insert(name: str, *rows: tuple[object, ...]) -> None:
        marks = ", ".join("?" * len(rows[0]))
        database.executemany(f"INSERT INTO rocpd_{name}{SUFFIX} VALUES ({marks})", rows)

    insert("metadata", (1, "schema_version", "3"), (2, "guid", GUID))
    insert("string", (1, GUID, "KERNEL_DISPATCH"))
    insert("info_node", (NODE, GUID, 1, "m", "Linux", "bench", "6.8", "#1", "x86_64", ""))
    insert("info_process", (PID, GUID, NODE, 1, PID, 0, 0, 0, 0, "", "{}", "{}"))
    insert("info_thread", *((PID + i, GUID, NODE, 1, PID, PID + i, "") for i in range(GPU_COUNT)))
    insert(
        "info_agent",
        *((i, GUID, NODE, PID, "CPU", i, i, i, "cpu", "CPU") for i in range(AGENT_OF_GPU)),
        *(
            (agent, GUID, NODE, PID, "GPU", agent, agent, i, "gfx950", "AMD Instinct MI350X")
            for i in range(GPU_COUNT)
            if (agent := i + AGENT_OF_GPU)
        ),
    )
    insert(
        "info_kernel_symbol",
        *((i + 1, GUID, NODE, PID, 1, "", name) for i, name in enumerate(KERNEL_NAMES)),
    )
    # Multiplying by a prime far from a power of two spreads i over the range, without a random().
    count = (
        f"WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {row_count - 1})"
    )
    start = f"{BASE_NS} + i / {GPU_COUNT} * {SPAN_NS * GPU_COUNT // row_count} + i * 40503 % 1999"
    gpu, stream = f"i % {GPU_COUNT}", f"i / {GPU_COUNT} % {STREAMS_PER_GPU} + 1"
    database.execute(
        f"INSERT INTO rocpd_kernel_dispatch{SUFFIX} {count} SELECT i + 1, '{GUID}', {NODE}, {PID},"
        f" {PID} + {gpu}, {AGENT_OF_GPU} + {gpu}, i * 7919 % {KERNEL_COUNT} + 1, i + 1,"
        f" 16 + {stream}, {stream}, {start}, {start} + 3000 + i * 7919 % 30011,"
        " 0, 0, 512, 1, 1, 65536, 1, 1, 1, i + 1, '{}' FROM n"
    )
    database.execute(
        f"INSERT INTO rocpd_event{SUFFIX} {count}"
        f" SELECT i + 1, '{GUID}', 1, i + 1, i + 1, 0, '{{}}', '{{}}', '{{}}' FROM n"
    )
    database.execute("COMMIT")
    database.close()
    return [path]


def make_csv(directory: Path, row_count: int) -> list[Path]:
    """Write a kernel trace with that many rows, and the table of agents."""
    agents, kernels = directory / "4242_agent_info.csv", directory / "4242_kernel_trace.csv"
    lines = ['"Node_Id","Logical_Node_Id","Agent_Type","Name","Product_Name"']
    lines += [f'{i},{i},"CPU","cpu","CPU"' for i in range(AGENT_OF_GPU)]
    lines += [
        f'{i},{i},"GPU","gfx950","AMD Instinct MI350X"'
        for i in range(AGENT_OF_GPU, AGENT_OF_GPU + GPU_COUNT)
    ]
    agents.write_text("\n".join(lines) + "\n")
    names = pa.array(KERNEL_NAMES)
    gpu_names = pa.array([f"Agent {AGENT_OF_GPU + i}" for i in range(GPU_COUNT)])
    writer: csv.CSVWriter | None = None
    for first in range(0, row_count, CHUNK_ROWS):
        i = np.arange(first, min(first + CHUNK_ROWS, row_count))
        gpu, stream = i % GPU_COUNT, i // GPU_COUNT % STREAMS_PER_GPU + 1
        start = BASE_NS + i // GPU_COUNT * (SPAN_NS * GPU_COUNT // row_count) + i * 40503 % 1999
        none, one = np.zeros(len(i), np.int64), np.ones(len(i), np.int64)
        kernel = i * 7919 % KERNEL_COUNT
        table = pa.table(
            {
                "Kind": pa.array(["KERNEL_DISPATCH"]).take(pa.array(none)),
                "Agent_Id": gpu_names.take(pa.array(gpu)),
                "Queue_Id": 16 + stream, "Stream_Id": stream, "Thread_Id": PID + gpu,
                "Dispatch_Id": i + 1, "Kernel_Id": kernel + 1,
                "Kernel_Name": names.take(pa.array(kernel)),
                "Correlation_Id": i + 1, "Start_Timestamp": start,
                "End_Timestamp": start + 3000 + i * 7919 % 30011,
                "LDS_Block_Size": none, "Scratch_Size": none, "VGPR_Count": one * 8,
                "Accum_VGPR_Count": none, "SGPR_Count": one * 32,
                "Workgroup_Size_X": one * 512, "Workgroup_Size_Y": one, "Workgroup_Size_Z": one,
                "Grid_Size_X": one * 65536, "Grid_Size_Y": one, "Grid_Size_Z": one,
            }
        )  # fmt: skip
        writer = writer or csv.CSVWriter(kernels, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()
    return [agents, kernels]


def run_once(paths: list[Path]) -> None:
    """Import and analyze, in this process; print what it took."""
    begun = time.perf_counter()
    from analyzers.analysis import analyze
    from collectors.importers.formats import read_files
    from collectors.importers.tables import to_capture

    loaded = time.perf_counter()
    trace = read_files(paths)
    read, read_gb = time.perf_counter(), _peak_gb()
    row_count = trace.slice_count
    capture = to_capture(trace, paths, "bench")
    del trace
    converted, converted_gb = time.perf_counter(), _peak_gb()
    analyze(capture)
    ended = time.perf_counter()
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(
        f"  {row_count:>11,} rows: {ended - begun:6.1f} s = modules {loaded - begun:.1f}"
        f" + read {read - loaded:.1f} + capture {converted - read:.1f}"
        f" + analyze {ended - converted:.1f}; {(ended - begun) / row_count * 1e6:.2f} us/row;"
        f" CPU {used.ru_utime + used.ru_stime:.1f} s; peak {_peak_gb():.2f} GB"
        f" (read {read_gb:.2f}, capture {converted_gb:.2f})",
        flush=True,
    )


def _peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    """Make, read and remove each size of each format."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--format", choices=["rocpd", "csv"], action="append")
    parser.add_argument("--rows", type=int, nargs="+", default=SIZES)
    parser.add_argument("--read", type=Path, nargs="+", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.read:
        run_once(asked.read)
        return
    make = {"rocpd": make_rocpd, "csv": make_csv}
    for name in asked.format or make:
        print(f"{name}:", flush=True)
        for row_count in asked.rows:
            with tempfile.TemporaryDirectory(prefix="bench-import-") as directory:
                paths = make[name](Path(directory), row_count)
                command = [sys.executable, "-m", "tests.bench.bench_import_20m", "--read", *paths]
                subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
