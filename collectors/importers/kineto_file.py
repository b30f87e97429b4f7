"""One file of the torch profiler on its way into a `Trace`: columns, tracks and who launched what.

Which process owns a stream, what a device is called and what the times count from may stand at the
file's very end, so rows wait here until then.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from collectors.importers.columns import ids, integers
from collectors.importers.groups import MAX_TRACK_COUNT, Lookup
from collectors.importers.kineto_events import (
    COMPLETE,
    DEVICE_CATEGORIES,
    HOST_CATEGORIES,
    LEFT_CATEGORIES,
    Args,
    Event,
    nanoseconds,
)
from collectors.importers.kineto_launches import Launches
from collectors.importers.kineto_tracks import Labels, NameIds, Streams, Threads
from collectors.importers.trace import Clock, Trace
from collectors.slices import API, KERNEL, NONE, Slices, make_slices

# Nobody used torch before September 2001: smaller times count from something else than 1970.
_FIRST_WALL_NS: Final = 1_000_000_000 * 1_000_000_000
_QUICK_CATEGORIES: Final = frozenset({"", *DEVICE_CATEGORIES})


class KinetoFile:
    """Takes a file's events in any order, then everything else, then `finish`."""

    def __init__(self, trace: Trace, *, device_only: bool) -> None:
        """Begin; the trace is at the scope of this file."""
        self.base_ns: int | None = None  # what the times count from
        self.rank: int | None = None
        self.device_names: dict[int, str] = {}
        self._trace = trace
        self._device_only = device_only
        self._threads = Threads(trace)
        self._streams = Streams()
        self._labels = Labels()
        self._names: dict[str, NameIds] = {}  # by kind
        self._launches = Launches()
        self._on_device: list[Slices] = []  # their tracks are places in the streams' ids
        self._on_host: list[Slices] = []

    def take(self, events: Sequence[Event]) -> None:
        """Take some of the file's events."""
        if self._device_only:
            events = [event for event in events if event.cat in _QUICK_CATEGORIES]
        groups: defaultdict[str, list[Event]] = defaultdict(list)
        for event in events:
            groups[event.cat].append(event)
        self._labels.take(groups.pop("", []))
        for category, group in groups.items():
            lasting = [event for event in group if event.ph == COMPLETE]
            if (kind := DEVICE_CATEGORIES.get(category)) is not None:
                self._take_device(kind, lasting)
            elif (kind := HOST_CATEGORIES.get(category)) is not None:
                self._take_host(kind, lasting)
            elif category not in LEFT_CATEGORIES:
                self._trace.skip("events of unknown categories", len(lasting))

    def _take_device(self, kind: str, events: list[Event]) -> None:
        args = [event.args for event in events]
        streams = self._streams
        places = [
            streams[one.device, one.stream, event.pid, event.tid]
            for event, one in zip(events, args, strict=True)
        ]
        batch = make_slices(
            nanoseconds([event.ts for event in events]),
            nanoseconds([event.dur for event in events]),
            np.array(places, np.int32),
            self._name_ids(kind, events),
            correlation=ids([one.correlation for one in args]),
            size_bytes=None if kind == KERNEL else integers([one.bytes for one in args]),
            graph=_graphs(args),
        )
        self._on_device.append(self._placed(batch, "GPU events without a device or a stream"))

    def _take_host(self, kind: str, events: list[Event]) -> None:
        threads = self._threads
        batch = make_slices(
            nanoseconds([event.ts for event in events]),
            nanoseconds([event.dur for event in events]),
            np.array([threads[event.pid, event.tid] for event in events], np.int32),
            self._name_ids(kind, events),
            correlation=ids([event.args.correlation for event in events]) if kind == API else None,
        )
        batch = self._placed(batch, "events without a process or a thread")
        self._on_host.append(batch)
        if kind == API:
            self._launches.add(batch)

    def _name_ids(self, kind: str, events: list[Event]) -> NDArray[np.int32]:
        known = self._names.setdefault(kind, NameIds(self._trace, kind))
        return np.array([known[event.name] for event in events], np.int32)

    def _placed(self, batch: Slices, reason: str) -> Slices:
        is_placed = batch.track != NONE
        if is_placed.all():
            return batch
        self._trace.skip(reason, int((~is_placed).sum()))
        return batch.where(is_placed)

    def finish(self) -> None:
        """Give the trace what was taken."""
        if not self._is_wall_time():
            self._trace.clock = Clock.OWN
        processes = self._labels.give(self._trace, self._threads, self.rank)
        only_process = processes[0] if len(processes) == 1 else NONE
        parents = [row.get("parent", NONE) for row in self._trace.track_rows]
        self._launches.sort(np.array(parents, np.int32))
        streams = Lookup("streams", MAX_TRACK_COUNT, self._stream)
        for batch in _emptied(self._on_device):
            launch_track, process = self._launches.find(batch.correlation)
            process[process == NONE] = only_process
            batch.time_ns[:] += self.base_ns or 0
            track = streams(batch.track, process)
            self._trace.add(replace(batch, track=track, launch_track=launch_track))
        for batch in _emptied(self._on_host):
            batch.time_ns[:] += self.base_ns or 0
            self._trace.add(batch)

    def _is_wall_time(self) -> bool:
        if self.base_ns is not None:
            return True
        batches = [batch for batch in (*self._on_device, *self._on_host) if len(batch)]
        return not batches or bool(np.median(batches[0].time_ns) >= _FIRST_WALL_NS)

    def _stream(self, place: int, process: int) -> int:
        """Return the track of a stream, for the work of a process (its track, or `NONE`)."""
        device, stream = self._streams.ids[place]
        return self._trace.stream(
            self._trace.device(device, name=self._device_name(device), rank=self.rank),
            stream,
            process=None if process == NONE else process,
        )

    def _device_name(self, device: int) -> str:
        """Return a GPU's name; ROCm counts its GPUs in events otherwise than in their list."""
        if device in self.device_names:
            return self.device_names[device]
        names = set(self.device_names.values())
        return names.pop() if len(names) == 1 else ""


def _graphs(args: list[Args]) -> NDArray[np.int64]:
    """Return which graph's replay launched each; without its id, which node of one it was."""
    graph = ids([one.graph for one in args])
    is_unknown = graph == NONE
    if is_unknown.any():
        graph[is_unknown] = ids([one.graph_node for one in args])[is_unknown]
    return graph


def _emptied(batches: list[Slices]) -> Iterator[Slices]:
    """Yield batches in order, and let each go: there may be gigabytes of them."""
    batches.reverse()
    while batches:
        yield batches.pop()
