"""How busy the GPUs were, from the best source that a capture has: the rungs of a ladder.

1. a trace of kernels: exact;
2. the driver's own word, ten times a second: how much of its last window any kernel ran;
3. Python frames in which a worker waits for the GPU: it was busy at least then;
4. the server's counters: it was busy at most while the engine had a request;
5. no GPU: the model runs on the host's CPUs, seen in the stacks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from analyzers.gpu.busy import busy_parts
from analyzers.gpu.device_waits import is_device_wait
from analyzers.gpu.graphs import measure_replays
from analyzers.gpu.work import measure_work
from analyzers.intervals import Intervals, Times, intervals
from analyzers.stages import classify, shown
from analyzers.statistics import look_weights
from analyzers.timeline import Timeline, column, rows_by, runs_by_thread

UTILISATION: Final = "gpu_utilization_ratio"
RUNNING: Final = "vllm:num_requests_running"
# In which the model computes; on a GPU they only launch.
MODEL_STAGES: Final = ("model_forward", "sampling")
# vLLM's runner for the CPU, and the oracle's stand-in for a model.
_CPU_RUNNER = re.compile(r"(?:^|/)vllm/v1/worker/cpu(?:_worker|_model_runner|/.*)\.py$")
_CPU_TARGETS: Final = frozenset({"oracle"})


class Rung(StrEnum):
    """What the figures stand on; the best first."""

    KERNELS = "kernel_trace"
    COUNTER = "gpu_busy_counter"
    SYNC_FRAMES = "device_sync_frames"
    SERVER = "server_counters"
    CPU_MODEL = "model_on_cpu"


class Bound(StrEnum):
    """What the busy time of a rung says of the true one."""

    EXACT = "exact"
    LOW = "low"
    HIGH = "high"


@dataclass(frozen=True, slots=True, eq=False)
class Busy:
    """One GPU, or what stands for it, over the capture.

    ``weight`` says how busy it was in each of the intervals, 0..1; None: wholly.
    """

    intervals: Intervals
    bound: Bound
    weight: NDArray[np.float64] | None = None
    device: int | None = None
    track: int | None = None
    name: str = ""
    rank: int | None = None
    pid: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a rung has: GPUs, or the reason why not."""

    rung: Rung
    found: tuple[Busy, ...] = ()
    reason: str | None = None


def ask(timeline: Timeline) -> list[Answer]:
    """Return every rung's answer, in the order of the ladder.

    Where the model is seen to run on the CPU, the rungs above have nothing to say.
    """
    if _runs_on_cpu(timeline):
        reason = "there is no GPU in it: the model runs on the host's CPUs"
        above = [Answer(rung, reason=reason) for rung in Rung if rung is not Rung.CPU_MODEL]
        return [*above, _model(timeline)]
    no_cpu_model = Answer(Rung.CPU_MODEL, reason="no stack shows a model that runs on the CPU")
    return [
        _kernels(timeline), _counter(timeline), _sync_frames(timeline), _server(timeline),
        no_cpu_model,
    ]  # fmt: skip


def _runs_on_cpu(timeline: Timeline) -> bool:
    if timeline.capture.table("slices").num_rows and timeline.once(measure_work).devices:
        return False
    if timeline.capture.manifest.target.kind in _CPU_TARGETS:
        return True
    files = timeline.capture.table("frames")["file"].unique().to_pylist()
    return any(_CPU_RUNNER.search(file) for file in files)


def _kernels(timeline: Timeline) -> Answer:
    if not timeline.capture.table("slices").num_rows:
        return Answer(Rung.KERNELS, reason="no trace of kernels was recorded")
    work = timeline.once(measure_work)
    if not work.devices:
        return Answer(Rung.KERNELS, reason="the trace holds nothing that ran on a GPU")
    replays = timeline.once(measure_replays)
    found = []
    for device in work.devices:
        rows = work.rows[device.track]
        start = work.slices.time_ns[rows]
        parts = busy_parts(start, start + work.slices.duration_ns[rows])
        is_long = parts.end > parts.start
        found.append(
            Busy(
                Intervals(parts.start[is_long], parts.end[is_long]),
                Bound.EXACT if replays[device.track].is_trusted else Bound.LOW,
                device=device.index, track=device.track, name=device.name, rank=device.rank,
            )
        )  # fmt: skip
    return Answer(Rung.KERNELS, tuple(found))


def _counter(timeline: Timeline) -> Answer:
    series = _series(timeline, UTILISATION)
    if not series:
        record = next(
            (one for one in timeline.capture.manifest.probes if one.name == "gpu_counters"), None
        )
        reason = None if record is None else record.reason
        return Answer(Rung.COUNTER, reason=reason or "the GPU's driver was not asked")
    tracks = {row["track"]: row for row in timeline.capture.table("tracks").to_pylist()}
    found = []
    for track, (times, values) in series.items():
        row = tracks.get(track, {})
        weights, _ = look_weights(times)
        half = np.diff(times) // 2
        # A look stands for half of the way to its neighbours; one after a gap for less.
        near = np.minimum(half, int(weights.max())) if len(half) else half
        start = times - np.concatenate(([0], near))
        end = times + np.concatenate((near, [0]))
        keep = end > start
        found.append(
            Busy(
                Intervals(start[keep], end[keep]), Bound.EXACT, np.clip(values[keep], 0.0, 1.0),
                device=row.get("device"), track=track, name=row.get("name", ""),
                rank=row.get("rank"),
            )
        )  # fmt: skip
    return Answer(Rung.COUNTER, tuple(found))


def _sync_frames(timeline: Timeline) -> Answer:
    runs = timeline.once(runs_by_thread)
    leaves = timeline.once(classify).leaves
    waits = np.array([one for one, leaf in leaves.items() if is_device_wait(*leaf)], np.int32)
    by_process: dict[int, list[tuple[Times, Times]]] = {}
    for track, one in runs.items():
        in_wait = np.isin(one.stack, waits)
        if in_wait.any():
            own = timeline.threads[track].process.track
            by_process.setdefault(own, []).append((one.start[in_wait], one.end[in_wait]))
    if not by_process:
        return Answer(Rung.SYNC_FRAMES, reason="no stack shows a thread that waits for a GPU")
    found = []
    for track, parts in by_process.items():
        process = timeline.processes[track]
        start, end = (np.concatenate(one) for one in zip(*parts, strict=True))
        found.append(
            Busy(
                intervals(start, end), Bound.LOW, name=process.role, rank=process.rank,
                pid=process.pid,
            )
        )  # fmt: skip
    return Answer(Rung.SYNC_FRAMES, tuple(found))


def _server(timeline: Timeline) -> Answer:
    parts = []
    for times, values in _series(timeline, RUNNING).values():
        is_running = (values[1:] > 0) | (values[:-1] > 0)
        parts.append((times[:-1][is_running], times[1:][is_running]))
    if not parts:
        return Answer(Rung.SERVER, reason="the server's counters were not read, or not twice")
    start, end = (np.concatenate(one) for one in zip(*parts, strict=True))
    return Answer(Rung.SERVER, (Busy(intervals(start, end), Bound.HIGH, name="the engine"),))


def _model(timeline: Timeline) -> Answer:
    parts = [shown(timeline, thread, MODEL_STAGES) for thread in timeline.threads.values()]
    computing = [one for one in parts if len(one)]
    if not computing:
        return Answer(Rung.CPU_MODEL, reason="no stack was seen in the model")
    whole = intervals(
        np.concatenate([one.start for one in computing]),
        np.concatenate([one.end for one in computing]),
    )
    return Answer(Rung.CPU_MODEL, (Busy(whole, Bound.EXACT, name="the model on the CPU"),))


def _series(timeline: Timeline, name: str) -> dict[int, tuple[Times, NDArray[np.float64]]]:
    """Return the readings of a counter by track, several label sets added up; at least two each."""
    table = timeline.capture.table("counters")
    types = timeline.capture.table("counter_types").to_pylist()
    wanted = [row["counter"] for row in types if row["name"] == name]
    is_wanted = np.isin(column(table, "counter"), wanted)
    if not is_wanted.any():
        return {}
    chosen = table.filter(is_wanted)
    found: dict[int, tuple[Times, NDArray[np.float64]]] = {}
    for track, rows in rows_by(chosen, "track").items():
        times, which = np.unique(column(chosen, "time_ns")[rows], return_inverse=True)
        own = column(chosen, "value", np.float64)[rows]
        values = np.bincount(which, own).astype(np.float64)
        is_known = np.isfinite(values)
        if is_known.sum() > 1:
            found[track] = times[is_known], values[is_known]
    return found
