"""Idle gaps and their causes: made captures in which the cause is plain."""

from __future__ import annotations

from collections import Counter

import pytest
from captures import SCHEDULE, SPIN, TOKENIZE, CaptureBuilder
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzers.gpu.busy import device_time
from analyzers.gpu.gaps import CLASS_NAMES, Gaps, measure_gaps
from analyzers.gpu.labels import Cause
from analyzers.gpu.work import measure_work
from analyzers.timeline import Timeline
from collectors.manifest import IMPORTED
from collectors.slices import OP, PYTHON

IPC = [SPIN[0], ("MessageQueue.dequeue", SPIN[1][1])]
SYNC = [SPIN[0], ("Event.synchronize", "/venv/torch/cuda/streams.py")]


class Gap:
    """A GPU that is idle from 10 to 50 ms; the thread launched at 5, and again at 45."""

    def __init__(self, *, kind: str = "vllm", with_calls: bool = True) -> None:
        self.made = CaptureBuilder(kind=kind, seconds=0.1)
        self.process = self.made.process("worker")
        self.thread = self.made.thread(self.process, tid=1)
        self.other = self.made.thread(self.process, tid=2)
        self.stream = self.made.stream(self.made.device(), process=self.process)
        for number, (call, start, end) in enumerate([(4, 5, 10), (45, 50, 60)], 1):
            if with_calls:
                self.made.call(self.thread, call, call + 1, correlation=number)
            self.made.slice(
                self.stream, start, end, correlation=number, launch_track=self.thread
            )  # fmt: skip

    def gaps(self) -> Gaps:
        (gaps,) = measure_gaps(Timeline(self.made.build())).values()
        return gaps

    def causes(self) -> dict[str, float]:
        """The gap's causes, in ms."""
        return causes(self.gaps())


def causes(gaps: Gaps) -> dict[str, float]:
    found: Counter[str] = Counter()
    shares = gaps.shares
    for label, ns in zip(shares.label.tolist(), shares.ns.tolist(), strict=True):
        found[gaps.labels[label].cause.value] += ns
    assert sum(found.values()) == int(gaps.length.sum())
    return {cause: ns / 1e6 for cause, ns in found.items()}


@pytest.fixture
def gap() -> Gap:
    return Gap()


def test_a_capture_without_any_word_on_the_host_claims_nothing(gap: Gap) -> None:
    assert gap.causes() == {"unexplained": 35, "launch_call": 1, "queued": 4}


def test_work_that_begins_soon_after_its_call_is_launch_latency() -> None:
    made = CaptureBuilder(seconds=0.1)
    thread = made.thread(made.process("worker"), tid=1)
    stream = made.stream(made.device(), process=0)
    made.slice(stream, 1, 2)
    made.call(thread, 3, 3.01, correlation=1)
    made.slice(stream, 3.02, 4, correlation=1)

    (gaps,) = measure_gaps(Timeline(made.build())).values()

    assert causes(gaps) == {"unexplained": 1, "launch_call": 0.01, "launch_latency": 0.01}


def test_work_that_was_launched_before_the_gap_was_queued() -> None:
    made = CaptureBuilder(seconds=0.1)
    thread = made.thread(made.process("worker"), tid=1)
    stream = made.stream(made.device(), process=0)
    made.slice(stream, 1, 2)
    made.call(thread, 0.5, 0.6, correlation=1)
    made.slice(stream, 3, 4, correlation=1)
    made.run(thread, 0, 10, SCHEDULE)

    (gaps,) = measure_gaps(Timeline(made.build())).values()

    assert causes(gaps) == {"queued": 1}


def test_a_pause_between_kernels_of_a_replay_is_the_graphs() -> None:
    made = CaptureBuilder(seconds=0.1)
    thread = made.thread(made.process("worker"), tid=1)
    stream = made.stream(made.device(), process=0)
    made.call(thread, 0.5, 0.6, "hipGraphLaunch", correlation=1)
    made.slice(stream, 1, 2, correlation=1)
    made.slice(stream, 2.1, 3, correlation=1)

    (gaps,) = measure_gaps(Timeline(made.build())).values()

    assert causes(gaps) == pytest.approx({"graph_replay": 0.1})


def test_a_launch_in_the_middle_of_a_call_is_the_calls(gap: Gap) -> None:
    made = CaptureBuilder(seconds=0.1)
    thread = made.thread(made.process("worker"), tid=1)
    stream = made.stream(made.device(), process=0)
    made.call(thread, 1, 8, "hipGraphLaunch", correlation=1)
    made.slice(stream, 2, 3, correlation=1)
    made.slice(stream, 6, 7, correlation=1)

    (gaps,) = measure_gaps(Timeline(made.build())).values()

    assert causes(gaps) == {"launch_call": 3}


@pytest.mark.parametrize(
    ("stack", "cause", "stage"),
    [
        (SCHEDULE, Cause.PYTHON, "schedule"),
        (TOKENIZE, Cause.PYTHON, "tokenize"),
        (SPIN, Cause.SPIN, "spin_wait"),
        (IPC, Cause.IPC, "ipc_recv"),
        (SYNC, Cause.SYNC, None),
        ([("main", "/srv/mystery.py")], Cause.PYTHON, "unknown"),
    ],
)
def test_the_stack_of_the_launching_thread_is_the_cause(
    gap: Gap, stack: list[tuple[str, str]], cause: Cause, stage: str | None
) -> None:
    gap.made.probe("stacks", "works", achieved_hz=100.0)
    for tick in range(6, 46, 10):
        gap.made.run(gap.thread, tick, tick + 10, stack)
    gap.made.run(gap.other, 0, 60, TOKENIZE)  # another thread's work is no cause

    gaps = gap.gaps()

    assert causes(gaps)[cause] == 35
    labels = [gaps.labels[one] for one in set(gaps.shares.label.tolist())]
    (label,) = [one for one in labels if one.cause is cause]
    assert (label.function, label.file) == stack[-1]
    assert stage is None or label.stage == stage


def test_the_gil_goes_before_the_stack(gap: Gap) -> None:
    gap.made.probe("stacks", "works", achieved_hz=100.0)
    for tick in range(6, 46, 10):
        gap.made.run(gap.thread, tick, tick + 10, SCHEDULE)
    for ms in range(60):
        waits = 20 <= ms < 30
        gap.made.gil(
            gap.process, ms, holder=gap.other if waits else gap.thread, switch_count=int(waits),
            waiter_count=int(waits), waiters=[gap.thread] if waits and ms % 5 == 0 else None,
        )  # fmt: skip

    found = gap.causes()

    assert found["gil_wait"] == pytest.approx(10, abs=1)  # looks are 1 ms apart
    assert found["python"] == pytest.approx(25, abs=1)


def test_somebody_else_waiting_for_the_gil_is_no_cause(gap: Gap) -> None:
    gap.made.probe("stacks", "works", achieved_hz=100.0)
    for tick in range(6, 46, 10):
        gap.made.run(gap.thread, tick, tick + 10, SCHEDULE)
    for ms in range(60):
        named = [gap.other] if ms % 5 == 0 else None
        gap.made.gil(gap.process, ms, holder=gap.thread, waiter_count=1, waiters=named)

    assert "gil_wait" not in gap.causes()
    assert gap.causes()["python"] == 35


def test_work_while_somebody_unknown_waits_for_the_gil_is_not_believed(gap: Gap) -> None:
    gap.made.probe("stacks", "works", achieved_hz=100.0)
    for tick in range(6, 46, 10):
        gap.made.run(gap.thread, tick, tick + 10, SCHEDULE)
    for ms in range(60):
        gap.made.gil(gap.process, ms, holder=gap.other, waiter_count=1, waiters=None)

    assert gap.causes() == {"unexplained": 35, "launch_call": 1, "queued": 4}


def test_the_wait_for_a_cpu_is_what_the_counters_say_and_no_more(gap: Gap) -> None:
    gap.made.probe("stacks", "works", achieved_hz=100.0)
    for tick in range(6, 46, 10):
        gap.made.run(gap.thread, tick, tick + 10, SCHEDULE)
    gap.made.look(gap.thread, 0, run=0, wait=0, timeslice_count=0)
    gap.made.look(gap.thread, 50, run=30, wait=20, timeslice_count=1)

    found = gap.causes()

    # Less what every wake-up costs; 35 of the pause's 40 ms lie in the gap.
    assert found["run_queue"] == pytest.approx((20 - 0.1) * 35 / 40)
    assert found["run_queue"] + found["python"] == pytest.approx(35)
    bounds = gap.gaps().accounts
    # The gap's late 35 ms leave 15 ms of the 50 outside of it.
    assert (bounds.run_queue_low_ns, bounds.run_queue_high_ns) == (5_000_000, 20_000_000)


def test_calls_of_the_runtime_are_told_apart_from_waiting_for_the_gpu(gap: Gap) -> None:
    gap.made.call(gap.thread, 12, 22, "hipStreamSynchronize")
    gap.made.call(gap.thread, 30, 33, "hipMalloc")

    found = gap.causes()

    assert (found["device_sync"], found["runtime_call"], found["unexplained"]) == (10, 3, 22)


def test_an_imported_trace_is_cut_by_the_innermost_function() -> None:
    gap = Gap(kind=IMPORTED)
    made, thread = gap.made, gap.thread
    scheduler = "vllm/v1/core/sched/scheduler.py(310): schedule"
    made.slice(thread, 0, 60, "vllm/v1/engine/core.py(70): run_busy_loop", kind=PYTHON)
    made.slice(thread, 12, 30, scheduler, kind=PYTHON)
    made.slice(thread, 15, 17, "<built-in method append of list object at 0x7f>", kind=PYTHON)
    made.slice(thread, 32, 40, "aten::mm", kind=OP)
    made.slice(
        thread, 41, 43,
        "vllm/distributed/device_communicators/shm_broadcast.py(500): dequeue", kind=PYTHON,
    )  # fmt: skip
    made.call(thread, 20, 22, "hipStreamSynchronize")

    gaps = gap.gaps()

    assert causes(gaps) == {
        "python": 23, "operator": 8, "ipc": 2, "device_sync": 2, "launch_call": 1, "queued": 4,
    }  # fmt: skip
    sites = {(one.cause, one.stage, one.function) for one in gaps.labels}
    assert (Cause.PYTHON, "schedule", "schedule") in sites
    assert (Cause.SYNC, "schedule", "schedule") in sites
    assert not [one for one in gaps.labels if "built-in" in (one.function or "")]


def test_nobody_is_late_while_there_is_no_request(gap: Gap) -> None:
    gap.made.request(0, 20)
    gap.made.request(40, 60)

    assert gap.causes() == {"no_request": 20, "unexplained": 15, "launch_call": 1, "queued": 4}


def test_where_only_the_thread_is_known_all_of_the_gap_is_its_lateness() -> None:
    gap = Gap(with_calls=False)
    gap.made.probe("stacks", "works", achieved_hz=100.0)
    for tick in range(6, 56, 10):
        gap.made.run(gap.thread, tick, tick + 10, SCHEDULE)

    assert gap.causes() == {"python": 40}


def test_a_thread_of_an_unknown_process_is_not_guessed_at() -> None:
    made = CaptureBuilder(seconds=0.1)
    stream = made.stream(made.device())
    made.slice(stream, 1, 2, launch_track=77)
    made.slice(stream, 3, 4, launch_track=77)

    (gaps,) = measure_gaps(Timeline(made.build())).values()

    assert causes(gaps) == {"unexplained": 1}


def test_gaps_are_classed_by_their_length() -> None:
    made = CaptureBuilder(seconds=1)
    stream = made.stream(made.device())
    at = 0.0
    for length in (0.009999, 0.01, 0.099999, 0.1, 0.999999, 1.0, 50.0):
        made.slice(stream, at, at + 1)
        at += 1 + length
    made.slice(stream, at, at + 1)

    (gaps,) = measure_gaps(Timeline(made.build())).values()

    assert [CLASS_NAMES[one] for one in gaps.size_class] == [
        "under_10us", "10us_to_100us", "10us_to_100us", "100us_to_1ms", "100us_to_1ms",
        "over_1ms", "over_1ms",
    ]  # fmt: skip


TIME = st.integers(0, 400)
LENGTH = st.integers(0, 60)


@settings(max_examples=60, deadline=None)
@given(
    kernels=st.lists(st.tuples(TIME, LENGTH, st.integers(0, 9)), min_size=1, max_size=15),
    calls=st.lists(st.tuples(TIME, LENGTH, st.integers(1, 9)), max_size=10),
    python=st.lists(st.tuples(TIME, LENGTH), max_size=6),
    runs=st.lists(st.tuples(TIME, st.integers(1, 60), st.integers(0, 2)), max_size=10),
    looks=st.lists(st.tuples(TIME, st.integers(0, 3), st.booleans()), max_size=20),
    waits=st.lists(st.integers(0, 40), max_size=6),
    requests=st.lists(st.tuples(TIME, LENGTH), max_size=2),
)
def test_whatever_a_capture_holds_classes_and_causes_add_up_to_the_idle_time(
    kernels: list[tuple[int, int, int]], calls: list[tuple[int, int, int]],
    python: list[tuple[int, int]], runs: list[tuple[int, int, int]],
    looks: list[tuple[int, int, bool]], waits: list[int], requests: list[tuple[int, int]],
) -> None:  # fmt: skip
    made = CaptureBuilder(seconds=0.5)
    process = made.process("worker")
    thread, other = made.thread(process, tid=1), made.thread(process, tid=2)
    stream = made.stream(made.device(), process=process)
    for start, length, number in kernels:
        launched_by = None if number == 0 else thread
        made.slice(stream, start, start + length, correlation=number, launch_track=launched_by)
    for start, length, number in calls:
        made.call(thread, start, start + length, correlation=number)
    for start, length in python:
        made.slice(thread, start, start + length, "a.py(1): f", kind=PYTHON)
    for start, length, stack in runs:
        made.run(thread, start, start + length, (SCHEDULE, SPIN, TOKENIZE)[stack])
    for ms, count, is_named in looks:
        waiters = [thread, other, process][:count] if is_named else None
        made.gil(process, ms, waiter_count=count, waiters=waiters)
    for number, _ in enumerate(waits):
        made.look(
            thread, 50 * number, run=number, wait=sum(waits[: number + 1]), timeslice_count=number
        )
    for start, length in requests:
        made.request(start, start + length)
    timeline = Timeline(made.build())

    (gaps,) = measure_gaps(timeline).values()

    work = timeline.once(measure_work)
    ((track, rows),) = work.rows.items()
    idle_ns = device_time(work.slices, rows, work.categories, track).idle_ns
    matrix = gaps.by_class_and_label(gaps.shares)
    assert int(gaps.length.sum()) == idle_ns == int(matrix.sum())
    by_gap = Counter[int]()
    for owner, ns in zip(gaps.shares.owner.tolist(), gaps.shares.ns.tolist(), strict=True):
        by_gap[owner] += ns
    assert [by_gap[gap] for gap in range(len(gaps.start))] == gaps.length.tolist()
    waited = causes(gaps).get("run_queue", 0.0)
    assert waited <= sum(waits[1:]) + 1e-9
    assert gaps.accounts.run_queue_low_ns <= gaps.accounts.run_queue_high_ns
