"""Events of one thread that are counted together, so that their ratios mean something."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from probes.cpu_counters.events import SOFTWARE, CounterEvent
from probes.perf.attributes import Flag, attributes
from probes.perf.errors import EventInvalid, EventUnknown, PerfForbidden
from probes.perf.events import COUNTING_GROUP, Count, Event, open_event

OpenEvent = Callable[..., Event]


class EventGroup:
    """Counts ``events`` for one thread from now on, each since it was opened."""

    def __init__(self, events: Sequence[CounterEvent], opened: Sequence[Event]) -> None:
        self.events = tuple(events)
        self.enabled_ns = 0
        self.running_ns = 0
        self._opened = opened
        self._last = [Count(0, 0, 0)] * len(events)
        self._totals = [0.0] * len(events)

    def read(self) -> list[float] | None:
        """Return the totals, in the events' units; None while nothing was ever counted.

        Where groups take turns on the CPU's counters, what was counted since the last reading
        stands for all of that time. A turn that has not come is made up for by the next: its time
        is never taken for one without events.
        """
        counts = self._opened[0].counts()
        before, now = self._last[0], counts[0]
        self.enabled_ns, self.running_ns = now.enabled_ns, now.running_ns
        counted_ns = now.running_ns - before.running_ns
        if counted_ns > 0:
            stretch = (now.enabled_ns - before.enabled_ns) / counted_ns
            for place, (event, old, new) in enumerate(
                zip(self.events, self._last, counts, strict=True)
            ):
                self._totals[place] += (new.value - old.value) * stretch * event.scale
            self._last = counts
        return list(self._totals) if now.running_ns else None

    def close(self) -> None:
        """Let go of the events."""
        for event in self._opened:
            event.close()


def open_group(
    events: Sequence[CounterEvent], tid: int, *, counts_kernel: bool,
    opener: OpenEvent = open_event,
) -> EventGroup | None:  # fmt: skip
    """Open those of ``events`` that there are for a thread; None when there is none of them.

    Args:
        events: what to count together.
        tid: the thread; 0 is the calling one.
        counts_kernel: also what happens inside the kernel, which needs CAP_PERFMON or
            kernel.perf_event_paranoid below 2.
        opener: stands in for `open_event`.

    Raises:
        PerfError: refused for another reason than that there is no such event.
    """
    flags = Flag.EXCLUDE_HV if counts_kernel else Flag.EXCLUDE_HV | Flag.EXCLUDE_KERNEL
    kept: list[CounterEvent] = []
    opened: list[Event] = []
    for event in events:
        if event.happens_in_kernel and not counts_kernel:
            continue
        attr = attributes(event.type, event.config, flags=flags, read_format=COUNTING_GROUP)
        leader = opened[0].fd if opened else -1
        try:
            opened.append(opener(attr, tid, -1, leader, what=event.name))
        except (EventUnknown, EventInvalid):  # EINVAL: also a group with more than fits
            continue
        except BaseException:
            for one in opened:
                one.close()
            raise
        kept.append(event)
    return EventGroup(kept, opened) if opened else None


def may_count_kernel(opener: OpenEvent = open_event) -> bool:
    """Whether we may count inside the kernel, tried on the calling thread with a clock."""
    try:
        group = open_group(SOFTWARE[:1], 0, counts_kernel=True, opener=opener)
    except PerfForbidden:
        return False
    if group is not None:
        group.close()
    return True
