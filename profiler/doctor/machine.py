"""Reads the machine under the server: nodes, quotas, clock, huge pages."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from probes.cgroups import CgroupLimit, Cgroups
from probes.host.files import read_text
from probes.host.topology import Topology, read_topology
from profiler.doctor.evidence import Frequency, Host, HugePages, Missing, Throttling

_SELECTED = re.compile(r"\[([\w+]+)\]")


class Machine:
    """What was read of the machine; the quotas are read at the beginning and at the end."""

    def __init__(self, root: Path, pids: Iterable[int]) -> None:
        self._root = root
        self._pids = list(pids)
        self._cgroups = Cgroups(root)
        self._before = self._read_limits()

    def finish(self) -> Host:
        """Read the rest."""
        topology = read_topology(self._root)
        return Host(
            topology=topology,
            throttling=_throttling(self._before, self._read_limits()),
            frequency=_read_frequency(self._root, topology),
            huge_pages=_read_huge_pages(self._root),
        )

    def _read_limits(self) -> dict[str, CgroupLimit] | Missing:
        """Return the groups with a quota over any process, by their directory."""
        found: dict[str, CgroupLimit] = {}
        readable = 0
        for pid in self._pids:
            try:
                limits = self._cgroups.limits(pid)
            except ProcessLookupError:
                continue
            readable += 1
            found |= {one.directory: one for one in limits if one.quota_cpus is not None}
        if not readable:
            return Missing("its cgroup cannot be read", "run cputax on the server's host")
        return found


def _throttling(
    before: dict[str, CgroupLimit] | Missing, after: dict[str, CgroupLimit] | Missing
) -> Throttling | Missing:
    if isinstance(after, Missing):
        return after
    earlier = {} if isinstance(before, Missing) else before
    limits = sorted(after.values(), key=lambda one: one.quota_cpus or 0.0)
    worst = (0, 0)
    for limit in limits:
        begin = earlier.get(limit.directory)
        if begin is None:
            continue
        throttled = (limit.throttled_period_count or 0) - (begin.throttled_period_count or 0)
        periods = (limit.period_count or 0) - (begin.period_count or 0)
        worst = max(worst, (throttled, periods))
    return Throttling(tuple(limits), period_count=worst[1], throttled_period_count=worst[0])


def _read_frequency(root: Path, topology: Topology) -> Frequency | None:
    drivers, governors, preferences = Counter[str](), Counter[str](), Counter[str]()
    for cpu in topology.cpus:
        directory = root / f"sys/devices/system/cpu/cpu{cpu.cpu}/cpufreq"
        for counter, name in (
            (drivers, "scaling_driver"),
            (governors, "scaling_governor"),
            (preferences, "energy_performance_preference"),
        ):
            counter.update(filter(None, [read_text(directory / name)]))
    if not governors:
        return None
    return Frequency(next(iter(drivers), "unknown driver"), governors, preferences)


def _read_huge_pages(root: Path) -> HugePages | None:
    words = []
    for name in ("enabled", "defrag"):
        text = read_text(root / "sys/kernel/mm/transparent_hugepage" / name)
        selected = _SELECTED.search(text or "")
        if selected is None:
            return None
        words.append(selected[1])
    return HugePages(*words)
