"""What foreign files held, on its way to a capture: tracks, names, columns of slices and samples.

Every importer fills one of these and judges nothing but its own format; what no timeline can hold
(time that runs backwards, names without end) is left out here, counted, and said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collectors.errors import ImportInvalid
from collectors.slices import Slices, concatenate
from collectors.stacks import StackTable

MAX_NAME_CHARS: Final = 4_096  # of one name; kernels of templates reach a few thousand
MAX_NAMES_CHARS: Final = 1 << 28  # of all names together
MAX_SLICE_COUNT: Final = 1 << 28
MAX_TIME_NS: Final = 1 << 62  # a sum of two still fits
NAMELESS: Final = "(too many names)"
_NO_TIMES: Final = np.empty(0, np.int64)
_NO_IDS: Final = np.empty(0, np.int32)


class Clock(StrEnum):
    """Whose nanoseconds a timeline's times are."""

    MONOTONIC = "monotonic"  # this host's CLOCK_MONOTONIC: all that cputax records
    REALTIME = "realtime"  # wall time
    BOOTTIME = "boottime"  # CLOCK_BOOTTIME of the host that was traced
    OWN = "own"  # from an instant that nobody wrote down


@dataclass(slots=True)
class _Samples:
    time_ns: list[NDArray[np.int64]] = field(default_factory=list)
    duration_ns: list[NDArray[np.int64]] = field(default_factory=list)
    track: list[NDArray[np.int32]] = field(default_factory=list)
    stack: list[NDArray[np.int32]] = field(default_factory=list)


class Trace:
    """Collects what importers read. Tracks are of one *scope*: a file, or files of one process.

    Process ids and GPU indexes mean the same within a scope only: two ranks on two machines may
    both have a GPU 0.
    """

    def __init__(self, source: str, clock: Clock) -> None:
        """Begin; ``source`` names the format, ``clock`` what its times are."""
        self.source = source
        self.clock = clock
        self.stacks = StackTable()
        self.skipped: Counter[str] = Counter()  # by reason: how many rows of the file are not here
        self.host: dict[str, Any] = {}  # what the file says of the machine, for the manifest
        self._scope = 0
        self.track_rows: list[dict[str, Any]] = []  # of the ``tracks`` table
        self._tracks: dict[tuple[object, ...], dict[str, Any]] = {}
        self._names: dict[tuple[str, str], int] = {}
        self._names_chars = 0
        self._batches: list[Slices] = []
        self._samples = _Samples()
        self.slice_count = 0

    def begin_scope(self) -> None:
        """Begin another file: its process ids and GPU indexes are its own."""
        self._scope += 1

    def process(
        self, pid: int, *, name: str = "", role: str = "python", rank: int | None = None
    ) -> int:
        """Return the track of this process."""
        row = {"kind": "process", "pid": pid, "name": name, "role": role, "rank": rank}
        return self._track(("process", pid), row)

    def thread(self, process: int, tid: int, *, name: str = "") -> int:
        """Return the track of this thread of a process's track."""
        parent = self.track_rows[process]
        row = {"kind": "thread", "parent": process, "pid": parent["pid"], "tid": tid}
        return self._track(("thread", process, tid), {**row, "name": name, "role": parent["role"]})

    def device(self, index: int, *, name: str = "", rank: int | None = None) -> int:
        """Return the track of this GPU."""
        row = {"kind": "device", "name": name, "role": "gpu", "rank": rank, "device": index}
        return self._track(("device", index), row)

    def stream(self, device: int, stream: int, *, process: int | None, name: str = "") -> int:
        """Return the track of this stream or queue of a GPU's track, for one process's work."""
        parent = self.track_rows[device]
        pid = None if process is None else self.track_rows[process]["pid"]
        row = {"kind": "stream", "parent": device, "pid": pid, "tid": stream, "role": "gpu"}
        row |= {"name": name, "device": parent["device"], "rank": parent["rank"]}
        return self._track(("stream", device, stream, process), row)

    def _track(self, key: tuple[object, ...], row: dict[str, Any]) -> int:
        """Register a track, or complete what is known of it."""
        row["name"] = _clean(row["name"][:MAX_NAME_CHARS])
        scoped = (self._scope, *key)
        known = self._tracks.get(scoped)
        if known is None:
            known = self._tracks[scoped] = {"track": len(self.track_rows)}
            self.track_rows.append(known)
        known |= {name: value for name, value in row.items() if known.get(name) in (None, "")}
        track: int = known["track"]
        return track

    def names(self, kind: str, texts: Iterable[str]) -> NDArray[np.int32]:
        """Return the ids of these names, equally many; see `collectors.slices` for the kinds."""
        ids = self._names
        return np.array(
            [
                found if (found := ids.get((kind, text))) is not None else self._name(kind, text)
                for text in texts
            ],
            np.int32,
        )

    def name(self, kind: str, text: str) -> int:
        """Return the id of one name."""
        return int(self.names(kind, (text,))[0])

    def _name(self, kind: str, text: str) -> int:
        kept = _clean(text[:MAX_NAME_CHARS])
        if len(text) > MAX_NAME_CHARS:
            self.skip(f"names cut at {MAX_NAME_CHARS:,} characters")
        if self._names_chars + len(kept) > MAX_NAMES_CHARS:
            self.skip(f"names beyond {MAX_NAMES_CHARS:,} characters in all")
            kept = NAMELESS
        if (kind, kept) not in self._names:
            self._names_chars += len(kept)
        return self._names.setdefault((kind, kept), len(self._names))

    @property
    def name_rows(self) -> list[tuple[str, str]]:
        """Kind and text of each name, by id."""
        return list(self._names)

    def add(self, batch: Slices) -> None:
        """Add slices; those whose times cannot be are left out and counted.

        Raises:
            ImportInvalid: there are more than any machine could hold.
        """
        is_sane = batch.duration_ns >= 0
        if not is_sane.all():
            self.skipped["negative durations"] += int((~is_sane).sum())
            batch = batch.where(is_sane)
        is_sane = (batch.time_ns > -MAX_TIME_NS) & (batch.time_ns < MAX_TIME_NS)
        is_sane &= batch.duration_ns < MAX_TIME_NS
        if not is_sane.all():
            self.skipped["times out of range"] += int((~is_sane).sum())
            batch = batch.where(is_sane)
        self.slice_count += len(batch)
        if self.slice_count > MAX_SLICE_COUNT:
            raise ImportInvalid(
                f"more than {MAX_SLICE_COUNT:,} slices", "trace a shorter time, or fewer ranks"
            )
        if len(batch):
            self._batches.append(batch)

    def slices(self) -> Slices:
        """Return all slices so far, in the order in which they came."""
        merged = concatenate(self._batches)
        self._batches = [merged] if len(merged) else []
        return merged

    def add_samples(
        self, time_ns: NDArray[np.int64], duration_ns: NDArray[np.int64],
        track: NDArray[np.int32], stack: NDArray[np.int32],
    ) -> None:  # fmt: skip
        """Add runs of equal stacks of threads; the stacks are those of ``stacks``."""
        self._samples.time_ns.append(time_ns)
        self._samples.duration_ns.append(duration_ns)
        self._samples.track.append(track)
        self._samples.stack.append(stack)

    def sample_columns(self) -> dict[str, NDArray[Any]]:
        """Return the columns of the ``samples`` table."""
        found = self._samples
        return {
            "time_ns": np.concatenate([_NO_TIMES, *found.time_ns]),
            "duration_ns": np.concatenate([_NO_TIMES, *found.duration_ns]),
            "track": np.concatenate([_NO_IDS, *found.track]),
            "stack": np.concatenate([_NO_IDS, *found.stack]),
        }

    def skip(self, reason: str, count: int = 1) -> None:
        """Note that rows of the file could not be taken, and why."""
        if count:
            self.skipped[reason] += count


def _clean(text: str) -> str:
    """Replace what a foreign file can say but UTF-8 cannot (lone surrogates)."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
