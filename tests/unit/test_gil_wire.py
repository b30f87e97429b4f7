"""The sampler's stream: what is written is what is read, whatever the chunks; loss is counted."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.gil import wire
from probes.gil.columns import gil_columns
from probes.gil.coverage import Coverage
from probes.gil.decode import Batch, Decoder, Event, StreamBroken
from probes.sampling import Output

MS = 1_000_000


def encode(
    samples: list[tuple[int, ...]],
    waiters: Sequence[int] = (),
    events: Sequence[tuple[int, ...]] = (),
) -> bytes:
    header = wire.HEADER.pack(wire.MAGIC, len(samples), len(waiters), len(events), 5, 6, 7, 8)
    body = b"".join(wire.SAMPLE.pack(*sample, 0) for sample in samples)
    body += b"".join(map(wire.WAITER.pack, waiters))
    return header + body + b"".join(wire.EVENT.pack(*event) for event in events)


ONE = encode([(1, 2, 3, 4, 5, 2), (6, 7, 3, -1, 0, -1)], [11, 12], [(9, 3, wire.EXITED, 0)])


@given(cuts=st.lists(st.integers(0, 3 * len(ONE)), max_size=8))
def test_batches_do_not_depend_on_the_chunks(cuts: list[int]) -> None:
    stream = ONE * 3
    edges = [0, *sorted(cuts), len(stream)]
    decoder = Decoder()
    batches = [
        batch
        for begin, end in itertools.pairwise(edges)
        for batch in decoder.feed(stream[begin:end])
    ]
    assert len(batches) == 3
    for batch in batches:
        assert batch.samples["time_ns"].tolist() == [1, 6]
        assert batch.samples["holder_tid"].tolist() == [4, -1]
        assert batch.waiter_tids.tolist() == [11, 12]
        assert batch.events == (Event(9, 3, wire.EXITED, 0),)
        assert (batch.dropped_count, batch.missed_count) == (5, 6)
        assert (batch.largest_gap_ns, batch.cpu_ns) == (7, 8)


def test_noise_is_refused() -> None:
    with pytest.raises(StreamBroken):
        Decoder().feed(b"\0" * wire.HEADER.size)


def test_a_full_socket_drops_whole_batches_and_counts_their_samples() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        output = Output(theirs.fileno())
        batch = encode([(1, 2, 3, 4, 0, -1)] * 100)
        accepted = sum(output.write(batch, 100) for _ in range(1000))
        assert 0 < accepted < 1000
        assert output.dropped_count == (1000 - accepted) * 100
        # Once it is read again, the stream goes on where it was cut, batch by batch.
        ours.setblocking(False)
        decoder = Decoder()
        count = 0
        while count < accepted:
            output.write(batch, 0)
            count += len(decoder.feed(os.read(ours.fileno(), 1 << 20)))


def batch_of(samples: list[tuple[int, ...]], waiters: list[int]) -> Batch:
    return Decoder().feed(encode(samples, waiters))[0]


def test_columns_tell_free_unknown_and_not_looked_apart() -> None:
    batch = batch_of(
        [
            (10, 1, 100, 101, 2, 2),  # held, two wait
            (20, 2, 100, 0, 0, -1),  # free
            (30, 3, 100, -1, -1, -1),  # held by somebody
            (40, 4, 200, 201, 1, 0),  # looked, nobody was asleep
        ],
        [102, 103],
    )
    columns = gil_columns(batch, lambda pid: pid * 10, lambda _pid, tid: tid)
    assert columns["track"].tolist() == [1000, 1000, 1000, 2000]
    assert columns["holder"].to_pylist() == [101, None, 1000, 201]
    assert columns["waiter_count"].to_pylist() == [2, 0, None, 1]
    assert columns["waiters"].to_pylist() == [[102, 103], None, None, []]


def test_tracks_are_asked_once_for_each_thread() -> None:
    asked = []

    def thread_track(pid: int, tid: int) -> int:
        asked.append((pid, tid))
        return len(asked)

    batch = batch_of([(t, 1, 100, 101, 1, 1) for t in range(50)], [102] * 50)
    gil_columns(batch, lambda pid: pid, thread_track)
    assert sorted(asked) == [(100, 101), (100, 102)]


def test_gaps_span_batches_and_rate_counts_all_samples() -> None:
    coverage = Coverage(period_ns=MS)
    assert coverage.add(np.arange(0, 10) * MS) == []
    assert coverage.add(np.array([9 + 21, 9 + 22]) * MS) == [(9 * MS, 30 * MS)]
    assert coverage.sample_count == 12
    assert coverage.largest_gap_ns == 21 * MS
    assert coverage.achieved_hz == pytest.approx(11 / 0.031)


def test_at_a_low_rate_ten_periods_make_a_gap() -> None:
    coverage = Coverage(period_ns=100 * MS)
    assert coverage.add(np.array([0, 900]) * MS) == []
    assert coverage.add(np.array([2000]) * MS) == [(900 * MS, 2000 * MS)]


def test_one_sample_has_no_rate() -> None:
    coverage = Coverage(period_ns=MS)
    coverage.add(np.array([5 * MS]))
    assert coverage.achieved_hz is None
