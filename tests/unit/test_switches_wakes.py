"""Each stay finds the wake-up that led to it, from whichever CPU and drain."""

from __future__ import annotations

import numpy as np
from switch_rings import WIDE, split, switch, waking

from collectors.cpu_slices import NONE
from probes.switches.layout import Layout
from probes.switches.switching import SwitchReader, Wakings
from probes.switches.wakes import EARLY_NS, Wakes


def wakings(*rows: tuple[int, int]) -> Wakings:
    """Return wake-ups from (tid, time)."""
    return Wakings(*np.array(rows, np.int64).reshape(-1, 2).T)


def match(wakes: Wakes, *stays: tuple[int, int, int, bool]) -> list[int]:
    """Return the wake-ups of stays given as (tid, start, end, runnable at the end)."""
    tid, start_ns, end_ns, is_runnable = zip(*stays, strict=True)
    columns = (np.array(column, np.int64) for column in (tid, start_ns, end_ns))
    return wakes.match(*columns, np.array(is_runnable)).tolist()


def test_a_thread_that_slept_was_woken_when_its_wake_up_says():
    wakes = Wakes()
    wakes.add(wakings((5, 2500), (6, 2600), (5, 9000)))

    assert match(wakes, (5, 1000, 2000, False), (5, 3000, 4000, False)) == [NONE, 2500]


def test_a_thread_that_was_preempted_or_yielded_was_not_woken():
    wakes = Wakes()
    wakes.add(wakings((5, 2500)))

    assert match(wakes, (5, 1000, 2000, True), (5, 3000, 4000, False)) == [NONE, NONE]


def test_stays_are_matched_whatever_cpu_they_come_from():
    # Given a thread that went to and fro between two CPUs, whose rings come one after the other
    wakes = Wakes()
    wakes.add(wakings((5, 4900), (5, 2900)))

    woken_ns = match(wakes, (5, 1000, 2000, False), (5, 5000, 6000, False), (5, 3000, 4000, False))

    assert woken_ns == [NONE, 4900, 2900]


def test_a_wake_up_waits_for_a_stay_that_ends_in_a_later_drain():
    wakes = Wakes()
    wakes.add(wakings((5, 2500), (5, 5500)))
    match(wakes, (5, 1000, 2000, False))
    wakes.add(wakings((9, 9999)))

    assert match(wakes, (5, 3000, 5000, False), (5, 6000, 7000, False)) == [2500, 5500]


def test_whether_a_thread_slept_is_remembered_across_drains():
    wakes = Wakes()
    match(wakes, (5, 1000, 2000, True), (6, 1000, 2000, False))
    wakes.add(wakings((5, 2500), (6, 2500)))

    assert match(wakes, (5, 3000, 4000, False), (6, 3000, 4000, False)) == [NONE, 2500]


def test_a_wake_up_between_sleeping_and_leaving_counts_from_the_leaving():
    wakes = Wakes()
    wakes.add(wakings((5, 2_000_000 - EARLY_NS // 2)))

    stays = (5, 1_000_000, 2_000_000, False), (5, 3_000_000, 4_000_000, False)

    assert match(wakes, *stays) == [NONE, 2_000_000]


def test_a_wake_up_long_before_the_leaving_is_none():
    wakes = Wakes()
    wakes.add(wakings((5, 1_500_000)))

    stays = (5, 1_000_000, 2_000_000, False), (5, 3_000_000, 4_000_000, False)

    assert match(wakes, *stays) == [NONE, NONE]


def test_a_wake_up_that_led_to_a_short_stay_is_not_used_again():
    wakes = Wakes()
    wakes.add(wakings((5, 2500), (5, 4500)))
    stays = (5, 1000, 2000, False), (5, 2600, 2700, False), (5, 5000, 5100, False)

    assert match(wakes, *stays) == [NONE, 2500, 4500]
    assert match(wakes, (5, 6000, 7000, False)) == [NONE]


def test_wake_ups_are_read_from_their_records():
    words, records = split(waking(70, 5) + switch(80, (1, 1), (2, 2)), waking(60, 4_000_000))

    found = SwitchReader(WIDE).read_wakings(words, records)

    assert found.tid.tolist() == [5, 4_000_000]
    assert found.time_ns.tolist() == [70, 60]


def test_a_source_without_wake_ups_reads_none():
    words, records = split(waking(70, 5))

    found = SwitchReader(Layout(is_cpu_wide=True, registers=None)).read_wakings(words, records)

    assert len(found.tid) == 0
