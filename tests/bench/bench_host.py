"""What one look of each host reader costs: ``python tests/bench/bench_host.py [PID]``.

CPU time, the kernel's part included, as the median of many looks; beside it psutil's nearest, where
there is one. The process is this one unless a PID is given: give a server's to see its NUMA looks.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from probes.cgroups import Cgroups
from probes.host.devices import read_devices
from probes.host.facts import read_host_facts, read_process_facts
from probes.host.files import ROOT, read_bytes
from probes.host.groups import GroupReader
from probes.host.readers import (
    read_cpu_times,
    read_frequencies,
    read_interrupts,
    read_pressures,
)
from probes.host.topology import read_topology
from probes.numa.mappings import parse_maps
from probes.numa.pages import find_nodes
from probes.numa.probe import CALL_PAGES

LOOK_COUNT = 200


def cost_us(look: Callable[[], object]) -> tuple[float, float]:
    """Return the median and the longest CPU time of a look, in us."""
    costs = []
    for _ in range(LOOK_COUNT):
        before_ns = time.thread_time_ns()
        look()
        costs.append((time.thread_time_ns() - before_ns) / 1e3)
    return statistics.median(costs), max(costs)


def show(name: str, look: Callable[[], object], peer: Callable[[], object] | None = None) -> None:
    """Print one row."""
    median_us, longest_us = cost_us(look)
    row = f"{name:34}{median_us:10.0f}{longest_us:10.0f}"
    print(row + (f"{cost_us(peer)[0]:12.0f}" if peer else f"{'none':>12}"))


def main() -> None:
    pid = int(sys.argv[1]) if len(sys.argv) > 1 else os.getpid()
    process = psutil.Process(pid)
    groups, cgroups = GroupReader(ROOT), Cgroups()
    devices = read_devices()
    random = np.random.default_rng()
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    mappings = parse_maps(read_bytes(f"/proc/{pid}/maps") or b"", page_bytes)
    pages = mappings.draw(CALL_PAGES, random)
    print(f"{os.cpu_count()} CPUs, {len(mappings.starts)} mappings, {LOOK_COUNT} looks, CPU time")
    print(f"{'':34}{'median us':>10}{'longest':>10}{'psutil us':>12}")
    print("once a second")
    show(
        "/proc/stat, each CPU",
        lambda: read_cpu_times(ROOT, 0),
        lambda: (psutil.cpu_times(percpu=True), psutil.cpu_times()),
    )
    show("/proc/pressure", lambda: read_pressures(ROOT, 0))
    show("/proc/interrupts", lambda: read_interrupts(ROOT, 0))
    show("cgroup quotas and pressure", lambda: groups.read({pid: 0}))
    print("every five seconds")
    show(
        "scaling_cur_freq",
        lambda: read_frequencies(ROOT, 0),
        lambda: psutil.cpu_freq(percpu=True),
    )
    print("every ten seconds, for each process")
    show("maps", lambda: parse_maps(read_bytes(f"/proc/{pid}/maps") or b"", page_bytes))
    show(f"draw {CALL_PAGES} pages", lambda: mappings.draw(CALL_PAGES, random))
    show(f"move_pages of {CALL_PAGES}", lambda: find_nodes(pid, pages))
    print("once")
    show("topology", read_topology)
    show("devices", read_devices)
    show("the machine", read_host_facts)
    show(
        "a process",
        lambda: read_process_facts(ROOT, pid, devices, cgroups),
        lambda: (process.cpu_affinity(), process.memory_info()),
    )


if __name__ == "__main__":
    main()
