"""Where a thread had no CPU: waits are laid into the pauses that they fill, and never made up."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from captures import MS, CaptureBuilder
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from analyzers.gpu.run_queue import Placed, Waiting, find_waiting
from analyzers.intervals import (
    Intervals,
    covered_before,
    difference,
    empty,
    intersection,
    intervals,
)
from analyzers.timeline import Timeline

Pause = tuple[float, float]


def found(
    rows: list[tuple[float, float, int]], pauses: list[Pause], *, waits: list[Pause] | None = None
) -> Waiting | None:
    """Rows are instant, cumulative wait (both ms) and timeslices; calls fill what is no pause."""
    made = CaptureBuilder(seconds=1, start_ns=0)
    thread = made.thread(made.process("worker"), tid=1)
    for ms, wait, slices in rows:
        made.look(thread, ms, run=0, wait=wait, timeslice_count=slices)
    walls = np.unique(ns(*[edge for pause in pauses for edge in pause]))
    calls = [
        (end, start) for (_, end), (start, _) in pairwise([(0, 0), *pauses, (1000, 1000)])
    ]  # fmt: skip
    return find_waiting(Timeline(made.build()), thread, walls, span(waits or []), span(calls))


def ns(*ms: float) -> NDArray[np.int64]:
    return np.rint(np.array(ms) * MS).astype(np.int64)


def span(parts: list[Pause]) -> Intervals:
    if not parts:
        return empty()
    start, end = zip(*parts, strict=True)
    return intervals(ns(*start), ns(*end))


def waited(placed: Placed, start: float, end: float, *, room: Intervals | None = None) -> float:
    """Return the wait placed between two instants, in ms; of shares of the room in a stretch."""
    window = intervals(ns(start), ns(end))
    inside = window if room is None else intersection(window, room)
    lengths = covered_before(inside, placed.end) - covered_before(inside, placed.start)
    return float((lengths * placed.ratio).sum()) / MS


def test_a_wait_goes_to_the_pause_that_it_fills() -> None:
    waiting = found([(0, 0, 0), (50, 15, 1)], [(2, 22), (25, 40.2)])

    assert waiting is not None
    assert waited(waiting.at_work, 25, 41) == pytest.approx(14.9)  # 0.1 ms is ordinary
    assert waited(waiting.at_work, 0, 25) == 0


def test_two_waits_go_to_the_two_pauses_that_they_fill() -> None:
    waiting = found([(0, 0, 0), (50, 18, 2)], [(0, 27), (28, 38.1), (40, 48.1)])

    assert waiting is not None
    assert waited(waiting.at_work, 0, 27) == 0
    assert waited(waiting.at_work, 28, 49) == pytest.approx(17.8)


def test_a_wait_counts_when_it_is_over_and_may_have_begun_an_interval_earlier() -> None:
    waiting = found([(0, 0, 0), (50, 0, 0), (100, 40, 1)], [(30, 71)])

    assert waiting is not None
    assert waited(waiting.at_work, 30, 50) == pytest.approx(39.9 * 20 / 41)
    assert waited(waiting.at_work, 30, 71) == pytest.approx(39.9)


def test_a_thread_that_makes_call_after_call_was_not_waiting_there() -> None:
    busy = [(at / 100, at / 100 + 0.008) for at in range(100, 3000)]

    waiting = found([(0, 0, 0), (50, 10, 3)], [*busy, (35, 46)])

    assert waiting is not None
    assert waited(waiting.at_work, 0, 34) == 0
    assert waited(waiting.at_work, 35, 46) == pytest.approx(9.7)


def test_seeming_waits_take_only_what_fits_nowhere_else() -> None:
    pauses: list[Pause] = [(0, 10), (20, 45)]
    fits = found([(0, 0, 0), (50, 9, 1)], pauses, waits=[(20, 45)])
    does_not = found([(0, 0, 0), (50, 19, 1)], pauses, waits=[(20, 45)])

    assert fits is not None
    assert waited(fits.in_waits, 0, 50) == 0
    assert does_not is not None
    assert waited(does_not.at_work, 0, 10) == pytest.approx(10)
    assert waited(does_not.in_waits, 20, 45) == pytest.approx(8.9)


def test_what_every_wake_up_costs_is_no_cause() -> None:
    rows = [(50.0 * number, 0.3 * number, 6 * number) for number in range(10)]

    waiting = found(rows, [(3, 400)])

    assert waiting is not None
    assert waited(waiting.at_work, 0, 450) == 0


def test_many_short_waits_are_spread_over_the_work() -> None:
    # 500 wake-ups of 50 us each in every 50 ms: the thread is without a CPU half of the time.
    rows = [(50.0 * number, 25.0 * number, 500 * number) for number in range(5)]

    waiting = found(rows, [(0, 1000)])

    assert waiting is not None
    assert waited(waiting.at_work, 60, 80) == pytest.approx(10)


def test_counters_that_were_not_read_place_nothing() -> None:
    assert found([], [(0, 10)]) is None
    assert found([(0, 0, 0), (50, 0, 3)], [(0, 10)]) is None


@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(0, 20), st.integers(1, 40)), max_size=8),
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 60)), max_size=3),
)
def test_no_more_is_placed_than_the_counters_say(
    waits: list[int], steps: list[tuple[int, int]], seeming: list[tuple[int, int]]
) -> None:
    pauses: list[Pause] = []
    at = 0
    for call, pause in steps:
        pauses.append((at + call, at + call + pause))
        at += call + pause
    rows = [(50.0 * n, float(sum(waits[:n])), n) for n in range(len(waits) + 1)]

    waits_seen: list[Pause] = [(one, one + length) for one, length in seeming]
    waiting = found(rows, pauses, waits=waits_seen)

    if waiting is None:
        assert not any(waits)
        return
    work = difference(span(pauses), span(waits_seen))
    waits_in_pauses = intersection(span(pauses), span(waits_seen))
    placed = waited(waiting.at_work, 0, 1000, room=work)
    placed += waited(waiting.in_waits, 0, 1000, room=waits_in_pauses)
    assert placed <= sum(waits) + 1e-6
    for one in (waiting.at_work, waiting.in_waits):
        assert (one.start[1:] >= one.end[:-1]).all()
        assert ((one.ratio >= 0) & (one.ratio <= 1)).all()
    low, high = waiting.bounds(ns(0.0), ns(1000.0))
    assert 0 <= low <= high
    edges = waiting.counters.edges
    assert high <= covered_before(intervals(edges[:1], edges[-1:]), ns(1000.0))[0]
