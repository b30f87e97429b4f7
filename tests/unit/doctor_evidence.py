"""Servers that are not there, as the doctor would have seen them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from probes import roles
from probes.cgroups import CgroupLimit
from probes.host.devices import GPU, Device
from probes.host.topology import Node, Topology
from profiler.doctor.arguments import parse_arguments
from profiler.doctor.evidence import (
    Evidence,
    Frequency,
    Host,
    HugePages,
    Means,
    Metrics,
    Model,
    Packages,
    ProcessEvidence,
    Throttling,
)

LMCACHE = '{"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"}'
CUDA_FILES = frozenset({"/usr/lib/libcuda.so.570.1", "/dev/nvidia0"})
ROCM_FILES = frozenset({"/opt/rocm/lib/libamdhip64.so", "/dev/kfd"})
CPU_FILES = frozenset({"/venv/lib/python3.12/site-packages/torch/lib/libtorch_cpu.so"})
C_OPS = "/venv/lib/python3.12/site-packages/lmcache/c_ops.cpython-312-x86_64-linux-gnu.so"
CACHE_ON = {"enable_prefix_caching": "True", "cache_dtype": "auto"}
CACHE_OFF = {"enable_prefix_caching": "False", "cache_dtype": "auto"}
MEANS = Means(prompt_tokens=19_704, ttft_s=0.1, queue_s=0.0, prefill_s=0.06)


def server(
    *options: str, files: frozenset[str] = CUDA_FILES, cpus: int = 16, workers: int = 1,
    api_servers: int = 1, worker_cpus: frozenset[int] | None = None,
    process: Mapping[str, Any] | None = None, **changes: Any,
) -> Evidence:  # fmt: skip
    """Return a server without a mistake: vLLM 0.32 on a GPU, unless told otherwise.

    ``process`` changes its engine core and workers, ``changes`` the evidence.
    """
    allowed = frozenset(range(cpus))

    def made(role: str, pid: int, name: str, **more: Any) -> ProcessEvidence:
        given = {"libraries": files, "allowed_cpus": allowed, "swap_bytes": 0, **more}
        return ProcessEvidence(pid, role, f"{name} ({pid})", **given)

    inner = {"gpus": (gpu(node=0),), "seen_cpus": (0, 1), **(process or {})}
    worker_inner = {"allowed_cpus": worker_cpus or allowed, **inner}
    processes = [made(roles.API_SERVER, 100 + i, "api server") for i in range(api_servers)]
    processes.append(made(roles.ENGINE_CORE, 200, "VLLM::EngineCore", **inner))
    processes += [
        made(roles.WORKER, 300 + i, f"VLLM::Worker_TP{i}", **worker_inner) for i in range(workers)
    ]
    known: dict[str, Any] = {
        "arguments": parse_arguments(["vllm", "serve", "some/model", *options]),
        "variables": {},
        "version": "0.32.0",
        "metrics": Metrics(CACHE_ON, 100, MEANS),
        "model": Model("bfloat16"),
        "packages": Packages(frozenset({"vllm", "torch", "aiofile"})),
        "looked_s": 0.9,
        "host": host(),
    }
    return Evidence(tuple(processes), **{**known, **changes})


def host(**changes: Any) -> Host:
    """Return a machine of two nodes without a mistake."""
    known: dict[str, Any] = {
        "topology": two_nodes(),
        "throttling": Throttling(()),
        "frequency": Frequency("acpi-cpufreq", {"performance": 16}),
        "huge_pages": HugePages("always", "madvise"),
    }
    return Host(**{**known, **changes})


def two_nodes(distance: int = 21) -> Topology:
    """Return two nodes of eight CPUs each."""
    first = Node(0, tuple(range(8)), None, None, (10, distance))
    second = Node(1, tuple(range(8, 16)), None, None, (distance, 10))
    return Topology((first, second), (), (), ())


def gpu(node: int | None) -> Device:
    """Return a GPU near a node."""
    return Device("0000:81:00.0", GPU, 0x10DE, node, (), "nvidia", ("nvidia0",))


def quota(cpus: float, periods: int = 0, throttled: int = 0) -> CgroupLimit:
    """Return a group with a quota, and what it did since it was made."""
    return CgroupLimit("/pod", "/sys/fs/cgroup/pod", 2, cpus, 0.1, periods, throttled, 0.0)
