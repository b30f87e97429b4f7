"""One tool on one trace file, for `bench_trace_peers`: ``python trace_peer_runs.py TOOL FILE``.

Prints the GPU breakdown as JSON. Runs under the interpreter of the tool's own environment, so
nothing is imported that the tool does not need.
"""

import json
import signal
import sys
from pathlib import Path

LIMIT_SECONDS = 300
NS_PER_US, NS_PER_MS = 1e3, 1e6


def run_cputax(path: Path) -> dict[str, float]:
    """Read what ran on GPUs, and measure it."""
    from analyzers.gpu.busy import breakdown, categorise, devices_of_tracks
    from collectors.importers.formats import read_files

    trace = read_files([path], device_only=True)
    found = breakdown(
        trace.slices(),
        categorise(trace.name_rows),
        devices_of_tracks(trace.track_rows, len(trace.track_rows)),
    )
    columns = ("span_ns", "busy_ns", "idle_ns", "compute_ns", "communication_ns", "memcpy_ns")
    return {name: sum(getattr(device, name) for device in found) for name in columns}


def run_hta(path: Path) -> dict[str, float]:
    """Read the trace and take the two breakdowns that tell busy from idle."""
    from hta.trace_analysis import TraceAnalysis

    analysis = TraceAnalysis(trace_files={0: str(path)})
    times = analysis.get_temporal_breakdown(visualize=False).iloc[0]
    analysis.get_idle_time_breakdown(ranks=[0], visualize=False)
    span_ns, idle_ns = (times[name] * NS_PER_US for name in ("kernel_time(us)", "idle_time(us)"))
    return {"span_ns": span_ns, "busy_ns": span_ns - idle_ns, "idle_ns": idle_ns}


def run_tracelens(path: Path) -> dict[str, float]:
    """Build the call tree and take its GPU timeline, as TraceLens's users do."""
    from TraceLens import TreePerfAnalyzer

    timeline = TreePerfAnalyzer.from_file(str(path)).get_df_gpu_timeline()
    times = dict(zip(timeline["type"], timeline["time ms"], strict=True))
    keys = {"span_ns": "total_time", "busy_ns": "busy_time", "idle_ns": "idle_time"}
    return {name: times[key] * NS_PER_MS for name, key in keys.items()}


def run_gunzip(path: Path) -> dict[str, float]:
    """Unpack the file and nothing else: the floor under every tool."""
    import gzip

    with gzip.open(path) as file:
        while file.read(1 << 20):
            pass
    return {}


def run_orjson(path: Path) -> dict[str, float]:
    """Unpack and parse the file into Python objects: what any reader of whole files pays."""
    import gc
    import gzip

    import orjson

    gc.disable()
    orjson.loads(gzip.decompress(path.read_bytes()))
    return {}


TOOLS = {
    "cputax": run_cputax,
    "hta": run_hta,
    "tracelens": run_tracelens,
    "gunzip": run_gunzip,
    "orjson": run_orjson,
}

if __name__ == "__main__":
    signal.alarm(LIMIT_SECONDS)
    print(json.dumps(TOOLS[sys.argv[1]](Path(sys.argv[2]))))
