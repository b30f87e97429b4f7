"""The masks of a server's threads: remember them, change them, and put every one back.

A thread is the same one as before if its process's PID and start time and its own id and start
time are. What is put back is only what we changed: a thread whose mask is neither its first one
nor ours was moved by somebody else and is left, and told. Standard library and `probes.procfs`
only: the guardian runs this in a process of its own that must start in no time.

Masks are sets of CPU numbers as in sched_setaffinity(2). A new thread, and a new process, inherits
the mask of the thread that made it.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Protocol

from probes.procfs import Procfs

Mask = frozenset[int]

# A clone(2) that has copied its maker's mask may be off the CPU before the new thread shows in
# /proc: look again after these pauses, until a look finds nothing to put back.
LOOK_AGAIN_S: Final = (0.0, 0.02, 0.1)
_LOOK_LIMIT: Final = 50


class Kernel(Protocol):
    """What is asked of the kernel; every call raises `ProcessLookupError` for what is gone."""

    def tids(self, pid: int) -> list[int]:
        """Return the ids of a process's threads."""

    def start_ticks(self, pid: int, tid: int | None = None) -> int:
        """Return when a process or thread began; zombies are gone."""

    def children(self, pid: int) -> list[int]:
        """Return the PIDs of a process's children; none when it is gone."""

    def mask(self, tid: int) -> Mask:
        """Return where a thread may run."""

    def set_mask(self, tid: int, mask: Mask) -> None:
        """Say where a thread may run; raises `PermissionError` when it is not ours to say."""


class LinuxKernel:
    """The real one."""

    def __init__(self, procfs: Procfs | None = None) -> None:
        procfs = procfs or Procfs()
        self._procfs = procfs
        self.tids = procfs.tids
        self.children = procfs.children

    def start_ticks(self, pid: int, tid: int | None = None) -> int:
        """Return when a process or thread began; zombies are gone."""
        stat = self._procfs.stat(pid, tid)
        if stat.state in "ZX":
            raise ProcessLookupError(f"ended: {pid}")
        return stat.start_ticks

    def mask(self, tid: int) -> Mask:
        """Return where a thread may run."""
        return frozenset(os.sched_getaffinity(tid))

    def set_mask(self, tid: int, mask: Mask) -> None:
        """Say where a thread may run."""
        os.sched_setaffinity(tid, mask)


@dataclass(frozen=True, slots=True)
class HeldThread:
    """A thread as it was found."""

    start_ticks: int
    mask: Mask


@dataclass(slots=True)
class HeldProcess:
    """A process as it was found, and another mask that it is to try.

    ``mask`` is that of most of its threads, and moves to ``pinned``; threads with another one were
    bound on purpose (by OpenMP, NCCL, the server itself) and stay where they are.
    """

    pid: int
    start_ticks: int
    mask: Mask
    pinned: Mask
    threads: dict[int, HeldThread]

    @property
    def moving_count(self) -> int:
        """How many threads move."""
        return sum(thread.mask == self.mask for thread in self.threads.values())

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return {
            "pid": self.pid,
            "start_ticks": self.start_ticks,
            "mask": sorted(self.mask),
            "pinned": sorted(self.pinned),
            "threads": [
                [tid, thread.start_ticks, sorted(thread.mask)]
                for tid, thread in self.threads.items()
            ],
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> HeldProcess:
        """Return what `to_json` wrote."""
        return cls(
            document["pid"], document["start_ticks"],
            frozenset(document["mask"]), frozenset(document["pinned"]),
            {tid: HeldThread(start, frozenset(mask)) for tid, start, mask in document["threads"]},
        )  # fmt: skip


@dataclass(slots=True)
class Held:
    """All that is needed to put everything back.

    ``bystanders`` are the processes below those held that were there before (PID to start time)
    and are none of ours to move, whatever their masks.
    """

    processes: list[HeldProcess]
    bystanders: dict[int, int]

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return {
            "processes": [process.to_json() for process in self.processes],
            "bystanders": list(self.bystanders.items()),
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Held:
        """Return what `to_json` wrote."""
        processes = [HeldProcess.from_json(one) for one in document["processes"]]
        return cls(processes, dict(document["bystanders"]))


@dataclass(slots=True)
class Outcome:
    """What a pass over all threads did, in (PID, thread id).

    ``newborn`` were moved and not there at the beginning, ``foreign`` were moved by somebody else,
    and with ``refused`` the kernel did not let us, or not where we said (a cpuset of their own).
    """

    changed_count: int = 0
    newborn: list[tuple[int, int]] = field(default_factory=list)
    foreign: list[tuple[int, int]] = field(default_factory=list)
    refused: list[tuple[int, int]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Outcome:
        """Return what `to_json` wrote."""
        lists = ([(p, t) for p, t in document[key]] for key in ("newborn", "foreign", "refused"))
        return cls(document["changed_count"], *lists)


def read_masks(kernel: Kernel, pid: int) -> dict[int, HeldThread]:
    """Return a process's threads as they are; none when it is gone."""
    threads: dict[int, HeldThread] = {}
    try:
        tids = kernel.tids(pid)
    except ProcessLookupError:
        return threads
    for tid in tids:
        try:
            threads[tid] = HeldThread(kernel.start_ticks(pid, tid), kernel.mask(tid))
        except ProcessLookupError:
            continue
    return threads


def common_mask(threads: Iterable[HeldThread]) -> Mask:
    """Return the mask of most of the threads; of equally frequent ones, the widest."""
    counts = Counter(thread.mask for thread in threads)
    return max(counts, key=lambda mask: (counts[mask], len(mask), sorted(mask)))


def hold(kernel: Kernel, pinned: Mapping[int, Mask]) -> Held:
    """Remember the processes that are to try another mask, by PID, and whoever is below them.

    A process that is gone, or already where it is to be, is left out.
    """
    held = Held([], {})
    for pid, mask in pinned.items():
        try:
            start_ticks = kernel.start_ticks(pid)
        except ProcessLookupError:
            continue
        threads = read_masks(kernel, pid)
        if threads and (common := common_mask(threads.values())) != mask:
            held.processes.append(HeldProcess(pid, start_ticks, common, mask, threads))
    for process in held.processes:
        for pid in _below(kernel, process.pid):
            with suppress(ProcessLookupError):
                held.bystanders[pid] = kernel.start_ticks(pid)
    return held


def impose(kernel: Kernel, held: Held) -> Outcome:
    """Give every thread that moves its process's ``pinned`` mask, those born since too."""
    outcome = Outcome()
    for process in held.processes:
        for tid, start_ticks, mask in _living(kernel, process):
            first = process.threads.get(tid)
            is_known = first is not None and first.start_ticks == start_ticks
            before = first.mask if first is not None and is_known else process.mask
            if mask == process.pinned or before != process.mask:
                continue
            if mask == before:
                _move(kernel, process.pid, tid, process.pinned, outcome, is_newborn=not is_known)
            elif is_known:
                outcome.foreign.append((process.pid, tid))
    return outcome


def restore(kernel: Kernel, held: Held, sleep: Callable[[float], None] = time.sleep) -> Outcome:
    """Put every mask back that is ours, of threads and processes born since too.

    A thread that was not there at the beginning gets what its process had then; a process that was
    not, what its maker's had.
    """
    total = Outcome()
    pauses = list(LOOK_AGAIN_S)
    for _ in range(_LOOK_LIMIT):
        sleep(pauses.pop(0))
        outcome = Outcome()
        for process in held.processes:
            _put_back(kernel, process, outcome)
            for pid in _below(kernel, process.pid):
                _put_back_newborn(kernel, held, process, pid, outcome)
        total.changed_count += outcome.changed_count
        total.newborn += outcome.newborn
        total.foreign, total.refused = outcome.foreign, outcome.refused
        if outcome.changed_count:
            pauses = list(LOOK_AGAIN_S)
        elif not pauses:
            break
    return total


def _put_back(kernel: Kernel, process: HeldProcess, outcome: Outcome) -> None:
    for tid, start_ticks, mask in _living(kernel, process):
        first = process.threads.get(tid)
        if first is None or first.start_ticks != start_ticks:
            if mask == process.pinned:
                _move(kernel, process.pid, tid, process.mask, outcome, is_newborn=True)
        elif mask == process.pinned and mask != first.mask:
            _move(kernel, process.pid, tid, first.mask, outcome, is_newborn=False)
        elif mask != first.mask:
            outcome.foreign.append((process.pid, tid))


def _put_back_newborn(
    kernel: Kernel, held: Held, maker: HeldProcess, pid: int, outcome: Outcome
) -> None:
    """Put back a process below ``maker`` that has inherited its mask."""
    try:
        start_ticks = kernel.start_ticks(pid)
    except ProcessLookupError:
        return
    if held.bystanders.get(pid) == start_ticks:
        return
    for tid, thread in read_masks(kernel, pid).items():
        if thread.mask == maker.pinned:
            _move(kernel, pid, tid, maker.mask, outcome, is_newborn=True)


def _living(kernel: Kernel, process: HeldProcess) -> Iterator[tuple[int, int, Mask]]:
    """Yield (id, start time, mask) of each thread of this very process, if it still lives."""
    try:
        if kernel.start_ticks(process.pid) != process.start_ticks:
            return
    except ProcessLookupError:
        return
    for tid, thread in read_masks(kernel, process.pid).items():
        yield tid, thread.start_ticks, thread.mask


def _below(kernel: Kernel, pid: int) -> list[int]:
    """Return the PIDs of all processes below one."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        children = kernel.children(waiting.pop())
        found += children
        waiting += children
    return found


def _move(
    kernel: Kernel, pid: int, tid: int, mask: Mask, outcome: Outcome, *, is_newborn: bool
) -> None:
    try:
        before = kernel.mask(tid)
        kernel.set_mask(tid, mask)
        if kernel.mask(tid) != mask:
            # The kernel has cut it to the thread's cpuset: a mask that we would not know again.
            kernel.set_mask(tid, before)
            raise PermissionError
    except ProcessLookupError:
        return
    except OSError:  # EPERM: it changed its user; EINVAL: none of these CPUs is left to it
        outcome.refused.append((pid, tid))
        return
    outcome.changed_count += 1
    if is_newborn:
        outcome.newborn.append((pid, tid))
