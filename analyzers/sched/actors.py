"""Who a track of the ``cpu_slices`` table is: a thread of the target, an outsider, an idle CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from analyzers.timeline import Timeline
from collectors.cpu_slices import NONE

THREAD: Final = "thread"
OUTSIDER: Final = "outsider"
IDLE: Final = "idle"  # the CPU had no work: what left it was stopped by a quota, or moved away
UNKNOWN: Final = "unknown"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who had a CPU. Threads of one name in one process are one; so are outsiders of one name."""

    kind: str  # THREAD, OUTSIDER, IDLE, UNKNOWN
    role: str
    name: str
    pid: int | None  # of a thread of the target

    def to_json(self) -> dict[str, str | int | None]:
        """Return the fields as they stand in the document."""
        return {"kind": self.kind, "role": self.role, "name": self.name, "pid": self.pid}


NOBODY_SEEN: Final = Actor(UNKNOWN, UNKNOWN, "", None)


def actors_by_track(timeline: Timeline) -> dict[int, Actor]:
    """Return who each track is, of those that can have a CPU; `NONE` is there too."""
    found = {NONE: NOBODY_SEEN}
    for row in timeline.capture.table("tracks").to_pylist():
        kind = row["kind"]
        if kind == THREAD:
            name = row["name"] or str(row["tid"])
            found[row["track"]] = Actor(THREAD, row["role"], name, row["pid"])
        elif kind in (OUTSIDER, IDLE):
            found[row["track"]] = Actor(kind, kind, row["name"], None)
    return found
