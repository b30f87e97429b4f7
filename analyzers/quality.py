"""What the capture did not see, and what recording it cost."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from analyzers.base import Analyzer, Outcome
from analyzers.findings import Finding, Quantity, Rank
from analyzers.intervals import intervals
from analyzers.timeline import Timeline

# Gaps of a probe that cover more of the capture than this change what can be concluded.
NOTABLE_RATIO: Final = 0.05
# Spans come in batches, so the last ones are always in doubt: which requests have none is told
# with the requests.
BATCHED_PROBES: Final = ("otlp",)


def run(timeline: Timeline) -> Outcome:
    """Report the gaps per probe; a finding when the capture is partial or gaps are large."""
    rows = _gap_rows(timeline)
    capture = timeline.capture
    large = [
        row
        for row in rows
        if (row["gap_ratio"] or 0.0) >= NOTABLE_RATIO and row["probe"] not in BATCHED_PROBES
    ]
    sections = {"gaps": rows, "overhead": dict(capture.manifest.overhead)}
    if not (capture.is_partial or large):
        return Outcome(sections)
    reasons = []
    if capture.is_recovered:
        reasons.append("its recorder was killed before it could stop")
    elif capture.manifest.state != "complete":
        reasons.append(f"recording ended as {capture.manifest.state}")
        if capture.manifest.stop_reason:
            reasons[-1] += f" ({capture.manifest.stop_reason})"
    reasons += [
        f"the {row['probe']} probe did not see {row['gap_seconds']:.1f} s ({row['gap_ratio']:.0%})"
        for row in large
    ]
    headline = "The capture is partial" if capture.is_partial else "Part of the time was not seen"
    worst = max((row["gap_ratio"] or 0.0 for row in rows), default=0.0)
    finding = Finding(
        "capture-partial",
        f"{headline}: {'; '.join(reasons)}. Figures hold for what was seen.",
        Rank.QUALITY,
        Quantity(worst, "ratio"),
        rows,
        cost_seconds=max((row["gap_seconds"] for row in rows), default=0.0),
    )
    return Outcome(sections, [finding])


def _gap_rows(timeline: Timeline) -> list[dict[str, Any]]:
    capture = timeline.capture
    span_ns = capture.end_ns - capture.start_ns
    by_probe: dict[str, list[dict[str, Any]]] = {}
    for row in capture.table("gaps").to_pylist():
        by_probe.setdefault(row["probe"], []).append(row)
    rows = []
    for probe, gaps in sorted(by_probe.items()):
        start = np.array([gap["start_ns"] for gap in gaps], np.int64)
        end = np.array([gap["end_ns"] for gap in gaps], np.int64)
        unseen = intervals(start, end)
        counts = [gap["lost_count"] for gap in gaps]
        rows.append(
            {
                "probe": probe,
                "gap_count": len(gaps),
                "gap_seconds": unseen.total() / 1e9,
                "gap_ratio": unseen.total() / span_ns if span_ns > 0 else None,
                "largest_gap_seconds": int(unseen.lengths().max()) / 1e9 if len(unseen) else 0.0,
                "lost_count": None if None in counts else sum(counts),
                "reasons": sorted({gap["reason"] for gap in gaps}),
            }
        )
    return rows


ANALYZER: Final = Analyzer("capture-partial", (), run)
