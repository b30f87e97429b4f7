"""What a probe is: it says what it can do here, starts, and says at the end what it did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from collectors.manifest import ProbeRecord
from collectors.recorder import Recorder
from probes.keeper import Keeper
from probes.target import Process, Target


class Level(StrEnum):
    """How much of its work a probe can do on this target."""

    WORKS = "works"
    DEGRADED = "degraded"
    UNAVAILABLE = "unavailable"
    NOT_APPLICABLE = "not applicable"  # there is nothing here for it to see, and nothing to mend

    @property
    def is_usable(self) -> bool:
        """Whether it is worth a start."""
        return self in (Level.WORKS, Level.DEGRADED)


@dataclass(frozen=True, slots=True)
class Capability:
    """A probe's answer before it starts; ``reason`` unless all works, ``remedy`` if any."""

    probe: str
    level: Level
    reason: str | None = None
    remedy: str | None = None

    def record(self, requested_hz: float | None = None) -> ProbeRecord:
        """Return the manifest's entry for a probe with this capability."""
        return ProbeRecord(self.probe, self.level.value, self.reason, self.remedy, requested_hz)


@dataclass(slots=True)
class Context:
    """What a probe is given to work with.

    ``processes`` grows while recording: the session follows the tree and calls each probe's
    ``add`` for a process that appeared. ``tracks`` maps a PID to its track.
    """

    target: Target
    recorder: Recorder
    keeper: Keeper
    tracks: dict[int, int] = field(default_factory=dict)
    on_status: Callable[[str, str], None] = lambda _probe, _text: None

    def thread_track(self, process: Process, tid: int, name: str = "") -> int:
        """Return the track of a thread of ``process``."""
        return self.recorder.thread_track(
            self.tracks[process.pid], process.pid, tid, name=name, role=process.role
        )


class Probe(Protocol):
    """One live source. A probe must never raise out of its own threads: it records a gap."""

    @property
    def name(self) -> str:
        """Its name, as in the manifest and on the command line."""

    def check(self, target: Target) -> Capability:
        """Say whether it works on ``target``, without touching it."""

    def start(self, context: Context) -> None:
        """Begin to record all processes of the target."""

    def add(self, process: Process) -> None:
        """Take up a process that appeared in the tree."""

    def stop(self) -> ProbeRecord:
        """Stop, hand the rest to the recorder, and say what was achieved."""
