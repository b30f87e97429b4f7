"""All that was seen of a server and its machine, read once; the checks look at nothing else.

What could not be read is a `Missing` with its reason. A check that asks for it ends there, and its
answer is "unknown", never a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from probes import roles
from probes.cgroups import CgroupLimit
from probes.host.devices import Device
from probes.host.topology import Topology
from profiler.doctor.arguments import Arguments

T = TypeVar("T")


class CannotTell(Exception):
    """The evidence does not hold what a check needs."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Missing:
    """A piece of evidence that could not be had."""

    reason: str
    remedy: str


NOT_READ = Missing("it was not looked at", "give the PID of a server: cputax doctor PID")


@dataclass(frozen=True, slots=True)
class ProcessEvidence:
    """One process of the server."""

    pid: int
    role: str
    name: str
    libraries: frozenset[str] | Missing = NOT_READ  # files that it has mapped
    variables: Mapping[str, str] = field(default_factory=dict)  # of the allow-list only
    allowed_cpus: frozenset[int] | Missing = NOT_READ
    swap_bytes: int | None = None
    tracer: str | None = None  # who holds it by ptrace
    seen_cpus: tuple[int, ...] = ()  # where its main thread last ran, at each look
    gpus: tuple[Device, ...] = ()  # those whose device files it has open


@dataclass(frozen=True, slots=True)
class Means:
    """What a request met in the mean, since the server started."""

    prompt_tokens: float
    ttft_s: float
    queue_s: float
    prefill_s: float

    @property
    def front_s(self) -> float:
        """What is left of TTFT: the way to the engine, and that of the first token back."""
        return self.ttft_s - self.queue_s - self.prefill_s


@dataclass(frozen=True, slots=True)
class Metrics:
    """The server's own word."""

    cache_config: Mapping[str, str]  # labels of vllm:cache_config_info
    request_count: int = 0  # finished since the server started
    means: Means | None = None  # None before the first request


@dataclass(frozen=True, slots=True)
class Model:
    """What config.json says of the weights."""

    dtype: str | None
    quantization: str | None = None  # the method, as fp8
    float_bits: int | None = None  # of weights that are stored as small floats
    has_kv_scheme: bool = False  # it brings scales, and with them a type, for the KV cache


@dataclass(frozen=True, slots=True)
class Packages:
    """What stands beside vLLM in its site-packages."""

    names: frozenset[str]  # top-level names, lower case


@dataclass(frozen=True, slots=True)
class Throttling:
    """What the quotas over the server did while it was looked at."""

    limits: tuple[CgroupLimit, ...]  # at the end of the look, the tightest first
    period_count: int = 0  # during the look, of the group that was throttled most
    throttled_period_count: int = 0

    @property
    def quota_cpus(self) -> float | None:
        """The smallest quota over the server, in CPUs."""
        return min((one.quota_cpus for one in self.limits if one.quota_cpus), default=None)


@dataclass(frozen=True, slots=True)
class Frequency:
    """How the kernel chooses the clock of the CPUs: values by how many CPUs have them."""

    driver: str
    governors: Mapping[str, int]
    preferences: Mapping[str, int] = field(default_factory=dict)  # energy_performance_preference


@dataclass(frozen=True, slots=True)
class HugePages:
    """The selected words of /sys/kernel/mm/transparent_hugepage."""

    enabled: str
    defrag: str


@dataclass(frozen=True, slots=True)
class Host:
    """The machine under the server."""

    topology: Topology | Missing = NOT_READ
    throttling: Throttling | Missing = NOT_READ
    frequency: Frequency | None = None  # None: the kernel does not choose it here
    huge_pages: HugePages | None = None  # None: the kernel has none


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything the checks may look at."""

    processes: tuple[ProcessEvidence, ...]
    arguments: Arguments | Missing = NOT_READ
    variables: Mapping[str, str] | Missing = NOT_READ  # that the server was started with
    version: str | Missing = NOT_READ
    metrics: Metrics | Missing = NOT_READ
    model: Model | Missing = NOT_READ
    packages: Packages | Missing = NOT_READ
    lmcache_file: Mapping[str, str] | Missing | None = None  # None: it has no configuration file
    profilers: tuple[str, ...] = ()  # programs that record the server
    looked_s: float = 0.0
    host: Host = field(default_factory=Host)

    def of_role(self, *wanted: str) -> list[ProcessEvidence]:
        """Return the processes with one of these roles."""
        return [process for process in self.processes if process.role in wanted]

    @property
    def runners(self) -> list[ProcessEvidence]:
        """The processes that run the model: the workers, else the engine cores."""
        return self.of_role(roles.WORKER) or self.of_role(roles.ENGINE_CORE)


def known(value: T | Missing) -> T:
    """Return what was read.

    Raises:
        CannotTell: it could not be.
    """
    if isinstance(value, Missing):
        raise CannotTell(value.reason, value.remedy)
    return value
