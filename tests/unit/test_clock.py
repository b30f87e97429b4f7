"""Clock anchors: the tightest reading wins, and wall time is converted through it."""

from __future__ import annotations

import time

from collectors.clock import Anchor, read_anchor


def test_an_anchor_lies_between_two_readings_of_the_clock():
    before_ns = time.monotonic_ns()
    anchor = read_anchor()
    after_ns = time.monotonic_ns()

    assert before_ns <= anchor.monotonic_ns - anchor.uncertainty_ns
    assert anchor.monotonic_ns + anchor.uncertainty_ns <= after_ns + 1
    assert anchor.boottime_ns > 0


def test_the_tightest_of_several_readings_is_kept(monkeypatch):
    # Given brackets of 100, 10 and 50 ns
    readings = iter([0, 100, 1_000, 1_010, 2_000, 2_050])
    monkeypatch.setattr("collectors.clock.time.monotonic_ns", lambda: next(readings))

    # When
    anchor = read_anchor(attempts=3)

    # Then
    assert (anchor.monotonic_ns, anchor.uncertainty_ns) == (1_005, 5)


def test_wall_time_becomes_capture_time():
    anchor = Anchor(monotonic_ns=500, realtime_ns=9_000, boottime_ns=600, uncertainty_ns=1)

    assert anchor.monotonic_from_realtime_ns(9_250) == 750
    assert anchor.monotonic_from_realtime_ns(8_900) == 400
