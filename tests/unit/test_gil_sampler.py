"""The sampler child as a process: when it ends, and what it says when a target does."""

from __future__ import annotations

import select
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from sampler_child import PARENT, Sampler, running_sampler

from probes.gil import wire
from probes.gil.decode import Batch, Decoder
from probes.gil.layout import GilLayout
from probes.gil.runtime import find_gil


def sampler(
    *layouts: GilLayout, rate_hz: float = 1000, seconds: float = 60, **how: Any
) -> AbstractContextManager[Sampler[Batch]]:
    """Start it; ``how`` as in `running_sampler`."""
    arguments = (rate_hz, 200, seconds, "normal")
    return running_sampler("probes.gil.sampler", arguments, layouts, Decoder().feed, **how)


def first_with(stream: Iterator[Batch], pid: int) -> Batch:
    return next(batch for batch in stream if (batch.samples["pid"] == pid).any())


def codes(batches: list[Batch]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for batch in batches:
        for event in batch.events:
            found.setdefault(event.pid, []).append(event.code)
    return found


def test_one_target_s_end_is_told_and_the_other_goes_on(
    targets: list[subprocess.Popen[bytes]],
) -> None:
    first, second = targets
    with sampler(find_gil(first.pid), find_gil(second.pid)) as running:
        stream = running.batches()
        seen = [first_with(stream, first.pid)]
        first.kill()
        while wire.EXITED not in codes(seen).get(first.pid, []):
            seen.append(next(stream))
        seen.append(first_with(stream, second.pid))
        second.kill()
        seen += list(stream)
        assert codes(seen) == {target.pid: [wire.TAKEN_UP, wire.EXITED] for target in targets}
        assert running.wait() == 0


def test_a_target_can_be_added_later(targets: list[subprocess.Popen[bytes]]) -> None:
    first, second = targets
    with sampler(find_gil(first.pid)) as running:
        stream = running.batches()
        first_with(stream, first.pid)
        running.tell(find_gil(second.pid))
        batch = first_with(stream, second.pid)
        assert set(batch.samples["pid"].tolist()) == {first.pid, second.pid}


def test_its_rate_can_be_changed_while_it_runs(targets: list[subprocess.Popen[bytes]]) -> None:
    # Given a sampler at its first rate
    with sampler(find_gil(targets[0].pid), rate_hz=1000) as running:
        stream = running.batches()
        fast = first_with(stream, targets[0].pid)

        # When it is told another
        running.channel.sendall(b"20\n")

        # Then a batch that spans as much time soon holds a tenth as many samples
        assert any(0 < 10 * len(batch.samples) < len(fast.samples) for batch in stream)


def test_it_names_the_holder(targets: list[subprocess.Popen[bytes]]) -> None:
    pid = targets[0].pid
    with sampler(find_gil(pid)) as running:
        samples = first_with(running.batches(), pid).samples
        # A single busy thread lets go only for the instant in which it is told to.
        assert (samples["holder_tid"] == pid).mean() > 0.9


def test_it_ends_when_its_time_is_up(targets: list[subprocess.Popen[bytes]]) -> None:
    with sampler(find_gil(targets[0].pid), seconds=0.1) as running:
        assert sum(len(batch.samples) for batch in running.batches()) > 0
        assert running.wait() == 0


def test_it_ends_when_nobody_reads_any_more(targets: list[subprocess.Popen[bytes]]) -> None:
    with sampler(find_gil(targets[0].pid)) as running:
        next(running.batches())
        running.channel.close()
        assert running.wait() == 0


def test_it_sends_the_rest_when_told_to_end(targets: list[subprocess.Popen[bytes]]) -> None:
    with sampler(find_gil(targets[0].pid)) as running:
        stream = running.batches()
        next(stream)
        # In the middle of a batch: at its end there may be no rest to send.
        select.select([running.channel], [], [], wire.BATCH_NS / 2e9)
        before_ns = time.monotonic_ns()
        running.channel.shutdown(socket.SHUT_WR)
        last = list(stream)[-1]
        assert last.samples["time_ns"][-1] >= before_ns
        assert running.wait() == 0


def test_a_target_that_is_gone_already_is_told(targets: list[subprocess.Popen[bytes]]) -> None:
    layout = find_gil(targets[0].pid)
    targets[0].kill()
    targets[0].wait()
    with sampler(layout, find_gil(targets[1].pid)) as running:
        assert codes([next(running.batches())])[targets[0].pid] == [wire.EXITED]


def test_a_reader_that_is_frozen_costs_samples_not_memory(
    targets: list[subprocess.Popen[bytes]],
) -> None:
    """It drops, counts, and the stream is whole when it is read again."""
    pid = targets[0].pid
    with sampler(find_gil(pid), rate_hz=10_000, reader_bytes=4096) as running:
        running.until_it_has_used(20)  # enough to fill the socket several times over
        assert _resident_kib(running.process.pid) < 64 * 1024
        dropped = 0
        for batch in running.batches():
            dropped = batch.dropped_count
            if dropped:
                break
        assert dropped > 0


def test_it_dies_with_its_parent(targets: list[subprocess.Popen[bytes]]) -> None:
    """The parent dies by SIGKILL while we keep the stream open."""
    with sampler(find_gil(targets[0].pid), parent=PARENT) as running:
        next(running.batches())
        running.process.kill()
        running.wait()
        for _ in running.batches():  # its end closes the stream; until then the timeout guards us
            pass


def _resident_kib(pid: int) -> int:
    rows = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith("VmRSS"))
