"""Where a thread may have held the GIL, by looks at it a millisecond apart."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from captures import CaptureBuilder

from analyzers.gil_holds import FURTHEST_NS, Hold, find_holds
from analyzers.timeline import Timeline
from collectors.schema import TABLES

MS = 1_000_000
OWN, OTHER, NOBODY = "own", "other", None


def holds_of(looks: list[tuple[float, str | None, int]]) -> list[Hold]:
    """Return the kinds between looks, given as (ms, holder, how often it changed hands)."""
    made = CaptureBuilder()
    process = made.process("api_server")
    threads = {
        OWN: made.thread(process, tid=1, name="pool"),
        OTHER: made.thread(process, tid=2, name="main"),
    }
    rows = [
        dict.fromkeys(TABLES["gil"].names)
        | {
            "time_ns": made.at(ms), "track": process, "switch_count": count,
            "holder": None if holder is None else threads[holder], "waiter_count": 0,
        }
        for ms, holder, count in looks
    ]  # fmt: skip
    capture = made.build()
    capture.tables["gil"] = pa.Table.from_pylist(rows, schema=TABLES["gil"])
    timeline = Timeline(capture)
    found = find_holds(timeline, timeline.threads[threads[OWN]])
    assert found is not None
    assert found.looks.tolist() == [made.at(ms) for ms, _, _ in looks]
    middles = np.array([(a + b) / 2 for a, b in zip(found.looks, found.looks[1:], strict=False)])
    return [Hold(kind) for kind in found.at(middles)]


def test_it_held_it_around_a_look_that_saw_it() -> None:
    looks = [(0, NOBODY, 5), (1, OWN, 6), (2, NOBODY, 7), (3, NOBODY, 7)]

    assert holds_of(looks) == [Hold.SEEN, Hold.SEEN, Hold.KEPT]


def test_it_did_not_where_another_had_it_and_it_did_not_change_hands() -> None:
    looks = [(0, OTHER, 5), (1, NOBODY, 5), (2, NOBODY, 5), (3, NOBODY, 6), (4, NOBODY, 6)]

    assert holds_of(looks) == [Hold.OTHERS, Hold.OTHERS, Hold.SWITCHED, Hold.KEPT]


def test_who_had_it_last_may_have_taken_it_again() -> None:
    looks = [(0, OWN, 5), (1, NOBODY, 5), (2, NOBODY, 5), (3, OTHER, 6), (4, NOBODY, 6)]

    assert holds_of(looks) == [Hold.SEEN, Hold.KEPT, Hold.SWITCHED, Hold.OTHERS]


def test_looks_far_apart_say_nothing() -> None:
    far_ms = FURTHEST_NS / MS + 1

    assert holds_of([(0, OTHER, 5), (far_ms, NOBODY, 5)]) == [Hold.SWITCHED]


def test_a_gil_that_nobody_looked_at_has_no_holds() -> None:
    made = CaptureBuilder()
    process = made.process("api_server")
    thread = made.thread(process, tid=1, name="pool")

    timeline = Timeline(made.build())

    assert find_holds(timeline, timeline.threads[thread]) is None
