"""``manifest.json``: what was recorded, from whom, how well, and how it ended."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from collectors.clock import Anchor
from collectors.errors import CaptureInvalid
from collectors.schema import SCHEMA_VERSION

FILE_NAME: Final = "manifest.json"
MONOTONIC: Final = "monotonic"
IMPORTED: Final = "imported"  # the kind of a target that was not recorded but read from files

State = Literal["recording", "complete", "partial"]


@dataclass(slots=True)
class ProcessRecord:
    """One process of the target's tree. ``start_ticks`` is field 22 of /proc/PID/stat."""

    pid: int
    start_ticks: int
    role: str
    name: str
    rank: int | None = None


@dataclass(slots=True)
class ProbeRecord:
    """One probe: what it could do here and what it did."""

    name: str
    level: str  # works, degraded, unavailable, off
    reason: str | None = None
    remedy: str | None = None
    requested_hz: float | None = None
    achieved_hz: float | None = None
    largest_gap_ns: int | None = None
    cpu_seconds: float | None = None
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class TargetRecord:
    """The server: its kind (vllm, oracle, python) and what could be learned from outside."""

    root_pid: int
    kind: str
    version: str | None = None
    model: str | None = None
    url: str | None = None
    processes: list[ProcessRecord] = field(default_factory=list)


@dataclass(slots=True)
class Manifest:
    """The run. Times are ns of ``clock``; the anchors tie CLOCK_MONOTONIC to the other clocks.

    An imported timeline keeps its own clock (`collectors.importers.trace.Clock`), has no anchors,
    and names in ``sources`` the files that it was made of.
    """

    target: TargetRecord
    started_ns: int
    cputax_version: str
    schema_version: int = SCHEMA_VERSION
    clock: str = MONOTONIC
    sources: list[str] = field(default_factory=list)
    state: State = "recording"
    stopped_ns: int | None = None
    stop_reason: str | None = None
    host: dict[str, Any] = field(default_factory=dict)
    probes: list[ProbeRecord] = field(default_factory=list)
    anchors: list[Anchor] = field(default_factory=list)
    overhead: dict[str, float] = field(default_factory=dict)

    def write(self, directory: Path) -> None:
        """Replace the manifest in ``directory`` atomically.

        Raises:
            OSError: it cannot be written; the old one stays.
        """
        draft = directory / (FILE_NAME + ".tmp")
        draft.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        os.replace(draft, directory / FILE_NAME)


def read_manifest(directory: Path) -> Manifest:
    """Read the manifest of the capture in ``directory``.

    Raises:
        CaptureInvalid: there is none, it is damaged, or a newer cputax wrote it.
    """
    path = directory / FILE_NAME
    remedy = "give the directory that cputax attach printed, the one that holds manifest.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        message = f"{directory} is not a capture: no readable {FILE_NAME}"
        raise CaptureInvalid(message, remedy) from error
    except ValueError as error:
        raise CaptureInvalid(f"{path} is damaged: not JSON", remedy) from error
    try:
        version = int(document["schema_version"])
        if version > SCHEMA_VERSION:
            raise CaptureInvalid(
                f"{directory} has schema version {version}, and {SCHEMA_VERSION} is the newest "
                "that this cputax reads",
                "pip install --upgrade cputax",
            )
        target = document.pop("target")
        processes = [ProcessRecord(**record) for record in target.pop("processes")]
        anchors = [Anchor(**record) for record in document.pop("anchors")]
        if not anchors and document.get("clock", MONOTONIC) == MONOTONIC:
            raise ValueError("it has no clock anchor")
        return Manifest(
            target=TargetRecord(processes=processes, **target),
            probes=[ProbeRecord(**record) for record in document.pop("probes")],
            anchors=anchors,
            **document,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CaptureInvalid(f"{path} is damaged: {error}", remedy) from error
