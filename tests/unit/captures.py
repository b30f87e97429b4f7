"""Builds captures in memory, so that tests of analyzers can say exactly what happened."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from collectors.capture import Capture
from collectors.manifest import Manifest, ProbeRecord, TargetRecord
from collectors.schema import OK, OTLP, TABLES
from collectors.slices import API, KERNEL
from collectors.stacks import StackTable

MS = 1_000_000
SECOND = 1_000_000_000

Frame = tuple[str, str]


class CaptureBuilder:
    """Collects rows; times are given in ms from the start of the capture."""

    def __init__(self, *, kind: str = "vllm", seconds: float = 10.0, start_ns: int = 5 * SECOND):
        self.start_ns = start_ns
        self.manifest = Manifest(
            target=TargetRecord(root_pid=100, kind=kind),
            started_ns=start_ns,
            cputax_version="0",
            state="complete",
            stopped_ns=start_ns + round(seconds * SECOND),
        )
        self.stacks = StackTable()
        self._rows: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
        self._counter_ids: dict[tuple[str, str], int] = {}
        self._name_ids: dict[tuple[str, str], int] = {}

    def at(self, ms: float) -> int:
        return self.start_ns + round(ms * MS)

    def process(self, role: str, *, pid: int = 100, name: str = "python") -> int:
        return self._track(kind="process", pid=pid, name=name, role=role)

    def thread(self, process: int, *, tid: int, name: str = "MainThread") -> int:
        parent = self._rows["tracks"][process]
        return self._track(
            kind="thread",
            parent=process,
            pid=parent["pid"],
            tid=tid,
            name=name,
            role=parent["role"],
        )

    def device(self, index: int = 0, *, name: str = "", rank: int | None = None) -> int:
        return self._track(kind="device", name=name, role="gpu", rank=rank, device=index)

    def stream(self, device: int, *, tid: int = 0, process: int | None = None) -> int:
        parent = self._rows["tracks"][device]
        pid = None if process is None else self._rows["tracks"][process]["pid"]
        return self._track(
            kind="stream", parent=device, pid=pid, tid=tid, name="", role="gpu",
            rank=parent["rank"], device=parent["device"],
        )  # fmt: skip

    def _track(self, **row: Any) -> int:
        track = len(self._rows["tracks"])
        self._add("tracks", track=track, **row)
        return track

    def _add(self, table: str, **row: Any) -> None:
        self._rows[table].append({**dict.fromkeys(TABLES[table].names), **row})

    def run(self, thread: int, start: float, end: float, frames: Sequence[Frame]) -> None:
        stack = self.stacks.stack([self.stacks.frame(*frame) for frame in frames])
        self.stack_run(thread, start, end, stack)

    def stack_run(self, thread: int, start: float, end: float, stack: int) -> None:
        duration_ns = self.at(end) - self.at(start)
        self._add(
            "samples", time_ns=self.at(start), duration_ns=duration_ns, track=thread, stack=stack
        )

    def look(
        self,
        thread: int,
        ms: float,
        *,
        run: float,
        wait: float = 0.0,
        involuntary: int | None = None,
        timeslice_count: int | None = None,
    ) -> None:
        """One row of counters: ``run`` and ``wait`` are cumulative, in ms."""
        self._add(
            "thread_counters", time_ns=self.at(ms), track=thread, run_ns=round(run * MS),
            wait_ns=round(wait * MS), involuntary_count=involuntary,
            timeslice_count=int(ms) if timeslice_count is None else timeslice_count,
        )  # fmt: skip

    def gil(
        self, process: int, ms: float, *, holder: int | None = None, waiter_count: int | None = 0,
        waiters: Iterable[int] | None = None, switch_count: int = 0,
    ) -> None:  # fmt: skip
        self._add(
            "gil", time_ns=self.at(ms), track=process, holder=holder, waiter_count=waiter_count,
            switch_count=switch_count, waiters=None if waiters is None else list(waiters),
        )  # fmt: skip

    def slice(
        self, track: int, start: float, end: float, text: str = "kernel", *, kind: str = KERNEL,
        correlation: int | None = None, launch_track: int | None = None, graph: int | None = None,
    ) -> None:  # fmt: skip
        """Something that lasted, a kernel unless said otherwise."""
        name = self._name_ids.setdefault((kind, text), len(self._name_ids))
        if name == len(self._rows["names"]):
            self._add("names", name=name, kind=kind, text=text)
        self._add(
            "slices", time_ns=self.at(start), duration_ns=self.at(end) - self.at(start),
            track=track, name=name, correlation=correlation, launch_track=launch_track,
            graph=graph,
        )  # fmt: skip

    def call(
        self, thread: int, start: float, end: float, text: str = "hipLaunchKernel", *,
        correlation: int | None = None,
    ) -> None:  # fmt: skip
        """A call of the GPU's runtime."""
        self.slice(thread, start, end, text, kind=API, correlation=correlation)

    def request(self, start: float, end: float, *, source: str = OTLP) -> None:
        """A request of which only its beginning and end are known."""
        self._add(
            "requests", time_ns=self.at(start), request=f"r{len(self._rows['requests'])}",
            source=source, status=OK, done_ns=self.at(end),
        )  # fmt: skip

    def counter(
        self, process: int, ms: float, name: str, value: float, *, labels: str = 'engine="0"',
        kind: str = "total",
    ) -> None:  # fmt: skip
        if (name, labels) not in self._counter_ids:
            counter = self._counter_ids[name, labels] = len(self._counter_ids)
            self._add(
                "counter_types", counter=counter, name=name, labels=labels, unit="", kind=kind
            )
        counter = self._counter_ids[name, labels]
        self._add("counters", time_ns=self.at(ms), track=process, counter=counter, value=value)

    def histogram(self, process: int, ms: float, name: str, total: float, count: float) -> None:
        self.counter(process, ms, f"{name}_sum", total)
        self.counter(process, ms, f"{name}_count", count)

    def gap(self, probe: str, start: float, end: float, reason: str = "late") -> None:
        self._add("gaps", probe=probe, start_ns=self.at(start), end_ns=self.at(end), reason=reason)

    def probe(self, name: str, level: str, **fields: Any) -> None:
        self.manifest.probes.append(ProbeRecord(name, level, **fields))

    def build(self, *, is_recovered: bool = False) -> Capture:
        tables = {
            name: pa.Table.from_pylist(rows, schema=TABLES[name])
            for name, rows in self._rows.items()
        }
        tables["frames"] = pa.table(self.stacks.frame_columns(), schema=TABLES["frames"])
        tables["stacks"] = pa.table(self.stacks.stack_columns(), schema=TABLES["stacks"])
        return Capture(Path("made.capture"), self.manifest, tables, is_recovered=is_recovered)


SITE = "/opt/venv/lib/python3.11/site-packages"
TOKENIZE: list[Frame] = [
    ("Thread._bootstrap", "/usr/lib/python3.11/threading.py"),
    ("_worker", "/usr/lib/python3.11/concurrent/futures/thread.py"),
    ("BaseRenderer._tokenize_prompt", f"{SITE}/vllm/renderers/base.py"),
    (
        "PreTrainedTokenizerFast._batch_encode_plus",
        f"{SITE}/transformers/tokenization_utils_fast.py",
    ),
]
POOL_IDLE: list[Frame] = TOKENIZE[:2]
SCHEDULE: list[Frame] = [
    ("EngineCoreProc.run_busy_loop", f"{SITE}/vllm/v1/engine/core.py"),
    ("Scheduler.schedule", f"{SITE}/vllm/v1/core/sched/scheduler.py"),
]
DETOKENIZE: list[Frame] = [
    ("Runner.run", "/usr/lib/python3.11/asyncio/runners.py"),
    ("BaseIncrementalDetokenizer.update", f"{SITE}/vllm/v1/engine/detokenizer.py"),
]
LOOP_IDLE: list[Frame] = DETOKENIZE[:1]
SPIN: list[Frame] = [
    ("WorkerProc.worker_busy_loop", f"{SITE}/vllm/v1/executor/multiproc_executor.py"),
    (
        "SpinCondition.wait",
        f"{SITE}/vllm/distributed/device_communicators/shm_broadcast.py",
    ),
]
UNKNOWN: list[Frame] = [("main", "/srv/app.py"), ("Mystery.work", "/srv/mystery.py")]
