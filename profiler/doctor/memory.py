"""Checks of memory: pages on disk, and page faults that stop to tidy up."""

from __future__ import annotations

from typing import Final

from profiler.doctor.check import Answer, Check, Severity, fine, fires, not_applicable
from profiler.doctor.evidence import CannotTell, Evidence

_MIB: Final = 1 << 20
# Pages that start-up alone needed go first, and nobody misses them.
_SWAPPED_BYTES: Final = 64 * _MIB


def _ask_swap(evidence: Evidence) -> Answer:
    known = [process for process in evidence.processes if process.swap_bytes is not None]
    if not known:
        raise CannotTell("no process says how much of it is swapped", "run cputax on the host")
    sizes = {process.name: process.swap_bytes or 0 for process in known}
    total = sum(process.swap_bytes or 0 for process in known)
    if total < _SWAPPED_BYTES:
        return fine(f"{total / _MIB:.0f} MiB swapped")
    largest = max(sizes, key=sizes.__getitem__)
    return fires(
        f"{total / _MIB:,.0f} MiB of the server are swapped out",
        f"most of it, {sizes[largest] / _MIB:,.0f} MiB, of {largest}",
    )


def _ask_huge_pages(evidence: Evidence) -> Answer:
    pages = evidence.host.huge_pages
    if pages is None:
        return not_applicable("no transparent huge pages in this kernel")
    seen = f"enabled: {pages.enabled}, defrag: {pages.defrag}"
    if pages.enabled == "always" and pages.defrag == "always":
        return fires(seen)
    return fine(seen)


CHECKS: Final = (
    Check(
        "swapped",
        "Part of the server is swapped out",
        Severity.WARNING,
        "VmSwap in /proc/PID/status",
        "64 MiB or more of its processes together",
        "A thread that touches such a page waits for the disk, holding whatever it holds: the GIL, "
        "the event loop, a step of the engine.",
        "sudo swapoff -a     # for one container: docker run --memory=M --memory-swap=M",
        _ask_swap,
    ),
    Check(
        "huge-page-stalls",
        "Page faults wait for huge pages to be made",
        Severity.WARNING,
        "/sys/kernel/mm/transparent_hugepage/{enabled,defrag}",
        "both are set to always",
        "Any page fault may then reclaim and compact memory before it returns (kernel "
        "documentation, transhuge); the default, madvise, lets only those wait who asked for it.",
        "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/defrag",
        _ask_huge_pages,
    ),
)
