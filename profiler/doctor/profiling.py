"""Check for instruments that somebody forgot in the server."""

from __future__ import annotations

from typing import Final

from profiler.doctor import settings
from profiler.doctor import variables as names
from profiler.doctor.check import Answer, Check, Severity, fine, fires
from profiler.doctor.evidence import Evidence, Missing, known

_OFF: Final = frozenset({None, False, "", "false", "False"})


def _ask_profiling(evidence: Evidence) -> Answer:
    running = [f"{one.tracer} traces {one.name}" for one in evidence.processes if one.tracer]
    running += evidence.profilers
    started = known(evidence.variables)
    running += [
        f"{name}={started[name]}" for name in names.SLOWING if names.is_on(started.get(name))
    ]
    config = settings.json_object(evidence, "profiler-config")
    ready = []
    if config.get("profiler"):
        with_stack = config.get("torch_profiler_with_stack", True) not in _OFF
        stacks = "with stacks" if with_stack else "without stacks"
        ready.append(f"--profiler-config: {config['profiler']}, {stacks}")
        if with_stack:
            running += ready
    elif _heeds_old_variable(evidence) and names.TORCH_PROFILER_DIR in started:
        running.append(f"{names.TORCH_PROFILER_DIR} is set")
    if running:
        return fires(*running)
    if ready:
        return fires(*ready, severity=Severity.INFO)
    return fine("no profiler, tracer or blocking launches")


def _heeds_old_variable(evidence: Evidence) -> bool:
    """Whether VLLM_TORCH_PROFILER_DIR may mean something: 0.19 and 0.32 do not know it."""
    return isinstance(evidence.version, Missing) or settings.version(evidence) < (0, 19)


CHECKS: Final = (
    Check(
        "profiling-on",
        "A profiler was left in the server",
        Severity.WARNING,
        "command line, environ, TracerPid, programs above the server or attached to it",
        "a tracer or a profiler is attached, launches block, or --profiler-config names a profiler "
        "(info: without stacks)",
        "Whoever reaches the port can start it: with stacks, the default, 4 s of load took the "
        "worker to 8.4 GB, and the server died (vLLM 0.32). Tracers and blocking launches cost at "
        "every call.",
        "remove --profiler-config, or: --profiler-config.torch_profiler_with_stack=false",
        _ask_profiling,
    ),
)
