"""Idle gaps as rows of the document: by size, by cause, by place in the host's code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from analyzers.gpu.gaps import CLASS_NAMES, Gaps
from analyzers.gpu.labels import DEVICE_SIDE, Cause, Label
from analyzers.gpu.names import short_name
from analyzers.gpu.work import Work
from analyzers.statistics import wilson
from analyzers.timeline import Timeline
from collectors.slices import NONE

TOP_SITES: Final = 20
TOP_GAPS: Final = 10


def gap_section(timeline: Timeline, work: Work, gaps: Gaps) -> dict[str, Any]:
    """Return the section of one GPU's gaps; all shares are of its idle time."""
    matrix = gaps.by_class_and_label(gaps.shares)
    looks = gaps.by_class_and_label(gaps.looks)
    by_label = matrix.sum(axis=0)
    idle_ns = int(by_label.sum())
    counts = np.bincount(gaps.size_class, minlength=len(CLASS_NAMES))
    is_assumed = (gaps.call == NONE) & (gaps.thread != NONE)
    return {
        "count": len(gaps.start),
        "idle_ns": idle_ns,
        "explained_ratio": _explained(by_label, gaps.labels),
        "host_ns": sum(
            ns
            for label, ns in zip(gaps.labels, by_label.tolist(), strict=True)
            if is_host_side(label.cause)
        ),
        # Of gaps whose launch call was not seen: all of each counts as the host's.
        "launch_unseen_ns": int(gaps.length[is_assumed].sum()),
        "classes": [
            {
                "class": name,
                "count": int(counts[row]),
                "total_ns": int(matrix[row].sum()),
                "explained_ratio": _explained(matrix[row], gaps.labels),
                "causes": _causes(matrix[row], gaps.labels),
                "looks": _looks(looks[row], gaps.labels),
            }
            for row, name in enumerate(CLASS_NAMES)
        ],
        "causes": _with_bounds(_causes(by_label, gaps.labels), gaps),
        "looks": _looks(looks.sum(axis=0), gaps.labels),
        "sites": list(_sites(by_label, gaps.labels))[:TOP_SITES],
        "longest": list(_longest(timeline, work, gaps)),
    }


def is_host_side(cause: Cause) -> bool:
    """Return whether a thread of the host was late."""
    return cause not in DEVICE_SIDE and cause not in (Cause.UNEXPLAINED, Cause.NO_REQUEST)


def _explained(ns: NDArray[np.int64], labels: list[Label]) -> float | None:
    total = int(ns.sum())
    unknown = sum(
        one
        for label, one in zip(labels, ns.tolist(), strict=True)
        if label.cause is Cause.UNEXPLAINED
    )
    return 1 - unknown / total if total else None


def _causes(ns: NDArray[np.int64], labels: list[Label]) -> list[dict[str, Any]]:
    """Return the causes, the largest first, each with its stages."""
    total = int(ns.sum())
    found: dict[Cause, dict[str | None, int]] = {}
    for label, one in zip(labels, ns.tolist(), strict=True):
        if one:
            stages = found.setdefault(label.cause, {})
            stages[label.stage] = stages.get(label.stage, 0) + one
    rows = [
        {
            "cause": cause.value,
            "ns": sum(stages.values()),
            "share_ratio": sum(stages.values()) / total,
            "stages": [
                {"stage": stage, "ns": one}
                for stage, one in sorted(stages.items(), key=lambda item: -item[1])
                if stage is not None
            ],
        }
        for cause, stages in found.items()
    ]
    return sorted(rows, key=lambda row: -int(str(row["ns"])))


def _with_bounds(rows: list[dict[str, Any]], gaps: Gaps) -> list[dict[str, Any]]:
    """Add what the wait for a CPU can have been at least and at most; None: it is not estimated."""
    for row in rows:
        is_estimate = row["cause"] == Cause.RUN_QUEUE
        row["low_ns"] = min(row["ns"], gaps.accounts.run_queue_low_ns) if is_estimate else None
        row["high_ns"] = max(row["ns"], gaps.accounts.run_queue_high_ns) if is_estimate else None
    return rows


def _looks(counts: NDArray[np.int64], labels: list[Label]) -> dict[str, Any]:
    """Return what looks at the launching thread's stack saw that fell into gaps.

    Of gaps too short to be told one by one this is a fair sample of what the thread was at, though
    not of whether it ran there or waited.
    """
    total = int(counts.sum())
    found: dict[tuple[str | None, str | None, str | None], int] = {}
    for label, count in zip(labels, counts.tolist(), strict=True):
        if count:
            key = (label.stage, label.function, label.file)
            found[key] = found.get(key, 0) + count
    rows = []
    for (stage, function, file), count in sorted(found.items(), key=lambda item: -item[1]):
        low, high = wilson(count / total, total)
        rows.append(
            {
                "stage": stage, "function": function, "file": file, "count": count,
                "ratio": count / total, "low_ratio": low, "high_ratio": high,
            }
        )  # fmt: skip
    return {"count": total, "seen": rows[:TOP_SITES]}


def _sites(ns: NDArray[np.int64], labels: list[Label]) -> Iterator[dict[str, Any]]:
    """Yield the places in the host's code, the one with most idle time first."""
    total = int(ns.sum())
    for one in np.argsort(-ns, kind="stable").tolist():
        label = labels[one]
        if ns[one] and (label.function is not None or label.call is not None):
            yield {
                "cause": label.cause.value,
                "stage": label.stage,
                "function": label.function,
                "file": label.file,
                "call": label.call,
                "ns": int(ns[one]),
                "share_ratio": int(ns[one]) / total,
            }


def _longest(timeline: Timeline, work: Work, gaps: Gaps) -> Iterator[dict[str, Any]]:
    length = gaps.length
    if not len(length):
        return
    # Of millions of gaps only the longest are put in order.
    top = np.argpartition(-length, min(TOP_GAPS, len(length) - 1))[:TOP_GAPS]
    for gap in top[np.lexsort((top, -length[top]))].tolist():
        own = gaps.shares.owner == gap
        ns = np.bincount(gaps.shares.label[own], gaps.shares.ns[own], minlength=len(gaps.labels))
        call = int(gaps.call[gap])
        thread = timeline.threads.get(int(gaps.thread[gap]))
        yield {
            "start_ns": int(gaps.start[gap]),
            "length_ns": int(gaps.length[gap]),
            "ended_by": short_name(work.names[work.slices.name[gaps.ended_by[gap]]][1]),
            "launch_call": None if call == NONE else work.names[work.slices.name[call]][1],
            "pid": None if thread is None else thread.process.pid,
            "tid": None if thread is None else thread.tid,
            "thread": None if thread is None else thread.name,
            "causes": _causes(ns.astype(np.int64), gaps.labels),
        }
