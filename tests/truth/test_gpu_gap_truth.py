"""Causes of a GPU's idle time against made servers that know them: see `tests.truth.late_host`.

Stacks are looked at every 10 ms, so of lateness that is shorter the cause is often not seen, and
then not told: planted lateness is 5 to 50 ms long. What is told must be true at any length.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from analyzers.gpu.gaps import Gaps, measure_gaps
from analyzers.gpu.labels import Cause
from analyzers.timeline import Timeline
from tests.truth.late_host import MS, PLANTED, Story, record, record_from_inside, tell

pytestmark = pytest.mark.truth

SECONDS = 20.0
RIGHT_RATIO = 0.95
# Claims beside the truth, as a share of the planted time: in the same gap (where one cause ends and
# the next begins is not seen to the ns), and in gaps into which nothing was planted.
BESIDE_RATIO = 0.02
STRAY_RATIO = 0.001
STRAY_RATIO_WITHOUT_CALLS = 0.003

Ns = Counter[tuple[int, str]]  # by gap and cause


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("with_calls", [True, False], ids=["calls", "kernels only"])
def test_planted_lateness_gets_its_cause_and_nothing_else_does(seed: int, with_calls: bool) -> None:
    said, true = told(seed, (5, 50), with_calls=with_calls)

    planted = {reason: total(true, reason) for reason in PLANTED}
    right = {
        reason: sum(min(ns, said[key]) for key, ns in true.items() if key[1] == reason)
        for reason in PLANTED
    }
    assert min(planted.values()) > 500 * MS
    assert sum(right.values()) >= RIGHT_RATIO * sum(planted.values()), (right, planted)
    assert min(right[reason] / planted[reason] for reason in PLANTED) >= 0.9, (right, planted)
    stray_ratio = STRAY_RATIO if with_calls else STRAY_RATIO_WITHOUT_CALLS
    assert_nothing_is_made_up(said, true, stray_ratio)


def test_a_profiler_inside_the_process_tells_lateness_of_any_length() -> None:
    chance = random.Random(3)
    story = tell(chance, 5.0, now_and_then((1, 20), ("python", "ipc")))

    (gaps,) = measure_gaps(Timeline(record_from_inside(story))).values()

    said, true = claims(gaps), truth(story, gaps)
    assert sum(true.values()) > 100 * MS
    assert {key: ns for key, ns in said.items() if key[1] in PLANTED} == true
    assert not total(said, Cause.UNEXPLAINED)


def test_lateness_too_short_to_be_seen_is_left_unexplained_not_guessed() -> None:
    said, true = told(7, (1, 8), with_calls=True)

    assert total(said, Cause.UNEXPLAINED) > 0.1 * sum(true.values())
    beside = sum((said - true)[key] for key in said if key[1] in PLANTED)
    assert beside <= 0.05 * sum(true.values())


def test_without_lateness_no_cause_of_it_is_found() -> None:
    chance = random.Random(5)
    gaps = measured(tell(chance, SECONDS, lambda _: None), chance, with_calls=True)

    said = claims(gaps)
    idle_ns = int(gaps.length.sum())
    assert idle_ns > 100 * MS
    assert sum(total(said, reason) for reason in PLANTED) <= STRAY_RATIO * idle_ns
    # What the host really did between steps is too short to be told gap by gap, but was looked at.
    seen = Counter(gaps.labels[one].stage for one in gaps.looks.label.tolist())
    assert seen.total() > 50
    assert set(seen) == {"sampling", "prepare_inputs", "model_forward"}
    assert seen["sampling"] > seen["prepare_inputs"] > seen["model_forward"]


def assert_nothing_is_made_up(said: Ns, true: Ns, stray_ratio: float) -> None:
    planted_ns = sum(true.values())
    with_plant = {gap for gap, _ in true}
    claimed = {key: ns for key, ns in said.items() if key[1] in PLANTED}
    stray_ns = sum(ns for (gap, _), ns in claimed.items() if gap not in with_plant)
    beside_ns = sum(max(0, ns - true[key]) for key, ns in claimed.items())
    assert stray_ns <= stray_ratio * planted_ns
    assert beside_ns <= BESIDE_RATIO * planted_ns


def told(seed: int, lengths_ms: tuple[int, int], *, with_calls: bool) -> tuple[Ns, Ns]:
    """Return what was said, and what was planted, of a story in which every eighth step is late."""
    chance = random.Random(seed)
    story = tell(chance, SECONDS, now_and_then(lengths_ms))
    gaps = measured(story, chance, with_calls=with_calls)
    return claims(gaps), truth(story, gaps)


def now_and_then(
    lengths_ms: tuple[int, int], reasons: Sequence[str] = PLANTED
) -> Callable[[random.Random], tuple[str, int] | None]:
    def plant(chance: random.Random) -> tuple[str, int] | None:
        if chance.random() > 1 / 8:
            return None
        return chance.choice(reasons), round(chance.uniform(*lengths_ms) * MS)

    return plant


def measured(story: Story, chance: random.Random, *, with_calls: bool) -> Gaps:
    (gaps,) = measure_gaps(Timeline(record(story, chance, with_calls=with_calls))).values()
    return gaps


def claims(gaps: Gaps) -> Ns:
    """Return what each gap was said to be; Python work is told by its stage."""
    names = [
        f"{one.cause} {one.stage}"
        if one.cause is Cause.PYTHON and one.stage != "schedule"
        else one.cause.value
        for one in gaps.labels
    ]
    found: Ns = Counter()
    shares = gaps.shares
    rows = zip(shares.owner.tolist(), shares.label.tolist(), shares.ns.tolist(), strict=True)
    for gap, label, ns in rows:
        found[gap, names[label]] += ns
    assert sum(found.values()) == int(gaps.length.sum())
    return found


def truth(story: Story, gaps: Gaps) -> Ns:
    """Return how much of each planted lateness delayed the end of each gap: up to the launch."""
    called = {correlation: start for start, _, _, correlation in story.calls}
    launched = {begin: called[correlation] for begin, _, correlation in story.kernels}
    found: Ns = Counter()
    for span in story.planted():
        first = int(np.searchsorted(gaps.end, span.start, side="right"))
        last = int(np.searchsorted(gaps.start, span.end, side="left"))
        for gap in range(first, last):
            late_until = min(span.end, launched[int(gaps.end[gap])])
            found[gap, span.does] += max(0, late_until - max(span.start, int(gaps.start[gap])))
    return +found


def total(ns: Ns, cause: str) -> int:
    return sum(one for (_, name), one in ns.items() if name == cause)
