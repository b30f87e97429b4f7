"""CPU quotas (CFS bandwidth control) of a process's group and of every group above it.

A group that has used its quota stands still until the next period, with all its threads: to the
scheduler they are runnable and wait, which looks like a busy machine. Version 1, version 2 and the
two side by side. Layouts: Documentation/scheduler/sched-bwc.rst, admin-guide/cgroup-v2.rst and
cgroups(7).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from probes.host.files import ROOT, read_int, read_list, read_text


@dataclass(frozen=True, slots=True)
class CgroupLimit:
    """One group's quota, and what it cost since the group was made."""

    path: str  # of the group, as /proc/PID/cgroup has it
    directory: str  # of its files, to look at or to change
    version: int  # of cgroups: 1 or 2
    quota_cpus: float | None  # None: no quota
    period_s: float | None
    period_count: int | None  # in which something was runnable
    throttled_period_count: int | None
    throttled_s: float | None  # of all CPUs of the group together


@dataclass(frozen=True, slots=True)
class Cpuset:
    """Where the cpuset of a process's group lets it run and allocate; None: not to be read."""

    path: str
    cpus: tuple[int, ...] | None
    nodes: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Cgroup:
    """The group of a process in one hierarchy."""

    path: str
    version: int
    mount: Path  # where the hierarchy can be read
    mount_path: str  # the group that shows there: not "/" in a container without a namespace

    def directories(self) -> list[tuple[str, Path]]:
        """Return (group's path, its directory), the process's own first, up to the mount.

        Empty when the group lies outside what is mounted here.
        """
        path = PurePosixPath(self.path)
        if ".." in path.parts or not path.is_relative_to(self.mount_path):
            return []
        chain = [path, *path.parents]
        visible = [one for one in chain if one.is_relative_to(self.mount_path)]
        return [(str(one), self.mount / one.relative_to(self.mount_path)) for one in visible]


@dataclass(frozen=True, slots=True)
class _Mount:
    version: int
    controllers: frozenset[str]
    path: str
    directory: Path


class Cgroups:
    """The cgroup file systems mounted below ``root``, found once."""

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root
        self._mounts = _read_mounts(root)

    def group(self, pid: int, controller: str) -> Cgroup | None:
        """Return the process's group in the hierarchy with this controller (``cpu``, ``cpuset``).

        Version 2 holds what no hierarchy of version 1 does. None where that one is not mounted.

        Raises:
            ProcessLookupError: the process is gone.
        """
        version_2 = None
        for controllers, path in self._groups(pid):
            if controller in controllers:
                return self._find(1, path, controller)
            if not controllers:
                version_2 = path
        return None if version_2 is None else self._find(2, version_2, controller)

    def unified_group(self, pid: int) -> Cgroup | None:
        """Return the process's group of version 2, which may hold no controller at all.

        Raises:
            ProcessLookupError: the process is gone.
        """
        paths = [path for controllers, path in self._groups(pid) if not controllers]
        return self._find(2, paths[0], "") if paths else None

    def limits(self, pid: int) -> list[CgroupLimit]:
        """Return the quota of the process's group and of each above it, its own first.

        A root group of version 2 has none and is left out; what lies above a container is not to
        be seen.

        Raises:
            ProcessLookupError: the process is gone.
        """
        group = self.group(pid, "cpu")
        if group is None:
            return []
        limits = (
            read_limit(path, directory, group.version) for path, directory in group.directories()
        )
        return [limit for limit in limits if limit is not None]

    def cpuset(self, pid: int) -> Cpuset | None:
        """Return the cpuset that holds for the process; None where there is none to be seen.

        Raises:
            ProcessLookupError: the process is gone.
        """
        group = self.group(pid, "cpuset")
        if group is None:
            return None
        names = ("cpuset.effective_cpus", "cpuset.effective_mems")
        if group.version == 2:
            names = ("cpuset.cpus.effective", "cpuset.mems.effective")
        for path, directory in group.directories():  # the controller may be on only further up
            cpus, nodes = (read_list(directory / name) for name in names)
            if cpus is not None or nodes is not None:
                return Cpuset(path, cpus, nodes)
        return None

    def _groups(self, pid: int) -> list[tuple[list[str], str]]:
        """Return (controllers, path) of each line of /proc/PID/cgroup; version 2 has no names."""
        text = read_text(self._root / "proc" / str(pid) / "cgroup")
        if text is None:
            raise ProcessLookupError(f"gone, or without cgroups: {pid}")
        fields = (line.split(":", 2) for line in text.splitlines())
        # A named hierarchy (name=systemd) is version 1 without a controller.
        return [(one[1].split(",") if one[1] else [], one[2]) for one in fields if len(one) == 3]

    def _find(self, version: int, path: str, controller: str) -> Cgroup | None:
        for mount in self._mounts:
            if mount.version == version and (version == 2 or controller in mount.controllers):
                return Cgroup(path, version, mount.directory, mount.path)
        return None


def read_limits(root: Path, pid: int) -> list[CgroupLimit]:
    """Return the quotas over a process, see `Cgroups.limits`; finds the mounts each time."""
    return Cgroups(root).limits(pid)


def read_limit(path: str, directory: Path, version: int) -> CgroupLimit | None:
    """Read one group's files; None where there is no such group or it can have no quota."""
    bandwidth = _bandwidth_1(directory) if version == 1 else _bandwidth_2(directory)
    if bandwidth is None:
        return None
    quota_us, period_us = bandwidth
    pairs = (line.split() for line in (read_text(directory / "cpu.stat") or "").splitlines())
    counts = {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}
    throttled_ns = counts.get("throttled_time")  # version 1
    if version == 2:
        throttled_ns = counts["throttled_usec"] * 1000 if "throttled_usec" in counts else None
    return CgroupLimit(
        path=path,
        directory=str(directory),
        version=version,
        quota_cpus=None if quota_us is None else quota_us / period_us,
        period_s=period_us / 1e6,
        period_count=counts.get("nr_periods"),
        throttled_period_count=counts.get("nr_throttled"),
        throttled_s=None if throttled_ns is None else throttled_ns / 1e9,
    )


def _bandwidth_1(directory: Path) -> tuple[int | None, int] | None:
    """Return (quota, period) in us; the quota is None where there is none (-1)."""
    quota_us = read_int(directory / "cpu.cfs_quota_us")
    period_us = read_int(directory / "cpu.cfs_period_us")
    if quota_us is None or not period_us:
        return None
    return quota_us if quota_us > 0 else None, period_us


def _bandwidth_2(directory: Path) -> tuple[int | None, int] | None:
    """Return (quota, period) in us; the quota is None where there is none (``max``)."""
    words = (read_text(directory / "cpu.max") or "").split()
    if len(words) != 2 or not words[1].isdecimal() or not int(words[1]):
        return None
    return int(words[0]) if words[0].isdecimal() else None, int(words[1])


def _read_mounts(root: Path) -> list[_Mount]:
    """Read the mounts that this process sees; layout: /proc/PID/mountinfo in proc(5)."""
    mounts = []
    for line in (read_text(root / "proc/self/mountinfo") or "").splitlines():
        place, _, kind = line.partition(" - ")
        fields, kinds = place.split(), kind.split()
        is_cgroup = len(kinds) > 2 and kinds[0] in {"cgroup", "cgroup2"}
        if not is_cgroup or len(fields) < 5 or not fields[4].startswith("/"):
            continue
        # The host's file systems may be mounted below the root: then it is in the mount point.
        point = PurePosixPath(fields[4])
        inside = point.relative_to(root if point.is_relative_to(root) else "/")
        mounts.append(
            _Mount(
                version=2 if kinds[0] == "cgroup2" else 1,
                controllers=frozenset(kinds[2].split(",")),
                path=fields[3],
                directory=root / inside,
            )
        )
    return mounts
