"""Throttling and pressure of the control groups that the target's processes are in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from collectors import host_counters as names
from probes.cgroups import CgroupLimit, Cgroups, read_limit
from probes.host.readers import COUNT, SECONDS, read_pressure
from probes.host.rows import LEVEL, TOTAL, Reading

CPUS: Final = "CPUs"
# A process is moved to another group at its start, or hardly ever.
PLACE_LOOKS: Final = 10


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one process is: (path, directory, version) up the tree, and where pressure is."""

    chain: tuple[tuple[str, Path, int], ...]
    unified: tuple[str, Path] | None


class GroupReader:
    """Reads the groups of processes; each group once a look, however many processes share it."""

    def __init__(self, root: Path) -> None:
        self._cgroups = Cgroups(root)
        self._places: dict[int, _Place] = {}
        self._look_count = 0

    def read(self, tracks: dict[int, int]) -> list[Reading]:
        """Read for each PID of ``tracks``, on its track."""
        if self._look_count % PLACE_LOOKS == 0 or tracks.keys() - self._places.keys():
            self._places = {}
            for pid in tracks:
                try:
                    self._places[pid] = self._find(pid)
                except ProcessLookupError:
                    continue
        self._look_count += 1
        limits = {
            link: read_limit(*link)
            for link in {link for place in self._places.values() for link in place.chain}
        }
        readings: list[Reading] = []
        for pid, place in self._places.items():
            track = tracks[pid]
            for link in place.chain:
                readings += _quota_readings(limits[link], track)
            if place.unified is not None:
                path, directory = place.unified
                kinds = ("some", "full")
                readings += read_pressure(directory / "cpu.pressure", "cpu", kinds, track, path)
        return readings

    def _find(self, pid: int) -> _Place:
        group = self._cgroups.group(pid, "cpu")
        chain = [] if group is None else [(*one, group.version) for one in group.directories()]
        unified = self._cgroups.unified_group(pid)
        own = None if unified is None else next(iter(unified.directories()), None)
        # Only a root group has no type; its pressure is the host's.
        is_root = own is None or not (own[1] / "cgroup.type").exists()
        return _Place(tuple(chain), None if is_root else own)


def _quota_readings(limit: CgroupLimit | None, track: int) -> list[Reading]:
    """Return the readings of a group that has a quota; of others there is nothing to say."""
    if limit is None or limit.quota_cpus is None:
        return []
    labels = f"cgroup={limit.path}"
    found = (
        (names.CGROUP_QUOTA, CPUS, LEVEL, limit.quota_cpus),
        (names.CGROUP_THROTTLED, SECONDS, TOTAL, limit.throttled_s),
        (names.CGROUP_PERIODS, COUNT, TOTAL, limit.period_count),
        (names.CGROUP_THROTTLED_PERIODS, COUNT, TOTAL, limit.throttled_period_count),
    )
    return [
        Reading(track, name, labels, unit, kind, value)
        for name, unit, kind, value in found
        if value is not None
    ]
