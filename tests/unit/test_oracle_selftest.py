"""Truth against an analysis."""

from __future__ import annotations

from typing import Any

import pytest

from profiler.oracle.selftest import Figure, compare, true_shares


def stage(cpu_seconds: float) -> dict[str, float]:
    return {"cpu_seconds": cpu_seconds, "wall_seconds": cpu_seconds, "call_count": 1}


def make_truth() -> dict[str, Any]:
    threads = [
        {
            "tid": 10,
            "name": "MainThread",
            "cpu_seconds": 2.0,
            "gil_held_ratio": 0.30,
            "gil_uncertainty_ratio": 0.001,
            "wait_seconds": 1.0,
            "stages": {"idle": stage(0.5), "sse_write": stage(1.0), "dispatch": stage(0.5)},
        },
        {
            "tid": 11,
            "name": "tokenizer",
            "cpu_seconds": 6.0,
            "gil_held_ratio": 0.05,
            "gil_uncertainty_ratio": 0.001,
            "wait_seconds": 0.01,
            "stages": {"idle": stage(0.0), "tokenize": stage(6.0)},
        },
    ]
    process = {"pid": 1, "role": "api_server", "start_ns": 0, "end_ns": 10_000_000_000}
    return {"processes": [process | {"threads": threads}]}


def make_analysis() -> dict[str, Any]:
    shares = {"tokenize": 0.76, "sse_write": 0.16, "dispatch": 0.08}
    return {
        "stages": [
            {"role": "api_server", "stage": name, "cpu_seconds": 8 * share, "share_ratio": share}
            for name, share in shares.items()
        ],
        "gil": [
            {"pid": 1, "role": "api_server", "tid": 10, "held_ratio": 0.305, "wanted_ratio": 0.1}
        ],
        "run_queue": [
            {"pid": 1, "role": "api_server", "tid": 10, "wait_seconds": 1.2, "wait_ratio": 0.11}
        ],
    }


def test_the_cost_of_sleeping_is_spread_over_the_threads_own_work() -> None:
    shares = true_shares(make_truth()["processes"][0])

    # Of the main thread's 2 s, 1.5 s are work: two parts to one.
    assert shares == pytest.approx(
        {"sse_write": 2 * (2 / 3) / 8, "dispatch": 2 * (1 / 3) / 8, "tokenize": 6 / 8}
    )


def test_every_figure_is_compared_with_its_own_limit() -> None:
    rows = {(row.figure, row.subject): row for row in compare(make_truth(), make_analysis())}

    tokenize = rows[Figure.STAGE_SHARE, "api_server tokenize"]
    assert tokenize.error == pytest.approx(0.01)
    assert tokenize.is_ok
    held = rows[Figure.GIL_HELD, "api_server MainThread"]
    assert held.error == pytest.approx(0.005)
    assert held.is_ok
    wait = rows[Figure.RUN_QUEUE_WAIT, "api_server MainThread"]
    assert wait.error == pytest.approx(0.1)
    assert not wait.is_ok


def test_a_thread_never_seen_with_the_gil_was_seen_without_it() -> None:
    rows = {row.subject: row for row in compare(make_truth(), make_analysis())[3:]}

    assert rows["api_server tokenizer"].measured == 0.0
    assert not rows["api_server tokenizer"].is_ok  # the truth is 5 %


def test_threads_that_hardly_waited_are_not_compared() -> None:
    rows = compare(make_truth(), make_analysis())

    assert [row.subject for row in rows if row.figure == Figure.RUN_QUEUE_WAIT] == [
        "api_server MainThread"
    ]


def test_what_was_not_measured_is_unknown_and_not_ok() -> None:
    rows = compare(make_truth(), {"stages": [], "gil": [], "run_queue": []})

    assert rows
    assert all(row.measured is None and row.error is None and not row.is_ok for row in rows)


def test_a_stage_that_does_not_exist_counts_against_the_analysis() -> None:
    analysis = make_analysis()
    analysis["stages"].append(
        {"role": "api_server", "stage": "unknown", "cpu_seconds": 0.4, "share_ratio": 0.05}
    )

    rows = {row.subject: row for row in compare(make_truth(), analysis)}

    assert rows["api_server unknown"].error == pytest.approx(0.4 / 8.4)
    assert not rows["api_server unknown"].is_ok
