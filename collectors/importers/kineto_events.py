"""Events of the torch profiler, as far as they are read, and what their categories mean.

Categories and arguments are those that libkineto's ``output_json.cpp`` and ``ActivityType.h``
write; the capitalised ones are those of torch 1.x.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from collectors.importers.trace import MAX_TIME_NS
from collectors.slices import ANNOTATION, API, KERNEL, MEMCPY, MEMSET, NONE, OP, PYTHON

Scalar: TypeAlias = int | str | float | bool | None

DEVICE_CATEGORIES: Final = {
    "kernel": KERNEL,
    "gpu_memcpy": MEMCPY,
    "gpu_memset": MEMSET,
    "Kernel": KERNEL,
    "Memcpy": MEMCPY,
    "Memset": MEMSET,
}
HOST_CATEGORIES: Final = {
    "cuda_runtime": API,
    "cuda_driver": API,
    "hip_runtime": API,
    "hip_driver": API,
    "xpu_runtime": API,
    "xpu_driver": API,
    "mtia_runtime": API,
    "glow_runtime": API,
    "privateuse1_runtime": API,
    "privateuse1_driver": API,
    "Runtime": API,
    "cpu_op": OP,
    "Operator": OP,
    "python_function": PYTHON,
    "user_annotation": ANNOTATION,
}
# Echoes of the above on other rows, arrows, waits, and the profiler's own work.
LEFT_CATEGORIES: Final = frozenset(
    {
        "Trace", "ac2g", "async_cpu_to_gpu", "async_gpu", "collective_comm", "cpu_instant_event",
        "cuda_event", "cuda_profiler_range", "cuda_sync", "external_correlation", "fwdbwd",
        "forward_backward", "gpu_pm_counter", "gpu_user_annotation", "mtia_ccp_events",
        "mtia_counters", "mtia_insight", "overhead", "xpu_scope_profiler", "xpu_sync",
    }
)  # fmt: skip
COMPLETE: Final = "X"  # a phase of the trace event format: begin and length in one event
METADATA: Final = "M"

NS_PER_US: Final = 1_000


class Args(msgspec.Struct, gc=False):
    """Arguments of an event, and what stands for those that it has not got."""

    device: Scalar = None
    stream: Scalar = None
    correlation: Scalar = NONE
    graph: Any = msgspec.field(default=NONE, name="graph id")
    graph_node: Any = msgspec.field(default=NONE, name="graph node id")
    bytes: Any = NONE
    name: Any = ""  # of a process or a thread
    labels: Any = ""  # of a process: CPU, or GPU and a number


class Event(msgspec.Struct, gc=False):
    """One event of ``traceEvents``; the order of fields is the one in which they are written."""

    ph: str = ""
    cat: str = ""
    name: str = ""
    pid: Scalar = None
    tid: Scalar = None
    ts: float = math.nan  # us
    dur: float = math.nan  # us
    args: Args = msgspec.field(default_factory=Args)


def nanoseconds(microseconds: Sequence[float]) -> NDArray[np.int64]:
    """Return times as whole ns, exact where the decimal fraction that was written had three digits.

    A double of 2**42 us (51 days) still tells ns apart, but its product with 1,000 may not: whole
    us and their fraction are converted each by itself. What is no time becomes `MAX_TIME_NS`.
    """
    us = np.array(microseconds, np.float64)
    is_sane = np.abs(us) < MAX_TIME_NS // NS_PER_US  # NaN is not
    if not is_sane.all():
        us = np.where(is_sane, us, 0.0)
    whole = np.floor(us)
    ns = whole.astype(np.int64) * NS_PER_US
    ns += np.rint((us - whole) * NS_PER_US).astype(np.int64)
    ns[~is_sane] = MAX_TIME_NS
    return ns
