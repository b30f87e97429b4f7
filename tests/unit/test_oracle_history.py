"""Windows over the oracle's history."""

from __future__ import annotations

import os
import threading
from itertools import pairwise

import pytest

from profiler.oracle.stages import Stage
from profiler.oracle.truth import history as history_module
from profiler.oracle.truth.history import History
from profiler.oracle.truth.ledger import LedgerCut, StageTotals

TID = threading.get_native_id()


@pytest.fixture
def history(monkeypatch: pytest.MonkeyPatch) -> History:
    """Cuts at 0, 100 and 300 ns: the thread tokenizes for 40, then for 20 ns, held half of it."""
    script = iter(
        (time_ns, [LedgerCut(TID, "main", cpu_ns, cpu_ns // 2, 0, {Stage.TOKENIZE: totals})])
        for time_ns, cpu_ns, totals in (
            (0, 0, StageTotals()),
            (100, 40, StageTotals(40, 60, 1)),
            (300, 60, StageTotals(60, 100, 2)),
        )
    )
    monkeypatch.setattr(history_module, "cut_all", lambda: next(script))
    history = History("worker")
    for _ in range(3):
        history.take()
    return history


def test_a_window_between_cuts_holds_their_difference(history: History) -> None:
    truth = history.window(100, 300)

    (thread,) = truth["threads"]
    assert (truth["pid"], truth["role"]) == (os.getpid(), "worker")
    assert thread["cpu_seconds"] == pytest.approx(20e-9)
    assert thread["gil_held_ratio"] == pytest.approx(10 / 200)
    assert thread["stages"]["tokenize"]["wall_seconds"] == pytest.approx(40e-9)


def test_edges_between_cuts_are_read_off_a_straight_line(history: History) -> None:
    (thread,) = history.window(50, 200)["threads"]

    assert thread["cpu_seconds"] == pytest.approx((20 + 10) * 1e-9)


def test_neighbouring_windows_add_up_to_the_whole(history: History) -> None:
    edges = [0, 33, 100, 101, 250, 300]
    parts = [history.window(*pair)["threads"][0]["cpu_seconds"] for pair in pairwise(edges)]

    assert sum(parts) == pytest.approx(history.window(0, 300)["threads"][0]["cpu_seconds"])


def test_a_window_is_clipped_to_what_is_remembered(history: History) -> None:
    truth = history.window(-500, 9_999)

    assert (truth["start_ns"], truth["end_ns"]) == (0, 300)


@pytest.mark.parametrize("edges", [(400, 500), (-9, -1), (200, 200)])
def test_nothing_remembered_is_an_error(history: History, edges: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="remembered"):
        history.window(*edges)
