"""The stack sampler child as a process: what it sends, and when it ends."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

from sampler_child import PARENT, Sampler, running_sampler

from probes.stacks import wire
from probes.stacks.batches import LineDecoder, StackBatch
from probes.stacks.finder import find_stacks
from probes.stacks.layout import StackLayout


def sampler(
    *layouts: StackLayout, rate_hz: float = 100, seconds: float = 60, **how: Any
) -> AbstractContextManager[Sampler[StackBatch]]:
    """Start it; ``how`` as in `running_sampler`."""
    arguments = (rate_hz, seconds)
    return running_sampler("probes.stacks.sampler", arguments, layouts, LineDecoder().feed, **how)


def first_with(stream: Iterator[StackBatch], pid: int) -> StackBatch:
    return next(batch for batch in stream if any(run[0] == pid for run in batch.runs))


def events(batches: list[StackBatch]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for batch in batches:
        for pid, what, _ in batch.events:
            found.setdefault(pid, []).append(what)
    return found


def test_one_target_s_end_is_told_and_the_other_goes_on(targets):
    first, second = targets
    with sampler(find_stacks(first.pid), find_stacks(second.pid)) as running:
        stream = running.batches()
        seen = [first_with(stream, first.pid)]
        first.kill()
        while wire.EXITED not in events(seen).get(first.pid, []):
            seen.append(next(stream))
        seen.append(first_with(stream, second.pid))
        second.kill()
        seen += list(stream)

        assert events(seen) == {target.pid: [wire.TAKEN_UP, wire.EXITED] for target in targets}
        assert running.wait() == 0


def test_a_target_can_be_added_later_and_the_rate_changed(targets):
    first, second = targets
    with sampler(find_stacks(first.pid), rate_hz=500) as running:
        stream = running.batches()
        fast = first_with(stream, first.pid).looks[first.pid]
        running.tell(find_stacks(second.pid))
        first_with(stream, second.pid)
        running.channel.sendall(b"10\n")

        counts = [fast.count]
        for batch in stream:
            counts.append(batch.looks[first.pid].count)
            if 0 < counts[-1] - counts[-2] < fast.count / 10:
                break
        assert len(counts) > 1


def test_a_thread_that_stands_still_is_one_run_a_batch(targets):
    pid = targets[0].pid
    with sampler(find_stacks(pid)) as running:
        stream = running.batches()
        first_with(stream, pid)
        own = [run for run in next(stream).runs if run[0] == pid]

        assert len(own) == 1
        _, tid, _, duration_ns, _ = own[0]
        assert tid == pid
        assert duration_ns > wire.BATCH_NS / 2


def test_it_ends_when_its_time_is_up(targets):
    with sampler(find_stacks(targets[0].pid), seconds=0.1) as running:
        assert any(batch.runs for batch in running.batches())
        assert running.wait() == 0


def test_it_ends_when_nobody_reads_any_more(targets):
    with sampler(find_stacks(targets[0].pid)) as running:
        next(running.batches())
        running.channel.close()
        assert running.wait() == 0


def test_it_sends_the_rest_when_told_to_end(targets):
    pid = targets[0].pid
    with sampler(find_stacks(pid)) as running:
        stream = running.batches()
        next(stream)
        # In the middle of a batch: at its end there may be no rest to send.
        select.select([running.channel], [], [], wire.BATCH_NS / 2e9)
        before_ns = time.monotonic_ns()
        running.channel.shutdown(socket.SHUT_WR)
        last = list(stream)[-1]

        assert last.looks[pid].last_ns >= before_ns
        assert running.wait() == 0


def test_a_target_that_is_gone_already_is_told(targets):
    layout = find_stacks(targets[0].pid)
    targets[0].kill()
    targets[0].wait()
    with sampler(layout, find_stacks(targets[1].pid)) as running:
        assert events([next(running.batches())])[targets[0].pid] == [wire.EXITED]


def test_a_layout_of_an_earlier_life_of_the_pid_is_refused(targets):
    layout = find_stacks(targets[0].pid)
    with sampler(layout._replace(start_ticks=layout.start_ticks - 1)) as running:
        (only,) = running.batches()

        assert events([only]) == {targets[0].pid: [wire.EXITED]}
        assert not only.runs


def test_what_nobody_reads_becomes_a_gap_not_memory(targets):
    pid = targets[0].pid
    with sampler(*[find_stacks(pid)] * 8, rate_hz=1000, reader_bytes=2048) as running:
        running.until_it_has_used(40)  # enough to fill the socket several times over
        stream = running.batches()
        seen: list[StackBatch] = []
        while not any(gap for batch in seen for gap in batch.gaps):
            seen.append(next(stream))

        (gap,) = [gap for batch in seen for gap in batch.gaps][:1]
        assert gap[0] == pid
        assert gap[1] < gap[2]
        assert "nobody read" in gap[3]


def test_it_dies_with_its_parent(targets):
    """The parent dies by SIGKILL while we keep the stream open."""
    with sampler(find_stacks(targets[0].pid), parent=PARENT) as running:
        next(running.batches())
        running.process.kill()
        running.wait()
        for _ in running.batches():  # its end closes the stream; until then the timeout guards us
            pass
