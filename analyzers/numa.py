"""Memory nodes: whether threads run, and memory lies, near the GPU that they work for.

The pages are a sample that the NUMA probe takes at random, so their shares have an interval; where
it has looked several times, each look is a sample of its own and all are taken together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from analyzers.base import Analyzer, Outcome
from analyzers.findings import Finding, Quantity, Rank
from analyzers.sched.counter_series import read_series
from analyzers.sched.machine import FAR_DISTANCE, Machine, read_machine
from analyzers.sched.residency import Residency, measure_residency
from analyzers.sched.residency import rows as residency_rows
from analyzers.statistics import wilson
from analyzers.timeline import Process, Thread, Timeline
from collectors.cpu_lists import format_list
from collectors.host_counters import NUMA_PAGES

CPU_OFF_RATIO: Final = 0.5  # of a thread's CPU time
MEMORY_OFF_RATIO: Final = 0.25  # of a process's pages
# A thread that runs less than this share of the time gains nothing by being moved.
BUSY_RATIO: Final = 0.05
# Frontends and helpers do not talk to a GPU: where they run is a matter of taste.
GPU_ROLES: Final = frozenset({"engine_core", "worker", "python", "other"})


@dataclass(frozen=True, slots=True)
class Pages:
    """Where a process's memory is: how many of the pages that were looked at."""

    process: Process
    by_node: dict[int, int]
    homes: frozenset[int]  # nodes of its GPUs
    far_count: int  # on a node far from all of them

    @property
    def count(self) -> int:
        """All that were looked at."""
        return sum(self.by_node.values())

    @property
    def far(self) -> tuple[float, float, float]:
        """The share that is far, with its 95 % interval."""
        ratio = self.far_count / self.count
        return ratio, *wilson(ratio, self.count)


def measure_pages(timeline: Timeline) -> list[Pages]:
    """Return the pages of every process that was looked at."""
    machine = timeline.once(read_machine)
    counts: dict[int, dict[int, int]] = {}
    for series in read_series(timeline, NUMA_PAGES):
        node = series.labels.get("node", "")
        if series.track in timeline.processes and node.isdecimal():
            own = counts.setdefault(series.track, {})
            own[int(node)] = own.get(int(node), 0) + round(float(series.values.sum()))
    found = []
    for track, by_node in sorted(counts.items()):
        process = timeline.processes[track]
        homes = machine.home_nodes(process)
        far = sum(count for node, count in by_node.items() if machine.is_far(node, homes))
        if sum(by_node.values()):
            found.append(Pages(process, by_node, homes, far if homes else 0))
    return found


def run(timeline: Timeline) -> Outcome:
    """Report where threads ran and memory is; findings where that is far from the GPU."""
    machine = timeline.once(read_machine)
    residency = timeline.once(measure_residency)
    sections = {
        "residency": residency_rows(timeline),
        "numa": [_row(one) for one in timeline.once(measure_pages)],
    }
    if not machine.has_nodes:
        return Outcome(sections)
    findings = [_excluded(timeline, machine), _far_threads(timeline, machine, residency)]
    findings += [_far_memory(one, machine) for one in timeline.once(measure_pages)]
    return Outcome(sections, [one for one in findings if one is not None])


def _row(one: Pages) -> dict[str, Any]:
    ratio, low, high = one.far if one.homes else (None, None, None)
    return {
        "pid": one.process.pid,
        "role": one.process.role,
        "gpu_nodes": sorted(one.homes),
        "page_count": one.count,
        "nodes": [
            {"node": node, "ratio": count / one.count}
            for node, count in sorted(one.by_node.items())
        ],
        "far_ratio": ratio,
        "far_low_ratio": low,
        "far_high_ratio": high,
    }


def _excluded(timeline: Timeline, machine: Machine) -> Finding | None:
    """Return the claim that threads may not run near their GPU at all."""
    found = []
    for thread in timeline.threads.values():
        homes = machine.home_nodes(thread.process)
        allowed = machine.allowed_cpus(thread)
        near = _near_cpus(machine, homes)
        if thread.process.role in GPU_ROLES and near and allowed and not allowed & near:
            found.append((thread, homes))
    if not found:
        return None
    thread, homes = found[0]
    cpus = format_list(_near_cpus(machine, homes))
    pids = sorted({one.process.pid for one, _ in found})
    return Finding(
        "affinity-off-gpu-node",
        f"{len(found)} threads of PID {', '.join(map(str, pids))} may not run on the GPU's node "
        f"({_nodes(homes)}, CPUs {cpus}): their affinity excludes it, so every launch and copy "
        "crosses to another socket.",
        Rank.HOST_WAIT,
        Quantity(float(len(found)), "threads"),
        [{"pid": one.process.pid, "tid": one.tid, "name": one.name} for one, _ in found[:8]],
        remedy=f"taskset -a -c -p {cpus} {pids[0]}, or the cpuset of its container; "
        "cputax pin --plan proposes masks",
    )


def _far_threads(
    timeline: Timeline, machine: Machine, residency: list[Residency]
) -> Finding | None:
    """Return the claim that busy threads ran far from their GPU most of the time."""
    window_ns = timeline.capture.end_ns - timeline.capture.start_ns
    found = []
    for one in residency:
        homes = machine.home_nodes(one.thread.process)
        if one.thread.process.role not in GPU_ROLES or not homes:
            continue
        far_ns = sum(ns for node, ns in one.by_node(machine).items() if machine.is_far(node, homes))
        if one.total_ns >= BUSY_RATIO * window_ns and far_ns > CPU_OFF_RATIO * one.total_ns:
            found.append((far_ns, one))
    if not found:
        return None
    found.sort(key=lambda pair: -pair[0])
    far_ns, first = found[0]
    thread = first.thread
    homes = machine.home_nodes(thread.process)
    return Finding(
        "cpu-off-gpu-node",
        f"{_named(thread)} ran {far_ns / first.total_ns:.0%} of its CPU time off its GPU's node "
        f"({_nodes(homes)})" + (f"; {len(found)} busy threads did" if len(found) > 1 else "") + ".",
        Rank.HOST_WAIT,
        Quantity(far_ns / first.total_ns, "ratio"),
        [
            {
                "pid": one.thread.process.pid, "tid": one.thread.tid, "name": one.thread.name,
                "far_seconds": ns / 1e9, "cpu_seconds": one.total_ns / 1e9,
            }
            for ns, one in found[:8]
        ],
        (
            () if first.migration_count is not None else
            ("where it ran was looked at about once a second",)
        ),
        remedy=f"keep it on CPUs {format_list(_near_cpus(machine, homes))}: cputax pin --trial "
        f"{timeline.capture.manifest.target.root_pid} tells what that gains",
    )  # fmt: skip


def _far_memory(pages: Pages, machine: Machine) -> Finding | None:
    """Return the claim that a process's memory is far from its GPU."""
    if pages.process.role not in GPU_ROLES or not pages.homes:
        return None
    ratio, low, high = pages.far
    if low <= MEMORY_OFF_RATIO:
        return None
    nodes = ",".join(str(node) for node in sorted(pages.homes))
    return Finding(
        "memory-off-gpu-node",
        f"{ratio:.0%} of the memory of the {pages.process.role} (PID {pages.process.pid}) is off "
        f"its GPU's node ({_nodes(pages.homes)}), by a sample of {pages.count} pages.",
        Rank.HOST_WAIT,
        Quantity(ratio, "ratio", low, high),
        _row(pages),
        (f"far means a distance of at least {FAR_DISTANCE} by the firmware's table",),
        remedy=f"start the server with numactl --cpunodebind={nodes} --membind={nodes}, or move "
        f"what is there: migratepages {pages.process.pid} all {nodes}",
    )


def _near_cpus(machine: Machine, homes: frozenset[int]) -> frozenset[int]:
    if not homes:
        return frozenset()
    near = (cpus for node, cpus in machine.node_cpus.items() if not machine.is_far(node, homes))
    return frozenset[int]().union(*near)


def _named(thread: Thread) -> str:
    process = thread.process
    return f"{thread.name or thread.tid} of the {process.role} (PID {process.pid})"


def _nodes(homes: frozenset[int]) -> str:
    return "node " + " and ".join(str(node) for node in sorted(homes))


ANALYZER: Final = Analyzer("numa", (), run)
