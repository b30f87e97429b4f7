"""How a server's torch profiler was set up, told from its command line or its environment.

vLLM 0.13 and later take ``--profiler-config``, as JSON or as ``--profiler-config.KEY VALUE``, where
dotted keys win over JSON (vllm/utils/argparse_utils.py); earlier versions took variables
(vllm/envs.py). In all of them the profiler records Python stacks unless told not to.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from probes.environment import read_variables
from probes.target import Process, Target

OPTION: Final = "--profiler-config"
VARIABLES: Final = ("VLLM_TORCH_PROFILER_DIR", "VLLM_TORCH_PROFILER_WITH_STACK")
TORCH: Final = "torch"


@dataclass(frozen=True, slots=True)
class Settings:
    """What the server was told; ``process`` is the one that was told it."""

    process: Process
    profiler: str  # torch, cuda, proton; empty: none
    directory: str  # as it was given: may be relative, or a URI
    has_stacks: bool

    @property
    def is_remote(self) -> bool:
        """Whether the files go to some storage that is no directory of the server's machine."""
        return "://" in self.directory


def find_settings(target: Target) -> Settings | None:
    """Look for the settings; None when nothing outside the server shows any."""
    for process in target.processes.values():
        values = _config(process.cmdline)
        if values:
            return _from_config(process, values)
    root = target.processes[target.root_pid]
    variables = read_variables(target.procfs, root.pid, VARIABLES)
    directory = variables.get("VLLM_TORCH_PROFILER_DIR", "")
    if not directory:
        return None
    stacks = variables.get("VLLM_TORCH_PROFILER_WITH_STACK", "1")
    return Settings(root, TORCH, directory, has_stacks=stacks != "0")


def _from_config(process: Process, values: dict[str, Any]) -> Settings:
    # What is neither true nor false may mean either: take the dangerous one.
    stacks = str(values.get("torch_profiler_with_stack", True)).lower()
    return Settings(
        process,
        profiler=str(values.get("profiler") or ""),
        directory=str(values.get("torch_profiler_dir") or ""),
        has_stacks=stacks not in {"false", "0", "no", "off"},
    )


def _config(cmdline: tuple[str, ...]) -> dict[str, Any]:
    """Return the profiler's configuration as the server's own parser reads it."""
    whole: dict[str, Any] = {}
    dotted: dict[str, Any] = {}
    for index, word in enumerate(cmdline):
        name, has_value, value = word.partition("=")
        option, _, key = name.partition(".")
        if option.replace("_", "-") != OPTION:
            continue
        if not has_value:
            value = cmdline[index + 1] if index + 1 < len(cmdline) else ""
        read = _json(value)
        if key:
            dotted[key] = read
        elif isinstance(read, dict):
            whole = read
    return dotted or whole


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
