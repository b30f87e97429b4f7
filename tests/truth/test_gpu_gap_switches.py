"""Waits for a CPU inside a GPU's idle gaps by context switches: exact, where counters guess."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from analyzers.gpu.gaps import Gaps, measure_gaps
from analyzers.gpu.labels import Cause
from analyzers.timeline import Timeline
from collectors.capture import Capture
from collectors.cpu_slices import BLOCKED, PREEMPTED
from collectors.schema import CPU_SLICES
from tests.truth.late_host import MS, PLANTED, Story, record, tell

pytestmark = pytest.mark.truth

SECONDS = 10.0
RUNS = ("run", "call", "python")
WAKE_NS = 20_000  # what a wake-up costs when its CPU is free


def switched(story: Story, capture: Capture) -> Capture:
    """Add the switches of the story's thread: it runs, waits for a CPU, or is blocked."""
    thread = next(
        row["track"] for row in capture.table("tracks").to_pylist() if row["tid"] == 100
    )  # fmt: skip
    rows = [
        {
            "time_ns": start, "duration_ns": end - start, "track": thread, "cpu": 0,
            "leave": leave, "woken_ns": woken,
        }
        for start, end, leave, woken in stays(story)
    ]  # fmt: skip
    capture.tables["cpu_slices"] = pa.Table.from_pylist(rows, schema=CPU_SLICES)
    return capture


def stays(story: Story) -> Iterator[tuple[int, int, int, int | None]]:
    """Yield start, end, why it left, and when it was woken for it."""
    start, woken = story.spans[0].start, None
    for span, after in pairwise(story.spans):
        if span.does in RUNS and after.does not in RUNS:
            why = PREEMPTED if after.does == "run_queue" else BLOCKED
            yield start, span.end, why, woken
        elif span.does not in RUNS and after.does in RUNS:
            start = after.start
            woken = None if span.does == "run_queue" else max(span.start, start - WAKE_NS)


def waited(gaps: Gaps) -> dict[int, int]:
    """Return the ns of each gap that were a wait for a CPU."""
    is_wait = np.array([one.cause is Cause.RUN_QUEUE for one in gaps.labels])
    shares = gaps.shares
    own = is_wait[shares.label]
    ns = np.bincount(shares.owner[own], shares.ns[own], len(gaps.start)).astype(int)
    return dict(enumerate(ns.tolist()))


@pytest.mark.parametrize("with_calls", [True, False], ids=["calls", "kernels only"])
def test_waits_for_a_cpu_of_3_to_20_ms_are_placed_where_they_were(with_calls: bool) -> None:
    chance = random.Random(11)
    story = tell(
        chance,
        SECONDS,
        lambda draw: None if draw.random() > 1 / 8 else (
            draw.choice(PLANTED), round(draw.uniform(3, 20) * MS)
        ),
    )  # fmt: skip
    capture = switched(story, record(story, chance, with_calls=with_calls))

    (gaps,) = measure_gaps(Timeline(capture)).values()

    said = waited(gaps)
    planted = [span for span in story.planted() if span.does == "run_queue"]
    true = dict.fromkeys(said, 0)
    called = {correlation: start for start, _, _, correlation in story.calls}
    launched = {begin: called[correlation] for begin, _, correlation in story.kernels}
    for gap, (start, end) in enumerate(zip(gaps.start.tolist(), gaps.end.tolist(), strict=True)):
        late_until = launched[end] if with_calls else end
        for span in planted:
            true[gap] += max(0, min(span.end, late_until) - max(span.start, start))
    assert sum(true.values()) > 100 * MS
    # Each wake-up waits for its CPU a little, and so many can fall into one gap.
    others = {gap: ns - true[gap] for gap, ns in said.items()}
    assert min(others.values()) >= 0
    assert max(others.values()) <= 2 * WAKE_NS
    assert gaps.accounts.run_queue_low_ns == gaps.accounts.run_queue_high_ns
