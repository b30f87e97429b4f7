"""Checks of the engine: how it launches work on the GPU. On a CPU server none of them costs."""

from __future__ import annotations

from typing import Final

from profiler.doctor import settings
from profiler.doctor import variables as names
from profiler.doctor.check import Answer, Check, Severity, fine, fires, not_applicable
from profiler.doctor.evidence import CannotTell, Evidence, Missing

_ON_CPU: Final = "the model runs on the CPU"
_HAS_FULL: Final = frozenset({"FULL", "FULL_DECODE_ONLY", "FULL_AND_PIECEWISE"})
# vLLM may itself switch async scheduling off for these; which ones changes with the version.
_MAY_FORBID_ASYNC: Final = ("speculative-config", "pipeline-parallel-size", "enable-dbo")
_EXECUTORS_WITH_ASYNC: Final = frozenset({None, "mp", "uni"})


def _ask_eager(evidence: Evidence) -> Answer:
    if settings.accelerator(evidence) == settings.CPU:
        return not_applicable(_ON_CPU)
    if settings.switch(evidence, "enforce-eager"):
        return fires("--enforce-eager")
    # ATOM's platform plugin makes eager mode the default, which no command line shows.
    has_atom = not isinstance(evidence.packages, Missing) and "atom" in evidence.packages.names
    asked = settings.json_object(evidence, "compilation-config").get("cudagraph_mode")
    if has_atom and asked is None:
        raise CannotTell(
            "the ATOM plugin is installed, and some versions of it make eager mode the default",
            'say what you want: --compilation-config \'{"cudagraph_mode": "FULL_AND_PIECEWISE"}\'',
        )
    return fine("--enforce-eager was not given")


def _ask_full_graphs(evidence: Evidence) -> Answer:
    if settings.accelerator(evidence) == settings.CPU:
        return not_applicable(_ON_CPU)
    if settings.switch(evidence, "enforce-eager"):
        return not_applicable("eager mode has no graphs at all")
    connector = settings.lmcache(evidence)
    if connector is not None:
        layerwise = settings.lmcache_setting(evidence, connector, "use_layerwise")
        if names.is_on(layerwise):
            return not_applicable("LMCache's layerwise mode needs piecewise graphs")
    mode = settings.graph_mode(evidence)
    if mode in _HAS_FULL:
        return fine(f"cudagraph_mode {mode}; an attention backend may lower it: see the log")
    return fires(f"cudagraph_mode {mode}")


def _ask_async(evidence: Evidence) -> Answer:
    if settings.accelerator(evidence) == settings.CPU:
        return not_applicable(f"{_ON_CPU}, where vLLM leaves it off")
    if settings.value(evidence, "runner") == "pooling":
        return not_applicable("pooling models run without it")
    given = settings.switch(evidence, "async-scheduling")
    if given:
        return fine("--async-scheduling")
    if given is False:
        return fires("--no-async-scheduling")
    version = settings.version(evidence)
    if version < settings.ASYNC_DEFAULT:
        seen = f"vLLM {version[0]}.{version[1]} has it off unless asked"
        return fires(seen, fix="vllm serve ... --async-scheduling", severity=Severity.INFO)
    executor = settings.value(evidence, "distributed-executor-backend")
    doubts = [
        name
        for name in _MAY_FORBID_ASYNC
        if settings.given(evidence, name) and settings.value(evidence, name) != "1"
    ]
    if executor not in _EXECUTORS_WITH_ASYNC:
        doubts.append("distributed-executor-backend")
    if doubts:
        raise CannotTell(
            f"it is on by default, but vLLM may switch it off with --{doubts[0]}",
            "look for 'Async scheduling' in the first lines of the server's log",
        )
    return fine(f"on by default since {settings.ASYNC_DEFAULT[0]}.{settings.ASYNC_DEFAULT[1]}")


CHECKS: Final = (
    Check(
        "eager-mode",
        "The model runs without CUDA or HIP graphs",
        Severity.CRITICAL,
        "command line, maps of the workers",
        "--enforce-eager on a GPU server",
        "Python launches every kernel of every step: 3 to 5 times less throughput (ATOM study, "
        "MiniMax-M2.5 on MI300X).",
        "remove --enforce-eager",
        _ask_eager,
    ),
    Check(
        "partial-graphs",
        "Decoding does not run in full CUDA or HIP graphs",
        Severity.WARNING,
        "command line, version, maps of the workers",
        "cudagraph_mode is NONE or PIECEWISE on a GPU server, asked for or by default before 0.11",
        "Attention is launched layer by layer from Python: 4.07 requests/s became 5.98 with full "
        "graphs (Qwen3-Coder-30B FP8, one H100; vLLM pull request 25444).",
        'vllm serve ... --compilation-config \'{"cudagraph_mode": "FULL_AND_PIECEWISE"}\'',
        _ask_full_graphs,
    ),
    Check(
        "async-scheduling-off",
        "The GPU waits while the next step is scheduled",
        Severity.WARNING,
        "command line, version, maps of the workers",
        "--no-async-scheduling on a GPU server; as info where the version has it off by default",
        "Schedule and execution take turns: 5.83 requests/s became 6.03 with it (Qwen3-Coder-30B "
        "FP8, one H100; vLLM pull request 25444).",
        "remove --no-async-scheduling",
        _ask_async,
    ),
)
