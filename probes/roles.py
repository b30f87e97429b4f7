"""Which part of an inference server a process is, told from its title or command line.

vLLM titles its children ``PREFIX::ROLE_RANKS`` (prefix from VLLM_PROCESS_NAME_PREFIX, ``VLLM`` by
default). A single API server keeps the command line it was started with; with several, the process
that was started is only their launcher.
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import PurePath
from typing import Final

API_SERVER: Final = "api_server"
ENGINE_CORE: Final = "engine_core"
WORKER: Final = "worker"
DP_COORDINATOR: Final = "dp_coordinator"
LAUNCHER: Final = "launcher"
RESOURCE_TRACKER: Final = "resource_tracker"
PYTHON: Final = "python"
OTHER: Final = "other"

SERVER_ROLES: Final = frozenset({API_SERVER, ENGINE_CORE, WORKER, DP_COORDINATOR, LAUNCHER})

_TITLE = re.compile(r"[\w.-]+::(APIServer|EngineCore|Worker|DPCoordinator)(?:_(\S+))?")
_TITLE_ROLES = {
    "APIServer": API_SERVER,
    "EngineCore": ENGINE_CORE,
    "Worker": WORKER,
    "DPCoordinator": DP_COORDINATOR,
}
_RANK = re.compile(r"(DP|PP|PCP|TP|DCP|EP)(\d+)")
_ORACLE_ROLES = {
    "profiler.oracle": API_SERVER,
    "profiler.oracle.engine_core": ENGINE_CORE,
    "profiler.oracle.worker": WORKER,
}
_VLLM_MODULES = {"vllm.entrypoints.openai.api_server", "vllm.entrypoints.cli.main"}


def classify(cmdline: list[str]) -> tuple[str | None, str]:
    """Return the server role (None if it is no known server's) and the server kind."""
    if not cmdline:
        return None, OTHER
    title = _TITLE.match(cmdline[0])
    if title:
        return _TITLE_ROLES[title[1]], "vllm"
    module = _module(cmdline)
    if module in _ORACLE_ROLES:
        return _ORACLE_ROLES[module], "oracle"
    if module in _VLLM_MODULES or _is_vllm_serve(cmdline):
        return API_SERVER, "vllm"
    if any("multiprocessing.resource_tracker" in part for part in cmdline[1:]):
        return RESOURCE_TRACKER, PYTHON
    return None, PYTHON


def is_titled(cmdline: list[str]) -> bool:
    """Whether the process was given a server's title."""
    return bool(cmdline) and _TITLE.match(cmdline[0]) is not None


def rank_key(cmdline: list[str]) -> tuple[tuple[str, int], ...]:
    """Return a worker title's ranks, ``VLLM::Worker_DP1_TP0`` as (("DP", 1), ("TP", 0))."""
    title = _TITLE.match(cmdline[0]) if cmdline else None
    return tuple((name, int(rank)) for name, rank in _RANK.findall(title[2] or "")) if title else ()


def served_model(cmdline: list[str]) -> str | None:
    """Return the model name a server's command line gives: what it is served as, else its path."""
    for option in ("--served-model-name", "--model"):
        for index, part in enumerate(cmdline):
            if part == option and index + 1 < len(cmdline):
                return cmdline[index + 1]
            if part.startswith(option + "="):
                return part.partition("=")[2]
    if "serve" in cmdline:
        rest = cmdline[cmdline.index("serve") + 1 :]
        if rest and not rest[0].startswith("-"):
            return rest[0]
    return None


def _module(cmdline: list[str]) -> str | None:
    """Return what ``python -m MODULE`` runs."""
    for index, part in enumerate(cmdline[:-1]):
        if part == "-m":
            return cmdline[index + 1]
    return None


def _is_vllm_serve(cmdline: list[str]) -> bool:
    return any(
        PurePath(program).name == "vllm" and command == "serve"
        for program, command in pairwise(cmdline[:4])
    )
