"""What each GPU did and why it was idle: rows of the document, and the finding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from analyzers.base import Analyzer, Outcome
from analyzers.findings import Finding, Quantity, Rank, abstention
from analyzers.gpu.busy import DeviceTime, device_time
from analyzers.gpu.busy_findings import busy_findings
from analyzers.gpu.definitions import other_definitions, sentence
from analyzers.gpu.gap_rows import gap_section
from analyzers.gpu.gaps import measure_gaps
from analyzers.gpu.graphs import Replays, measure_replays
from analyzers.gpu.kernels import kernel_times
from analyzers.gpu.labels import Cause, gpu_name
from analyzers.gpu.launches import launch_row, measure_launches
from analyzers.gpu.work import Device, Work, measure_work
from analyzers.timeline import Timeline

SLUG: Final = "gpu-idle"
TOP_KERNELS: Final = 20
# A GPU that is idle for less of its span needs nobody's attention.
NOTABLE_RATIO: Final = 0.05
# Fewer looks say nothing of how a GPU's idle time is shared out.
ENOUGH_LOOKS: Final = 20
Json = Mapping[str, Any]

# In sentences: "idle ..., most of it because ...".
PHRASES: Final = {
    Cause.QUEUED: "work that was launched in time had not begun",
    Cause.GRAPH: "a graph's kernels follow each other with a pause",
    Cause.LATENCY: "launched work takes a moment to begin",
    Cause.CALL: "launching itself took so long",
    Cause.SYNC: "the launching thread waited for the GPU",
    Cause.RUNTIME: "the launching thread was in another call of the GPU's runtime",
    Cause.GIL: "the launching thread waited for the GIL",
    Cause.RUN_QUEUE: "the launching thread had no CPU",
    Cause.IPC: "the launching thread was busy with messages of other processes",
    Cause.SPIN: "the launching thread spun, waiting for another process",
    Cause.IDLE: "the launching thread waited for work or for an answer",
    Cause.PYTHON: "the launching thread ran Python code",
    Cause.OPERATOR: "the launching thread was in the framework's operators",
    Cause.NO_REQUEST: "there was no request",
    Cause.UNEXPLAINED: "of something that the capture does not show",
}
_EAGER: Final = "replay steps as graphs (vLLM: without --enforce-eager)"
_OTHERS: Final = "look at the process that it waits for: the stages and the GIL of the engine core"
REMEDIES: Final = {
    Cause.CALL: _EAGER,
    Cause.LATENCY: _EAGER,
    Cause.OPERATOR: _EAGER,
    Cause.PYTHON: "overlap this code with the GPU (vLLM: --async-scheduling)",
    Cause.SYNC: "copy results without waiting (non_blocking=True) and read them a step later",
    Cause.GIL: "take the other threads' Python work out of this process: see gil-contention",
    Cause.RUN_QUEUE: "give the server more CPUs, or keep other work off them",
    Cause.IPC: _OTHERS,
    Cause.SPIN: _OTHERS,
    Cause.IDLE: _OTHERS,
    Cause.UNEXPLAINED: "record stacks, the GIL and the calls of the GPU's runtime along",
}


def run(timeline: Timeline) -> Outcome:
    """Report every GPU; one finding when any was notably idle, an abstention where none worked."""
    work = timeline.once(measure_work)
    if not work.devices:
        return Outcome(
            findings=[
                abstention(
                    SLUG,
                    "no GPU's work is in the capture: its slices are all of threads",
                    "trace the GPU's kernels too",
                )
            ]
        )
    rows = [_row(timeline, work, device) for device in work.devices]
    findings = []
    trusted = [row for row in rows if row["gaps"] is not None]
    if len(trusted) < len(rows):
        findings.append(_untrusted([row for row in rows if row["gaps"] is None]))
    if any(row["idle_ns"] >= NOTABLE_RATIO * row["span_ns"] > 0 for row in trusted):
        findings.append(_finding(trusted))
    for row in rows:
        findings += busy_findings(row)
    return Outcome({"gpu": rows}, findings)


def _row(timeline: Timeline, work: Work, device: Device) -> dict[str, Any]:
    rows = work.rows[device.track]
    launches = timeline.once(measure_launches)[device.track]
    replays = timeline.once(measure_replays)[device.track]
    time = device_time(work.slices, rows, work.categories, device.track)
    others = other_definitions(work, rows, launches, time)
    kernels = kernel_times(work.slices, rows, work.categories, work.names)
    gaps = None
    if replays.is_trusted:
        gaps = gap_section(timeline, work, timeline.once(measure_gaps)[device.track])
    launch = launch_row(work, rows, launches, time.first_ns, time.last_ns)
    return {
        "device": device.index,
        "track": device.track,
        "name": device.name,
        "rank": device.rank,
        **_times(time),
        "streams": _streams(timeline, time),
        "launch": {**launch, "graph": replays.to_json()},
        "gaps": gaps,
        "gaps_reason": None if gaps is not None else _why_untrusted(replays),
        "kernels": [one.to_json(time.busy_ns) for one in kernels[:TOP_KERNELS]],
        "communication_kernels": [
            one.to_json(time.busy_ns) for one in kernels if one.is_communication
        ][:TOP_KERNELS],
        "other_definitions": others,
        "peers_differ": sentence(others, time),
    }


def _times(time: DeviceTime) -> dict[str, Any]:
    return {
        "first_ns": time.first_ns,
        "span_ns": time.span_ns,
        "busy_ns": time.busy_ns,
        "idle_ns": time.idle_ns,
        "compute_ns": time.compute_ns,
        "communication_ns": time.communication_ns,
        "memcpy_ns": time.memcpy_ns,
        "overlap_ns": time.overlap_ns,
        "exposed_communication_ns": time.exposed_communication_ns,
        "exposed_memcpy_ns": time.exposed_memcpy_ns,
        "kernel_count": time.kernel_count,
        "memcpy_count": time.memcpy_count,
        "memset_count": time.memset_count,
        "busy_ratio": time.busy_ns / time.span_ns if time.span_ns else None,
    }


def _streams(timeline: Timeline, time: DeviceTime) -> list[dict[str, Any]]:
    tracks = {row["track"]: row for row in timeline.capture.table("tracks").to_pylist()}
    rows = [
        {
            "stream": tracks[one.track]["tid"],
            "pid": tracks[one.track]["pid"],
            "name": tracks[one.track]["name"],
            "busy_ns": one.busy_ns,
            "slice_count": one.slice_count,
        }
        for one in time.streams
    ]
    return sorted(rows, key=lambda row: -row["busy_ns"])


def _why_untrusted(replays: Replays) -> str:
    return (
        f"of {replays.call_count} graph replays only {replays.covered_count} left kernels in the "
        "capture: the GPU may have worked where it seems idle"
    )


def _untrusted(rows: list[dict[str, Any]]) -> Finding:
    named = ", ".join(gpu_name(row) for row in rows)
    return abstention(
        SLUG,
        f"idle time of {named} not computable: {rows[0]['gaps_reason']}",
        "trace with a tool that records the kernels of graphs (rocprofv3 of ROCm 7, "
        "nsys --cuda-graph-trace=node), or run without graphs (vLLM: --enforce-eager)",
    )


def _finding(rows: list[dict[str, Any]]) -> Finding:
    worst = max(rows, key=lambda row: row["idle_ns"] / max(1, row["span_ns"]))
    gaps = worst["gaps"]
    first = gaps["causes"][0]
    cause = Cause(first["cause"])
    others = f"; {len(rows) - 1} more GPUs are in the evidence" if len(rows) > 1 else ""
    host_ns = sum(row["gaps"]["host_ns"] for row in rows)
    return Finding(
        SLUG,
        f"{gpu_name(worst)} was idle "
        f"{worst['idle_ns'] / worst['span_ns']:.0%} of {worst['span_ns'] / 1e9:.3g} s, in "
        f"{gaps['count']:,} gaps; {first['share_ratio']:.0%} of that because {PHRASES[cause]}"
        f"{_where(gaps, cause)}{others}.",
        Rank.HOST_WAIT,
        Quantity(worst["idle_ns"] / worst["span_ns"], "ratio"),
        [
            {
                "device": row["device"],
                "rank": row["rank"],
                "idle_ns": row["idle_ns"],
                "span_ns": row["span_ns"],
                "explained_ratio": row["gaps"]["explained_ratio"],
                "causes": row["gaps"]["causes"],
                "sites": row["gaps"]["sites"][:5],
            }
            for row in rows
        ],
        tuple(_caveats(worst)),
        cost_seconds=host_ns / 1e9,
        remedy=REMEDIES.get(cause),
    )


def _where(gaps: Json, cause: Cause) -> str:
    """Return the place in the code that most of it is of, or what looks into gaps mostly saw."""
    looks = gaps["looks"]
    if cause is Cause.UNEXPLAINED and looks["count"] >= ENOUGH_LOOKS:
        first = looks["seen"][0]
        return (
            f"; of {looks['count']:,} looks that fell into gaps {first['ratio']:.0%} saw the "
            f"launching thread in {_place(first)}"
        )
    site = next((one for one in gaps["sites"] if one["cause"] == cause), None)
    return "" if site is None else f", above all in {_place(site)}"


def _place(site: Json) -> str:
    where = site["function"] or site.get("call")
    return f"{where} ({site['stage']})" if site["stage"] not in (None, "unknown") else str(where)


def _caveats(row: Json) -> list[str]:
    gaps, caveats = row["gaps"], []
    explained = gaps["explained_ratio"]
    if explained is not None and explained < 1:
        caveats.append(f"{1 - explained:.0%} of the idle time has no cause in the capture")
    if gaps["launch_unseen_ns"] and gaps["host_ns"]:
        caveats.append(
            f"{gaps['launch_unseen_ns'] / max(1, row['idle_ns']):.0%} of it ended with work whose "
            "launch call was not recorded: all of such a gap counts as the host's"
        )
    if any(one["cause"] == Cause.RUN_QUEUE for one in gaps["causes"]):
        caveats.append(
            "when a thread had no CPU is concluded from counters read 20 times a second: the "
            "bounds are in the document"
        )
    return caveats


ANALYZER: Final = Analyzer(SLUG, ("slices",), run)
