"""The join of stacks with the scheduler's counters."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from captures import DETOKENIZE, LOOP_IDLE, SPIN, TOKENIZE, UNKNOWN, CaptureBuilder
from hypothesis import given
from hypothesis import strategies as st

from analyzers.analysis import analyze
from analyzers.cpu_time import CpuTime, measure_cpu
from analyzers.looks import counters_by_thread
from analyzers.timeline import Timeline


def stages_of(cpu: CpuTime, thread: int = 0) -> dict[str, float]:
    return {stage: ns / 1e6 for stage, ns in cpu.threads[thread].stage_ns().items()}


def one_thread() -> tuple[CaptureBuilder, int]:
    made = CaptureBuilder()
    return made, made.thread(made.process("api_server"), tid=1)


def test_cpu_goes_to_the_stages_shown_between_two_looks() -> None:
    made, thread = one_thread()
    for ms, run in ((0, 500), (100, 580), (200, 600)):
        made.look(thread, ms, run=run)
    made.run(thread, 0, 75, TOKENIZE)
    made.run(thread, 75, 100, DETOKENIZE)
    made.run(thread, 100, 200, UNKNOWN)
    cpu = measure_cpu(Timeline(made.build()))
    assert stages_of(cpu) == pytest.approx({"tokenize": 60, "detokenize": 20, "unknown": 20})


def test_a_sleeping_thread_is_never_busy_whatever_its_stack() -> None:
    made, thread = one_thread()
    made.look(thread, 0, run=500)
    made.look(thread, 1000, run=500)
    made.run(thread, 0, 1000, TOKENIZE)
    analysis = analyze(made.build())
    assert analysis.sections["threads"][0]["cpu_seconds"] == 0
    assert analysis.sections["stages"] == []
    assert analysis.sections["coverage"][0]["classified_ratio"] is None


def test_a_missing_row_means_that_the_thread_did_not_run() -> None:
    made, thread = one_thread()
    other = made.thread(0, tid=2)
    for ms in range(0, 500, 50):
        made.look(other, ms, run=ms)
    made.look(thread, 0, run=0)
    made.look(thread, 450, run=40)  # all of it since the other thread's look at 400
    made.run(thread, 0, 400, TOKENIZE)
    made.run(thread, 400, 450, DETOKENIZE)
    cpu = measure_cpu(Timeline(made.build()))
    assert stages_of(cpu) == pytest.approx({"detokenize": 40})


def test_work_too_short_to_be_seen_takes_the_thread_s_own_mix_nearby() -> None:
    made, thread = one_thread()
    for ms, run in ((0, 0), (100, 50), (200, 60), (5000, 60), (5100, 70)):
        made.look(thread, ms, run=run)
    made.run(thread, 0, 100, TOKENIZE)
    made.run(thread, 100, 5050, LOOP_IDLE)
    made.run(thread, 5050, 5100, DETOKENIZE)
    cpu = measure_cpu(Timeline(made.build()))
    assert stages_of(cpu) == pytest.approx({"tokenize": 60, "detokenize": 10})


def test_cpu_of_which_no_stack_was_seen_has_no_stage() -> None:
    made, thread = one_thread()
    for ms, run in ((0, 0), (100, 50), (8000, 50), (8100, 90)):
        made.look(thread, ms, run=run)
    made.run(thread, 0, 100, TOKENIZE)
    cpu = measure_cpu(Timeline(made.build()))
    assert stages_of(cpu) == pytest.approx({"tokenize": 50, "unattributed": 40})


def test_threads_without_python_are_native_where_python_was_sampled() -> None:
    made, thread = one_thread()
    pool = made.thread(0, tid=2, name="tokenizers")
    for track in (thread, pool):
        made.look(track, 0, run=0)
        made.look(track, 100, run=50)
    made.run(thread, 0, 100, TOKENIZE)
    cpu = measure_cpu(Timeline(made.build()))
    assert stages_of(cpu, 1) == {"native": 50}


def test_without_any_stack_nothing_is_called_native() -> None:
    made, thread = one_thread()
    made.look(thread, 0, run=0)
    made.look(thread, 100, run=50)
    made.probe("pyspy", "unavailable", reason="no ptrace", remedy="sysctl")
    analysis = analyze(made.build())
    assert [row["stage"] for row in analysis.sections["stages"]] == ["unattributed"]
    abstained = {one.slug: one for one in analysis.findings if one.abstained}
    assert "no ptrace" in abstained["stages"].statement
    assert abstained["stages"].remedy == "sysctl"


def test_spinning_is_cpu_time_shown_apart() -> None:
    made, thread = one_thread()
    made.look(thread, 0, run=0)
    made.look(thread, 100, run=100)
    made.run(thread, 0, 80, SPIN)
    made.run(thread, 80, 100, TOKENIZE)
    analysis = analyze(made.build())
    rows = {row["stage"]: row for row in analysis.sections["stages"]}
    assert rows["spin_wait"]["is_wait"]
    assert not rows["tokenize"]["is_wait"]
    assert rows["spin_wait"]["share_ratio"] == pytest.approx(0.8)
    spin = next(one for one in analysis.findings if one.slug == "spin-wait")
    assert spin.quantity is not None
    assert spin.quantity.value == pytest.approx(0.08)
    top = next(one for one in analysis.findings if one.slug == "top-stage")
    assert "tokenize" in top.statement


def test_coverage_is_the_known_share_of_sampled_work() -> None:
    made, thread = one_thread()
    made.look(thread, 0, run=0)
    made.look(thread, 100, run=100)
    made.run(thread, 0, 60, TOKENIZE)
    made.run(thread, 60, 80, UNKNOWN)
    made.run(thread, 80, 100, SPIN)
    coverage = analyze(made.build()).sections["coverage"]
    assert coverage[0]["classified_ratio"] == pytest.approx(0.75)
    assert coverage[0]["cpu_classified_ratio"] == pytest.approx(0.8)
    assert coverage[0]["unknown"][0]["function"] == "Mystery.work"


def test_looks_closer_than_the_kernel_s_own_delay_are_not_differenced() -> None:
    made, thread = one_thread()
    for ms, run in ((0, 0), (50, 10), (55, 20), (100, 30), (110, 40)):
        made.look(thread, ms, run=run)
    counters = counters_by_thread(Timeline(made.build()))[thread]
    assert [(edge - made.start_ns) / 1e6 for edge in counters.edges] == [0, 50, 110]
    assert counters.run_ns.tolist() == [10_000_000, 30_000_000]


def test_a_thread_born_while_recording_began_at_zero() -> None:
    made, thread = one_thread()
    born = made.thread(0, tid=2)
    found_late = made.thread(0, tid=3)
    for ms in (0, 100, 200):
        made.look(thread, ms, run=ms)
    for ms, run in ((100, 30), (200, 50)):
        made.look(born, ms, run=run)
        made.look(found_late, ms, run=9000 + run)  # more than has passed: it is older
    counters = counters_by_thread(Timeline(made.build()))
    assert counters[born].run_ns.sum() == 50_000_000
    assert counters[found_late].run_ns.sum() == 20_000_000


def test_a_thread_id_that_was_used_again_begins_anew() -> None:
    made, thread = one_thread()
    for ms, run in ((0, 500), (100, 550), (200, 20)):
        made.look(thread, ms, run=run)
    counters = counters_by_thread(Timeline(made.build()))[thread]
    assert counters.run_ns.sum() == 70_000_000


def test_a_stack_from_before_a_gap_says_nothing_about_the_gap() -> None:
    made, thread = one_thread()
    for ms in range(0, 10_001, 50):
        made.look(thread, ms, run=ms)
    made.run(thread, 0, 100, TOKENIZE)
    made.run(thread, 100, 9_900, DETOKENIZE)  # seen at 100, then not for 9.7 s
    made.run(thread, 9_900, 10_000, TOKENIZE)
    made.gap("pyspy", 200, 9_900)
    stages = stages_of(measure_cpu(Timeline(made.build())))
    assert stages["unattributed"] > 7_000  # all but a second at each end
    assert stages["detokenize"] < 1_000


def test_a_gap_that_another_recorder_saw_is_none() -> None:
    made, thread = one_thread()
    made.look(thread, 0, run=0)
    made.look(thread, 1000, run=1000)
    made.run(thread, 0, 500, TOKENIZE)
    made.run(thread, 500, 1000, DETOKENIZE)
    made.gap("pyspy", 0, 1000, "a recorder was killed while the next one ran")
    stages = stages_of(measure_cpu(Timeline(made.build())))
    assert stages == pytest.approx({"tokenize": 500, "detokenize": 500})


def test_few_samples_make_wide_intervals_and_a_warning() -> None:
    made, thread = one_thread()
    made.look(thread, 0, run=0)
    made.look(thread, 1000, run=1000)
    made.run(thread, 0, 500, TOKENIZE)
    made.run(thread, 500, 1000, DETOKENIZE)
    made.probe("pyspy", "works", achieved_hz=10.0)
    analysis = analyze(made.build())
    row = analysis.sections["stages"][0]
    assert row["share_low"] < 0.25
    assert row["share_high"] > 0.75
    assert analysis.sections["coverage"][0]["sample_count"] == 10
    assert any(one.slug == "few-samples" for one in analysis.findings)


def test_a_slow_sampler_s_stacks_are_pooled() -> None:
    # Two ticks a second apart from the work they saw: which look interval they fall in is chance.
    made, thread = one_thread()
    for ms in range(0, 1001, 50):
        made.look(thread, ms, run=ms if ms <= 500 else 500)
    made.run(thread, 0, 250, TOKENIZE)
    made.run(thread, 250, 600, LOOP_IDLE)
    made.run(thread, 600, 850, DETOKENIZE)
    made.run(thread, 850, 1000, LOOP_IDLE)
    made.probe("pyspy", "works", achieved_hz=5.0)
    stages = stages_of(measure_cpu(Timeline(made.build())))
    assert stages == pytest.approx({"tokenize": 250, "detokenize": 250})


def test_shares_of_a_sampled_program_are_near_its_own() -> None:
    # A thread that works in three stages for some ms at a time and sleeps for half of the time.
    random = np.random.default_rng(3)
    plan = (TOKENIZE, DETOKENIZE, UNKNOWN, LOOP_IDLE)
    lengths = random.exponential([15.0, 10.0, 3.0, 30.0], size=(2000, 4)).ravel()
    ends = np.cumsum(lengths)
    works = np.arange(len(ends)) % 4 != 3
    ran = np.cumsum(lengths * works)
    end_ms = 60_000
    made, thread = one_thread()
    for ms in range(0, end_ms + 1, 50):
        made.look(thread, ms, run=float(np.interp(ms, ends, ran)))
    ticks = np.cumsum(random.exponential(10.0, size=end_ms // 10))
    for tick, following in itertools.pairwise(ticks[ticks < end_ms].tolist()):
        made.run(thread, tick, following, plan[int(np.searchsorted(ends, tick)) % 4])
    made.probe("pyspy", "works", achieved_hz=100.0)
    stages = stages_of(measure_cpu(Timeline(made.build())))
    is_inside = ends < end_ms
    for index, stage in enumerate(("tokenize", "detokenize", "unknown")):
        own = lengths[is_inside & (np.arange(len(ends)) % 4 == index)].sum()
        share = own / lengths[is_inside & works].sum()
        assert stages[stage] / sum(stages.values()) == pytest.approx(share, abs=0.02)


looks_of = st.lists(st.tuples(st.integers(2, 120), st.integers(0, 120)), min_size=1, max_size=30)
runs_of = st.lists(
    st.tuples(
        st.integers(1, 200), st.sampled_from([TOKENIZE, DETOKENIZE, LOOP_IDLE, SPIN, UNKNOWN])
    ),
    max_size=20,
)


@given(looks_of, runs_of, st.sampled_from([5.0, 20.0, 100.0]))
def test_the_stages_of_a_thread_add_up_to_what_the_scheduler_accounted(
    looks: list[tuple[int, int]], runs: list[tuple[int, list[tuple[str, str]]]], rate_hz: float
) -> None:
    made, thread = one_thread()
    at, total = 0, 1000
    made.look(thread, at, run=total)
    for step, run in looks:
        at, total = at + step, total + run
        made.look(thread, at, run=total)
    begun = 0
    for length, frames in runs:
        made.run(thread, begun, begun + length, frames)
        begun += length
    made.probe("pyspy", "works", achieved_hz=rate_hz)
    cpu = measure_cpu(Timeline(made.build()))
    assert cpu.threads[0].cpu_ns == (total - 1000) * 1_000_000
    assert sum(stages_of(cpu).values()) == pytest.approx(total - 1000, rel=1e-12, abs=1e-9)
