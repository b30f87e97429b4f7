"""What the analysis of GPU timelines costs: seconds and peak memory on made traces of 8 GPUs, 60 s.

Each way is measured in a process of its own, which first makes the trace; the memory is what the
process used at most beyond the trace. Two ways are for comparison: the unions as a user writes them
with pandas (where it is installed), and with a loop over sorted intervals (1 million rows only).

Run: ``python tests/bench/bench_gpu_analysis.py [MILLIONS ...]``; 1, 5 and 20 by default.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from collectors.slices import KERNEL, MEMCPY, Slices, make_slices

DEVICES, STREAMS, KERNELS = 8, 4, 400
SECONDS = 60
NS = 1_000_000_000
BUSY_RATIO = 0.8
LOOP_MILLIONS = 1

Rows = list[dict[str, object]]


def made(count: int, seed: int = 1) -> tuple[Slices, list[tuple[str, str]], Rows]:
    """Return slices in order of time, names by id, and rows of tracks.

    A GPU's kernels follow each other on one stream; every twentieth is a collective on another one
    beside them, every thirtieth a copy. One thread per GPU launches.
    """
    random = np.random.default_rng(seed)
    names = [(KERNEL, f"void library::kernel_{index}<float, {index}>(int)") for index in range(400)]
    names += [(KERNEL, "ncclDevKernel_AllReduce_Sum_f16_RING_LL(x)"), (MEMCPY, "MemcpyHtoD")]
    collective, copy = len(names) - 2, len(names) - 1
    tracks: Rows = []
    for device in range(DEVICES):
        own = {"pid": 1000 + device, "name": "", "role": "gpu", "rank": device, "device": device}
        tracks.append({**own, "track": 8 * device, "kind": "device", "parent": None, "tid": None})
        for stream in range(STREAMS):
            row = {"track": 8 * device + 1 + stream, "kind": "stream", "parent": 8 * device}
            tracks.append({**own, **row, "tid": stream})
    period_ns = SECONDS * NS * DEVICES // count
    index = np.arange(count)
    device = index % DEVICES
    start = index // DEVICES * period_ns + random.integers(0, period_ns // 2, count)
    duration = random.integers(period_ns // 4, round(period_ns * BUSY_RATIO), count)
    name = random.integers(0, KERNELS, count).astype(np.int32)
    stream = np.zeros(count, np.int32)
    is_collective, is_copy = index // DEVICES % 20 == 7, index // DEVICES % 30 == 11
    name[is_collective], stream[is_collective] = collective, 1
    duration[is_collective] *= 3
    name[is_copy], stream[is_copy] = copy, 2
    track = (8 * device + 1 + stream).astype(np.int32)
    return make_slices(start, duration, track, name, correlation=index + 1), names, tracks


def breakdown(slices: Slices, names: list[tuple[str, str]], tracks: Rows) -> object:
    """The quick path: columns in, figures out."""
    from analyzers.gpu.busy import breakdown, categorise, devices_of_tracks

    return breakdown(slices, categorise(names), devices_of_tracks(tracks, 8 * DEVICES))


def analysis(slices: Slices, names: list[tuple[str, str]], tracks: Rows) -> object:
    """All analyzers over the capture that an import makes in memory."""
    import pyarrow as pa

    from analyzers.analysis import analyze
    from collectors.capture import Capture
    from collectors.importers.tables import name_table, slice_table
    from collectors.manifest import Manifest, TargetRecord
    from collectors.schema import TABLES

    tables = {name: schema.empty_table() for name, schema in TABLES.items()}
    tables["slices"], tables["names"] = slice_table(slices), name_table(names)
    tables["tracks"] = pa.Table.from_pylist(tracks, schema=TABLES["tracks"])
    target = TargetRecord(0, "imported")
    manifest = Manifest(target, 0, "0", state="complete", stopped_ns=SECONDS * NS, clock="own")
    return analyze(Capture(Path("bench"), manifest, tables, is_recovered=False)).to_json()


def pandas_unions(slices: Slices, names: list[tuple[str, str]], tracks: Rows) -> object:
    """Busy, compute, communication and copies per GPU, as a user writes them with pandas."""
    import pandas as pd

    device = {row["track"]: row["parent"] for row in tracks}
    frame = pd.DataFrame(
        {"start": slices.time_ns, "end": slices.end_ns, "name": slices.name, "track": slices.track}
    )
    frame["device"] = frame["track"].map(device)
    kinds = pd.Series([kind for kind, _ in names])
    texts = pd.Series([text for _, text in names])
    frame["kind"] = frame["name"].map(kinds)
    frame["is_communication"] = frame["name"].map(texts.str.contains("nccl|rccl", case=False))

    def union(part: pd.DataFrame) -> int:
        part = part.sort_values("start")
        reach = part["end"].cummax().shift()
        holes = (part["start"] - reach).clip(lower=0).sum()
        return int(part["end"].max() - part["start"].min() - holes) if len(part) else 0

    found = []
    for _, own in frame.groupby("device"):
        is_kernel = own["kind"] == KERNEL
        found.append(
            (
                union(own),
                union(own[is_kernel & ~own["is_communication"]]),
                union(own[is_kernel & own["is_communication"]]),
                union(own[own["kind"] == MEMCPY]),
            )
        )
    return found


def loop_unions(slices: Slices, names: list[tuple[str, str]], tracks: Rows) -> object:
    """Busy time per GPU with a loop over sorted intervals."""
    found = []
    for device in range(DEVICES):
        own = slices.track // 8 == device
        total = reach = 0
        for start, end in sorted(zip(slices.time_ns[own], slices.end_ns[own], strict=True)):
            total += max(0, end - max(start, reach))
            reach = max(reach, end)
        found.append(total)
    return found


WAYS: dict[str, Callable[[Slices, list[tuple[str, str]], Rows], object]] = {
    "breakdown": breakdown,
    "analysis": analysis,
    "pandas": pandas_unions,
    "loop": loop_unions,
}


def peak_kib() -> int:
    """Return the most memory that this process had, KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def measure(way: str, count: int) -> None:
    """Run one way here, and print seconds, CPU seconds and MB."""
    trace = made(count)
    # Forget the peak of making it (proc_pid_clear_refs(5)).
    Path("/proc/self/clear_refs").write_text("5")
    before_kib = peak_kib()
    began, cpu = time.perf_counter(), time.process_time()
    WAYS[way](*trace)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    print(
        f"{way:10} {count / 1e6:5.0f} M rows {seconds:8.2f} s {cpu_seconds:8.2f} s CPU "
        f"{(peak_kib() - before_kib) / 1024:8.0f} MB more, {peak_kib() / 1024:8.0f} MB in all",
        flush=True,
    )


def main() -> None:
    """Measure all ways at all sizes, or the one way that is named."""
    if len(sys.argv) == 3 and sys.argv[1] in WAYS:
        measure(sys.argv[1], int(sys.argv[2]))
        return
    for millions in [int(one) for one in sys.argv[1:]] or [1, 5, 20]:
        for way in WAYS:
            if way == "loop" and millions > LOOP_MILLIONS:
                continue
            if way == "pandas" and importlib.util.find_spec("pandas") is None:
                continue
            command = [sys.executable, __file__, way, str(millions * 1_000_000)]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
