"""Why a GPU was idle: the causes, and the places in the host's code that stand behind them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from analyzers.gpu.device_waits import is_device_wait
from analyzers.stages import IDLE, SPIN_WAIT


class Cause(StrEnum):
    """What a GPU waited for."""

    # On the device's side: the work was there.
    QUEUED = "queued"  # it waited for something else on the GPU
    GRAPH = "graph_replay"  # between kernels of one replay
    LATENCY = "launch_latency"  # the call was over, the kernel had not begun
    # On the host's side: the thread that launched next was late.
    CALL = "launch_call"  # in the launching call itself
    SYNC = "device_sync"  # in a call that waits for the GPU
    RUNTIME = "runtime_call"  # in another call of the GPU's runtime
    GIL = "gil_wait"
    RUN_QUEUE = "run_queue"  # ready to run, without a CPU
    IPC = "ipc"
    SPIN = "spin_wait"
    IDLE = "idle"  # waiting for work or for an answer
    PYTHON = "python"  # in a stage's own code
    OPERATOR = "operator"  # in an operator of the framework
    NO_REQUEST = "no_request"  # nobody had asked for anything
    UNEXPLAINED = "unexplained"


DEVICE_SIDE: Final = frozenset({Cause.QUEUED, Cause.GRAPH, Cause.LATENCY})
# While a thread is seen in one of these it may as well have been without a CPU.
WORK: Final = frozenset({Cause.PYTHON, Cause.OPERATOR})
WAITS: Final = frozenset({Cause.IPC, Cause.SPIN, Cause.IDLE})
CALLS: Final = frozenset({Cause.SYNC, Cause.RUNTIME})
_OF_STAGES: Final = {
    IDLE: Cause.IDLE,
    SPIN_WAIT: Cause.SPIN,
    "ipc_recv": Cause.IPC,
    "ipc_send": Cause.IPC,
}
# As torch's profiler writes a Python function: ``vllm/v1/core/sched/scheduler.py(310): schedule``.
_FRAME = re.compile(r"(?P<file>.+)\(\d+\): (?P<function>.+)", re.DOTALL)
# Calls that return when the GPU is done; copies do unless they say that they are asynchronous.
_SYNC = re.compile(r"\w*Synchronize|(?:hip|cuda|cu)Memcpy(?!\w*Async)\w*")


@dataclass(frozen=True, slots=True)
class Label:
    """A cause, and where in the host's code it stood; None: that does not apply or is not known."""

    cause: Cause
    stage: str | None = None
    function: str | None = None
    file: str | None = None
    call: str | None = None  # of the runtime, or an operator, made there


class LabelTable:
    """Gives labels numbers."""

    def __init__(self) -> None:
        self._ids: dict[Label, int] = {}

    def id(self, label: Label) -> int:
        """Return the number of this label."""
        return self._ids.setdefault(label, len(self._ids))

    @property
    def labels(self) -> list[Label]:
        """All labels, by number."""
        return list(self._ids)

    def having(self, causes: frozenset[Cause]) -> NDArray[np.bool_]:
        """Return by number which labels are of one of these causes."""
        return np.array([label.cause in causes for label in self._ids], np.bool_)


def stage_label(stage: str, function: str, file: str) -> Label:
    """Return the label of a thread whose stack is of ``stage`` and ends in this function."""
    if is_device_wait(function, file):
        return Label(Cause.SYNC, stage, function, file)
    return Label(_OF_STAGES.get(stage, Cause.PYTHON), stage, function, file)


def call_cause(name: str) -> Cause:
    """Return the cause that a call of the GPU's runtime is."""
    return Cause.SYNC if _SYNC.fullmatch(name) else Cause.RUNTIME


def python_frame(name: str) -> tuple[str, str]:
    """Return function and file of a Python function's slice; built-in ones have no file."""
    found = _FRAME.fullmatch(name)
    return (found["function"], found["file"]) if found else (name, "")


def gpu_name(row: Mapping[str, Any]) -> str:
    """Return what a sentence calls this GPU, a row of the document."""
    name = "The GPU" if row["device"] is None else f"GPU {row['device']}"
    return name if row["rank"] is None else f"{name} of rank {row['rank']}"
