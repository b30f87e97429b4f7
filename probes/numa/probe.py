"""The NUMA probe: every ten seconds, where a few thousand pages of each process lie."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from collectors.host_counters import NUMA_PAGES
from collectors.manifest import ProbeRecord
from probes.base import Capability, Context, Level
from probes.host.files import read_bytes
from probes.host.topology import read_topology
from probes.numa.mappings import parse_maps
from probes.numa.pages import find_nodes
from probes.pacer import Pacer
from probes.target import Process, Target

RATE_HZ: Final = 0.1
CALL_PAGES: Final = 4096  # 0.7 ms in the kernel
# Much of a mapping may never have been touched. Draw again until so many pages were present (a
# share is then known within 3 %), but not for ever.
ENOUGH_PAGES: Final = 1024
CALL_LIMIT: Final = 4
ONE_NODE: Final = "the machine has one memory node: no page can be remote"

FindNodes = Callable[[int, NDArray[np.uint64]], NDArray[np.int32]]


@dataclass(slots=True)
class _Sampled:
    """What was seen of one process."""

    track: int
    look_count: int = 0
    page_count: int = 0  # drawn
    present_count: int = 0
    cpu_ns: int = 0
    longest_call_ns: int = 0

    def account(self) -> dict[str, int | float]:
        """Return it for the probe's record."""
        return {
            "look_count": self.look_count,
            "page_count": self.page_count,
            "present_count": self.present_count,
            "cpu_s": self.cpu_ns / 1e9,
            "longest_call_s": self.longest_call_ns / 1e9,
        }


class NumaProbe:
    """Writes into ``counters``, on the tracks of the processes."""

    name = "numa"

    def __init__(
        self, rate_hz: float = RATE_HZ, root: Path | None = None,
        find: FindNodes = find_nodes, seed: int | None = None,
    ) -> None:  # fmt: skip
        """``root`` holds ``proc`` and ``sys``; by default that in which the target's /proc lies.

        ``find`` stands in for `find_nodes` and ``seed`` fixes the draw where that must repeat.
        """
        self._root = root
        self._find = find
        self._random = np.random.default_rng(seed)
        self._pacer = Pacer(self.name, rate_hz, self._tick, self._miss)
        self._sampled: dict[int, _Sampled] = {}
        self._counters: dict[int, int] = {}  # by node
        self._refusal: str | None = None
        self._context: Context

    def check(self, target: Target) -> Capability:
        """Ask whether we may ask; a machine with one node leaves nothing to do."""
        if read_topology(self._root_of(target)).has_one_node:
            return Capability(self.name, Level.NOT_APPLICABLE, ONE_NODE)
        nothing = np.zeros(0, np.uint64)
        try:
            self._find(os.getpid(), nothing)
        except OSError as error:
            return Capability(
                self.name, Level.UNAVAILABLE,
                f"this system refuses move_pages(2): {os.strerror(error.errno or 0)}",
                # Docker's own profile allows it to nobody, whatever the capabilities.
                "run on the host, or: docker run --security-opt seccomp=unconfined ...",
            )  # fmt: skip
        try:
            self._find(target.root_pid, nothing)
        except ProcessLookupError:
            return Capability(self.name, Level.UNAVAILABLE, "the process has ended")
        except OSError:
            return Capability(
                self.name, Level.UNAVAILABLE,
                f"not allowed to ask where the pages of process {target.root_pid} lie",
                "run as its user or as root; in a container add the capability SYS_PTRACE",
            )  # fmt: skip
        return Capability(self.name, Level.WORKS)

    def start(self, context: Context) -> None:
        """Begin to look at every process of the target."""
        self._context = context
        for node in read_topology(self._root_of(context.target)).nodes:
            self._count_for(node.node)
        for process in context.target.processes.values():
            self.add(process)
        self._pacer.start()

    def add(self, process: Process) -> None:
        """Take up a process at the next look."""
        track = self._context.tracks[process.pid]
        self._sampled = {**self._sampled, process.pid: _Sampled(track)}

    def stop(self) -> ProbeRecord:
        """Look a last time, and say what was looked at, at which cost."""
        self._pacer.stop()
        self._tick(time.monotonic_ns())
        level = Level.WORKS if self._refusal is None else Level.DEGRADED
        record = Capability(self.name, level, self._refusal).record(self._pacer.rate_hz)
        record.achieved_hz = self._pacer.achieved_hz
        record.largest_gap_ns = self._pacer.largest_gap_ns
        record.cpu_seconds = sum(one.cpu_ns for one in self._sampled.values()) / 1e9
        record.detail = {
            "processes": {str(pid): one.account() for pid, one in self._sampled.items()}
        }
        return record

    def _root_of(self, target: Target) -> Path:
        return self._root or target.procfs.root.parent

    def _count_for(self, node: int) -> int:
        if node not in self._counters:
            self._counters[node] = self._context.recorder.counter(
                NUMA_PAGES, f"node={node}", unit="count", kind="level"
            )
        return self._counters[node]

    def _tick(self, _now_ns: int) -> None:
        for pid, sampled in self._sampled.items():
            try:
                self._look(pid, sampled)
            except ProcessLookupError:
                continue
            except OSError as error:
                self._refusal = f"process {pid}: {os.strerror(error.errno or 0)}"

    def _look(self, pid: int, sampled: _Sampled) -> None:
        before_ns = time.thread_time_ns()
        path = self._root_of(self._context.target) / "proc" / str(pid) / "maps"
        mappings = parse_maps(read_bytes(path) or b"", os.sysconf("SC_PAGE_SIZE"))
        if not mappings.page_count:
            return  # it has ended, or is a zombie
        present = np.zeros(0, np.int32)
        for _ in range(CALL_LIMIT):
            pages = mappings.draw(CALL_PAGES, self._random)
            called_ns = time.monotonic_ns()
            nodes = self._find(pid, pages)
            time_ns = time.monotonic_ns()
            sampled.longest_call_ns = max(sampled.longest_call_ns, time_ns - called_ns)
            sampled.page_count += len(pages)
            present = np.concatenate([present, nodes[nodes >= 0]])
            if len(present) >= ENOUGH_PAGES:
                break
        sampled.look_count += 1
        sampled.present_count += len(present)
        self._write(time_ns, sampled.track, present)
        sampled.cpu_ns += time.thread_time_ns() - before_ns

    def _write(self, time_ns: int, track: int, present: NDArray[np.int32]) -> None:
        """Write a row per node, those without a page too; none where no page was present."""
        if not len(present):
            return
        found, counts = np.unique(present, return_counts=True)
        by_node = dict.fromkeys(self._counters, 0) | dict(
            zip(found.tolist(), counts.tolist(), strict=True)
        )
        counters = [self._count_for(node) for node in by_node]
        self._context.recorder.append(
            "counters",
            {
                "time_ns": [time_ns] * len(by_node),
                "track": [track] * len(by_node),
                "counter": counters,
                "value": [float(count) for count in by_node.values()],
            },
        )

    def _miss(self, error: OSError) -> None:
        reason = f"the system refused: {os.strerror(error.errno or 0)}"
        now_ns = time.monotonic_ns()
        self._context.recorder.gap(self.name, self._pacer.last_ns, now_ns, reason)
