"""All checks, in the order in which they are told: what costs most first."""

from __future__ import annotations

from typing import Final

from profiler.doctor import cpus, engine, frontend, kv_cache, lmcache, memory, placement, profiling
from profiler.doctor.check import Check, Diagnosis
from profiler.doctor.evidence import Evidence

CHECKS: Final[tuple[Check, ...]] = (
    *kv_cache.CHECKS,
    *lmcache.CHECKS,
    *engine.CHECKS,
    *frontend.CHECKS,
    *cpus.CHECKS,
    *placement.CHECKS,
    *memory.CHECKS,
    *profiling.CHECKS,
)


def diagnose(evidence: Evidence) -> list[Diagnosis]:
    """Ask every check; what fired comes first, the worst of it at the top."""
    diagnoses = [check.run(evidence) for check in CHECKS]
    return sorted(diagnoses, key=lambda one: -one.severity if one.has_fired() else 0)
