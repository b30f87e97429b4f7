"""Who held the GIL, who wanted it, and how sure that is."""

from __future__ import annotations

import numpy as np
import pytest
from captures import DETOKENIZE, LOOP_IDLE, TOKENIZE, CaptureBuilder
from hypothesis import given
from hypothesis import strategies as st

from analyzers.analysis import analyze
from analyzers.gil import measure_gil
from analyzers.statistics import look_weights, ratio_interval, wilson
from analyzers.timeline import Timeline


def server() -> tuple[CaptureBuilder, int, int, int]:
    made = CaptureBuilder()
    process = made.process("api_server")
    return made, process, made.thread(process, tid=1, name="loop"), made.thread(process, tid=2)


def test_held_is_the_share_of_looks() -> None:
    made, process, loop, pool = server()
    for ms in range(1001):
        holder = (loop, loop, pool, None)[ms % 4]
        made.gil(process, ms, holder=holder)
    found = measure_gil(Timeline(made.build()))[0]
    held = {one.thread.track: one.held for one in found.threads}
    assert held[loop].value == pytest.approx(0.5, abs=0.001)
    assert held[pool].value == pytest.approx(0.25, abs=0.001)
    assert held[pool].low < 0.25 < held[pool].high
    assert found.held.value == pytest.approx(0.75, abs=0.001)


def test_a_look_stands_for_the_time_around_it_and_a_gap_for_nobody() -> None:
    made, process, loop, _ = server()
    for ms in range(100):
        made.gil(process, ms, holder=loop)
    for ms in range(1100, 1200):  # a second unseen: neither held nor free
        made.gil(process, ms)
    for ms in range(1200, 1401, 2):  # half the rate: each look counts twice
        made.gil(process, ms)
    found = measure_gil(Timeline(made.build()))[0]
    assert found.gaps == [(made.at(99), made.at(1100))]
    assert found.seen_ns == pytest.approx(400e6, rel=0.01)
    assert found.held.value == pytest.approx(0.25, abs=0.01)


def test_waiters_are_named_by_some_looks_and_counted_by_all() -> None:
    made, process, loop, pool = server()
    third = made.thread(process, tid=3)
    for ms in range(1000):
        is_waited_for = ms % 5 < 2
        # Looks that name the waiters happen only while there are some.
        waiters = ((pool, pool, third)[ms // 5 % 3],) if ms % 5 == 0 else None
        made.gil(process, ms, holder=loop, waiter_count=int(is_waited_for), waiters=waiters)
    found = measure_gil(Timeline(made.build()))[0]
    wanted = {one.thread.track: one.wanted_ratio for one in found.threads}
    assert found.mean_waiter_count == pytest.approx(0.4, abs=0.005)
    assert found.contended is not None
    assert found.contended.value == pytest.approx(0.4, abs=0.005)
    assert wanted[loop] == 0
    assert wanted[pool] == pytest.approx(0.4 * 2 / 3, abs=0.005)
    assert wanted[third] == pytest.approx(0.4 / 3, abs=0.005)


def test_waiters_of_an_unknown_build_are_unknown_not_zero() -> None:
    made, process, loop, _ = server()
    for ms in range(100):
        made.gil(process, ms, holder=loop, waiter_count=None)
    analysis = analyze(made.build())
    assert analysis.sections["gil"][0]["wanted_ratio"] is None
    assert analysis.sections["gil_processes"][0]["contended_ratio"] is None
    assert any(one.slug == "gil-contention" and one.abstained for one in analysis.findings)


def test_the_holder_s_stage_comes_from_its_stack_at_that_time() -> None:
    made, process, loop, pool = server()
    made.run(loop, 0, 60, DETOKENIZE)
    made.run(loop, 60, 80, TOKENIZE)
    made.run(loop, 80, 100, LOOP_IDLE)
    for ms in range(101):
        made.gil(process, ms, holder=loop, waiter_count=1, waiters=[pool])
    analysis = analyze(made.build())
    stages = {
        row["stage"]: row["share_ratio"] for row in analysis.sections["gil"][0]["holding_stages"]
    }
    assert stages["detokenize"] == pytest.approx(0.6, abs=0.02)
    assert stages["tokenize"] == pytest.approx(0.2, abs=0.02)
    assert stages["unattributed"] == pytest.approx(0.2, abs=0.02)  # a waiting stack holds nothing
    finding = next(one for one in analysis.findings if one.slug == "gil-contention")
    assert "detokenize" in finding.statement
    assert finding.cost_seconds == pytest.approx(0.1)


def test_no_finding_where_nobody_waited() -> None:
    made, process, loop, _ = server()
    for ms in range(100):
        made.gil(process, ms, holder=loop)
    analysis = analyze(made.build())
    assert not [one for one in analysis.findings if one.slug == "gil-contention"]
    assert analysis.sections["gil"][0]["wanted_ratio"] == 0


def test_looks_that_resemble_their_neighbours_make_a_wider_interval() -> None:
    times = np.arange(10_000, dtype=np.int64) * 1_000_000
    ones = np.ones(10_000)
    mixed = (np.arange(10_000) % 2).astype(np.float64)
    in_blocks = (np.arange(10_000) // 1000 % 2).astype(np.float64)
    _, low_mixed, high_mixed = ratio_interval(times, ones, mixed)
    _, low_blocks, high_blocks = ratio_interval(times, ones, in_blocks)
    assert high_mixed - low_mixed < 0.05 < high_blocks - low_blocks


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(7)
    times = np.arange(5_000, dtype=np.int64) * 1_000_000
    hits = 0
    for _ in range(200):
        # A thread that holds for about 20 ms and lets go for about 60.
        lengths = np.ravel(random.exponential((20.0, 60.0), size=(400, 2)))
        ends = np.cumsum(lengths)
        held = np.searchsorted(ends, times / 1e6) % 2 == 0
        _, low, high = ratio_interval(times, np.ones(len(times)), held.astype(np.float64))
        hits += low <= 0.25 <= high
    assert 0.85 <= hits / 200 <= 1.0


@given(st.floats(0, 1), st.floats(0, 1e6))
def test_an_interval_holds_its_ratio(ratio: float, count: float) -> None:
    low, high = wilson(ratio, count)
    assert 0 <= low <= ratio <= high <= 1


@given(st.lists(st.integers(1, 10_000_000_000), min_size=1, max_size=50))
def test_weights_and_gaps_share_out_the_time(steps: list[int]) -> None:
    times = np.cumsum([0, *steps]).astype(np.int64)
    weights, gaps = look_weights(times)
    unseen = sum(end - start for start, end in gaps)
    assert weights.sum() + unseen == pytest.approx(times[-1] - times[0])
