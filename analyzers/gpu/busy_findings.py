"""Findings of a GPU that had work: that the host is not to blame, and what it spent its time on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from analyzers.findings import Finding, Quantity, Rank
from analyzers.gpu.labels import gpu_name

BUSY: Final = "gpu-busy"
COMMUNICATION: Final = "gpu-communication"
# Busier than this, and a GPU's kernels are what there is to gain from.
BUSY_RATIO: Final = 0.95
# Of the span, communication that no computing hides.
EXPOSED_RATIO: Final = 0.1
Json = Mapping[str, Any]


def busy_findings(row: Json) -> list[Finding]:
    """Return what stands out in the work of a GPU, a row of the document's ``gpu``."""
    found = []
    if row["exposed_communication_ns"] >= EXPOSED_RATIO * row["span_ns"] > 0:
        found.append(_communication(row))
    if row["busy_ns"] >= BUSY_RATIO * row["span_ns"] > 0 and row["kernels"]:
        found.append(_busy(row))
    return found


def _busy(row: Json) -> Finding:
    first = row["kernels"][0]
    return Finding(
        BUSY,
        f"{gpu_name(row)} was busy {row['busy_ratio']:.1%} of {row['span_ns'] / 1e6:,.1f} ms: the "
        f"host kept up. {first['busy_ratio']:.0%} of that in {first['name']} "
        f"({first['launch_count']:,} launches, {first['mean_ns'] / 1e3:,.1f} us each).",
        Rank.DEVICE_TIME,
        Quantity(row["busy_ratio"], "ratio"),
        row["kernels"][:5],
        cost_seconds=row["compute_ns"] / 1e9,
    )


def _communication(row: Json) -> Finding:
    exposed_ratio = row["exposed_communication_ns"] / row["span_ns"]
    hidden_ratio = 1 - row["exposed_communication_ns"] / row["communication_ns"]
    kernels = row["communication_kernels"]
    return Finding(
        COMMUNICATION,
        f"{gpu_name(row)} did nothing but communicate for {exposed_ratio:.0%} of "
        f"{row['span_ns'] / 1e6:,.1f} ms, mostly in {kernels[0]['name']}; {hidden_ratio:.0%} of "
        "its communication was hidden behind other work.",
        Rank.DEVICE_TIME,
        Quantity(exposed_ratio, "ratio"),
        kernels[:5],
        ("a kernel of a collective also runs while it waits for a slower rank",),
        cost_seconds=row["exposed_communication_ns"] / 1e9,
        remedy="compare the ranks' traces: who comes last makes the others wait",
    )
