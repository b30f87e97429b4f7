"""What real traces say of their GPU, from the file to the report, to the nanosecond.

The figures are unions of intervals, counted one by one with Python's integers (of the torch trace:
decimals) from the files' own digits, by no part of this project.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from analyzers.analysis import analyze
from profiler.traces import read_traces
from tests import foreign_traces as made

FIGURES = ("busy_ns", "idle_ns", "span_ns", "kernel_count")
FILES: dict[str, tuple[Callable[[Path], Sequence[Path]], tuple[int, int, int, int]]] = {
    "rocpd": (
        lambda place: [made.rocpd(place)],
        (made.REAL_BUSY_NS, 5_131_945, made.REAL_SPAN_NS, made.REAL_COUNT),
    ),
    "rocprofv3 CSV": (
        made.rocprofv3_csv,
        (made.REAL_BUSY_NS, 5_131_945, made.REAL_SPAN_NS, made.REAL_COUNT),
    ),
    "rocprofv3 JSON": (
        lambda _: [made.GOLDEN / "rocprofv3_908_300.json.gz"],
        (1_049_272, 2_086_972_595, 2_088_021_867, 300),
    ),
    "torch profiler": (
        lambda _: [made.GOLDEN / "kineto_minitoy_mi250.json.gz"],
        (149_042, 8_762_845, 8_911_887, 14),
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_real_trace_s_gpu(name, tmp_path):
    files, expected = FILES[name]

    (gpu,) = analyze(read_traces(files(tmp_path))).sections["gpu"]

    assert tuple(gpu[key] for key in FIGURES) == expected
