"""Switches pair into stays on a CPU: across drains, moves between CPUs, ends of threads, losses."""

from __future__ import annotations

from typing import Any

from switch_rings import (
    ENDED,
    MISC_OUT,
    MISC_PREEMPT,
    TASKS,
    WIDE,
    fork,
    lost,
    split,
    switch,
    switch_in,
    switch_out,
    task_switch,
)

from probes.switches.layout import Layout
from probes.switches.records import read_losses
from probes.switches.stays import Pairing
from probes.switches.switching import SwitchReader

A, B, C, IDLE = (10, 11), (10, 12), (30, 33), (0, 0)
START_NS = 500
BETWEEN_NS = 900  # from a thread's leaving to the next one's coming, in `switch`


class Cpus:
    """A reader and a pairing, fed ring by ring."""

    def __init__(self, layout: Layout = WIDE, count: int = 2) -> None:
        self._reader = SwitchReader(layout)
        self.pairing = Pairing(count, START_NS)

    def take(self, *rings: bytes) -> list[tuple[Any, ...]]:
        """Return (ring, tid, start, end, next tid, runnable) of each stay of these rings."""
        words, records = split(*rings)
        switches = self._reader.read(words, records)
        stays = self.pairing.pair(switches, read_losses(words, records))
        columns = (
            stays.ring, stays.tid, stays.start_ns, stays.end_ns, stays.next_tid, stays.is_runnable,
        )  # fmt: skip
        return list(zip(*(column.tolist() for column in columns), strict=True))


def test_a_stay_goes_from_the_switch_before_to_its_own():
    stays = Cpus().take(switch(1000, A, B, runnable=True) + switch(3000, B, IDLE), b"")

    assert stays == [(0, 11, START_NS, 1000, 12, True), (0, 12, 1000, 3000, 0, False)]


def test_a_stay_that_ended_while_events_were_being_enabled_is_left_out():
    assert Cpus().take(switch(START_NS - 1, A, B) + switch(3000, B, A), b"") == [
        (0, 12, START_NS - 1, 3000, 11, False)
    ]


def test_a_thread_that_moves_is_paired_on_each_cpu():
    cpus = Cpus()

    stays = cpus.take(
        switch(1000, IDLE, A) + switch(2000, A, IDLE), switch(2100, IDLE, A) + switch(4000, A, B)
    )

    assert [stay for stay in stays if stay[1] == 11] == [
        (0, 11, 1000, 2000, 0, False),
        (1, 11, 2100, 4000, 12, False),
    ]


def test_pairs_are_found_across_drains():
    cpus = Cpus()

    first = cpus.take(switch(1000, IDLE, A), b"")
    between = cpus.take(b"", b"")
    # Out and in of one switch may come apart too
    second = cpus.take(switch_out(5000, A, B), b"")
    third = cpus.take(switch_in(5000 + BETWEEN_NS, A, B) + switch(8000, B, A), b"")

    assert [*first, *between] == [(0, 0, START_NS, 1000, 11, False)]
    assert second == [(0, 11, 1000, 5000, 12, False)]
    assert third == [(0, 12, 5000 + BETWEEN_NS, 8000, 11, False)]


def test_a_cpu_whose_idle_switches_are_missing_still_shows_everyone_else():
    # Given a CPU that records nothing while idle
    ring = switch_out(1000, A, IDLE) + switch_in(5000, IDLE, B) + switch(7000, B, A)

    stays = Cpus().take(ring, b"")

    assert stays[1:] == [(0, 12, 5000, 7000, 11, False)]


def test_a_thread_that_ends_has_no_id_any_more_and_is_known_from_its_coming():
    gone = (ENDED, ENDED)

    stays = Cpus().take(switch(1000, IDLE, A) + switch(2000, gone, B), b"")

    assert stays[1] == (0, 11, 1000, 2000, 12, False)


def test_a_loss_cuts_the_stay_that_it_falls_into():
    cpus = Cpus()

    stays = cpus.take(
        switch(1000, IDLE, A) + lost(5000, 7) + switch(6000, A, B) + switch(8000, B, A), b""
    )

    assert [stay[1:4] for stay in stays] == [(0, START_NS, 1000), (12, 6000, 8000)]


def test_a_loss_at_the_end_of_a_drain_cuts_the_next_ones_first():
    cpus = Cpus()
    cpus.take(switch(1000, IDLE, A) + lost(5000, 7), switch(1000, IDLE, B))

    stays = cpus.take(switch(6000, A, IDLE), switch(6000, B, IDLE))

    assert stays == [(1, 12, 1000, 6000, 0, False)]


def test_a_loss_in_a_ring_without_switches_cuts_as_well():
    cpus = Cpus()
    cpus.take(switch(1000, IDLE, A), b"")
    cpus.take(lost(5000, 7), b"")

    assert cpus.take(switch(6000, A, IDLE), b"") == []


def test_what_still_runs_at_the_end_is_reported_as_open():
    cpus = Cpus()
    cpus.take(switch(1000, IDLE, A), b"")

    stays = cpus.pairing.end(9000)

    # the other CPU's occupant has never been named
    assert stays.tid.tolist() == [11]
    assert (stays.start_ns.tolist(), stays.end_ns.tolist()) == ([1000], [9000])
    assert stays.is_open.all()


def test_tasks_watched_one_by_one_pair_per_cpu_too():
    ring = (
        task_switch(1000, A, 0) + task_switch(2000, A, MISC_OUT)
        + task_switch(2500, B, 0) + task_switch(3000, B, MISC_OUT | MISC_PREEMPT)
    )  # fmt: skip

    stays = Cpus(TASKS).take(ring, b"")

    assert stays == [(0, 11, 1000, 2000, -1, False), (0, 12, 2500, 3000, -1, True)]


def test_a_task_that_is_recorded_twice_counts_once():
    ring = task_switch(1000, A, 0) * 2 + task_switch(2000, A, MISC_OUT) * 2

    assert Cpus(TASKS).take(ring, b"") == [(0, 11, 1000, 2000, -1, False)]


def test_a_task_that_exits_ends_its_last_stay():
    ring = task_switch(1000, A, 0) + fork(1700, 10, 10, 11, is_exit=True) + task_switch(2500, B, 0)

    assert Cpus(TASKS).take(ring, b"") == [(0, 11, 1000, 1700, -1, False)]


def test_strangers_pair_with_nothing():
    # Given a CPU whose records name one that came and another that left
    ring = switch_in(1000, IDLE, A) + switch_out(2000, C, IDLE)

    assert Cpus().take(ring, b"") == []
