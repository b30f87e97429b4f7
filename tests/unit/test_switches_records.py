"""What the rings hold is split into records, whatever looks like one in between."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from switch_rings import (
    comm,
    drained,
    fork,
    kernel_sample,
    lost,
    record,
    register_sample,
    split,
    switch,
    waking,
)

from probes.switches.records import (
    Fork,
    Loss,
    Naming,
    find_records,
    read_forks,
    read_losses,
    read_namings,
)

A, B = (10, 11), (20, 22)


def test_records_of_all_sizes_are_found_in_every_ring():
    _, records = split(
        switch(100, A, B) + waking(200, 11), b"", register_sample(5, A, -38, 4096) + lost(9, 3)
    )

    assert records.kind.tolist() == [15, 15, 9, 9, 2]
    assert records.ring.tolist() == [0, 0, 0, 2, 2]
    assert records.position.tolist() == [0, 4, 8, 16, 22]


def test_empty_rings_hold_no_record():
    _, records = split(b"", b"")

    assert len(records.kind) == 0


def test_a_time_that_looks_like_a_header_is_none():
    # Given a switch at the one nanosecond whose 8 bytes read as a record of 32
    looks_like_a_header = struct.unpack("<Q", struct.pack("<IHH", 15, 0, 32))[0]
    ring = switch(looks_like_a_header, A, B) + waking(200, 11)

    _, records = split(ring)

    assert records.position.tolist() == [0, 4, 8]


def test_a_waker_with_a_small_id_and_a_short_name_is_no_header():
    _, records = split(waking(200, 11, waker=(15, 15), name=b"xx ") + switch(300, A, B))

    assert records.kind.tolist() == [9, 15, 15]


def test_a_record_of_a_kind_or_size_nobody_knows_is_stepped_over():
    unknown = record(31, 7, b"\0" * 1016)

    words, records = split(unknown + switch(100, A, B))

    assert records.kind.tolist() == [31, 15, 15]
    assert read_forks(words, records) == []


def test_what_is_no_record_is_refused():
    with pytest.raises(ValueError, match="no record at word 4"):
        find_records(drained(switch(100, A, B)[:32] + b"\0" * 8))


def test_forks_come_in_the_order_of_their_times():
    words, records = split(fork(50, 3, 2, 3), fork(40, 2, 1, 2))

    assert read_forks(words, records) == [Fork(40, 2, 1, 2), Fork(50, 3, 2, 3)]


def test_names_of_any_length_are_read():
    words, records = split(
        comm(5, 6, b"a") + comm(5, 6, b"fifteen letters", is_exec=True) + comm(5, 5, b"eight888")
    )

    assert read_namings(words, records) == [
        Naming(5, 6, "a", is_exec=False),
        Naming(5, 6, "fifteen letters", is_exec=True),
        Naming(5, 5, "eight888", is_exec=False),
    ]


def test_losses_say_where_and_how_many():
    words, records = split(switch(100, A, B), switch(100, A, B) + lost(700, 42))

    assert read_losses(words, records) == [Loss(ring=1, record=4, count=42, time_ns=700)]


def test_the_fast_and_the_slow_way_find_the_same():
    # Given the same records, once behind one that only the slow way takes
    ring = b"".join(
        switch(1000 * (n + 1), A, B, runnable=bool(n % 2), registers=(-38, n)) + kernel_sample(n, B)
        for n in range(200)
    )
    unusual = record(12, 0, b"\0" * 8 * 99)

    _, fast = split(ring)
    _, slow = split(unusual + ring)

    assert np.array_equal(fast.position, slow.position[1:] - 100)
    assert np.array_equal(fast.misc, slow.misc[1:])
