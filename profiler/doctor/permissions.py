"""What cputax itself may see on this machine, what it lacks, and the line that gives it."""

from __future__ import annotations

import os
import platform
import resource
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from probes.base import Capability, Level, Probe
from probes.host.files import ROOT, read_int, read_rows, read_text
from probes.pyspy import find_pyspy
from probes.target import Target

# linux/capability.h
CAP_IPC_LOCK: Final = 14
CAP_SYS_PTRACE: Final = 19
CAP_SYS_ADMIN: Final = 21
CAP_PERFMON: Final = 38
# Of a ring that perf maps for one CPU; kernel/events/core.c counts it against RLIMIT_MEMLOCK.
_RING_BYTES: Final = 2 << 20
_SECCOMP_FILTER: Final = "2"  # proc(5), Seccomp

# The others are for probes that have to be asked for.
NEEDED_BY_ATTACH: Final = frozenset({"kernel", "py-spy", "memory access"})
# What the lines below give.
CONTAINER_NEEDS: Final = frozenset({"memory access", "perf events", "locked memory", "tracefs"})
DOCKER: Final = """\
docker run --cap-add=SYS_PTRACE --cap-add=PERFMON --ulimit memlock=-1 ... YOUR_IMAGE
sudo $(command -v cputax) attach PID     # or on the host, with the host's PID of the server"""
KUBERNETES: Final = """\
kubectl debug -it POD --image=python:3.11 --target=CONTAINER --profile=sysadmin -- bash
# or in the pod's spec, for the container that runs cputax:
#   shareProcessNamespace: true
#   containers: [{securityContext: {capabilities: {add: [SYS_PTRACE, PERFMON]}}}]"""


@dataclass(frozen=True, slots=True)
class Permission:
    """One thing that cputax needs, and whether it has it."""

    name: str
    level: Level
    found: str
    remedy: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return asdict(self)


def check_host(root: Path = ROOT) -> list[Permission]:
    """Look at what does not depend on a target."""
    return [
        _check_kernel(root),
        _check_pyspy(),
        _check_ptrace(root),
        _check_perf(root),
        _check_memlock(root),
        _check_tracefs(root),
        _check_cpus(),
    ]


def check_target(target: Target, probes: Sequence[Probe]) -> list[Permission]:
    """Ask every probe what it could do on ``target``."""
    return [_from_capability(probe.check(target)) for probe in probes]


def has_capability(number: int, root: Path = ROOT) -> bool:
    """Whether this process has the capability in its effective set (capabilities(7))."""
    mask = _own_status(root).get("CapEff")
    return mask is not None and bool(int(mask, 16) >> number & 1)


def _from_capability(capability: Capability) -> Permission:
    found = capability.reason or "ready"
    return Permission(f"probe {capability.probe}", capability.level, found, capability.remedy)


def _check_kernel(root: Path) -> Permission:
    found = f"{platform.system()} {platform.release()} {platform.machine()}"
    if not (root / "proc/thread-self/schedstat").exists():
        return Permission(
            "kernel", Level.DEGRADED, f"{found}, without schedstat",
            "CPU time and run-queue wait need a kernel with CONFIG_SCHED_INFO",
        )  # fmt: skip
    return Permission("kernel", Level.WORKS, found)


def _check_pyspy() -> Permission:
    if find_pyspy() is None:
        found = "no py-spy beside this Python or on PATH"
        return Permission("py-spy", Level.UNAVAILABLE, found, "pip install py-spy")
    return Permission("py-spy", Level.WORKS, "installed")


def _check_ptrace(root: Path) -> Permission:
    """Reading another process's memory is what the kernel calls a ptrace access."""
    if has_capability(CAP_SYS_PTRACE, root):
        found = "CAP_SYS_PTRACE: every process can be read"
        return Permission("memory access", Level.WORKS, found)
    scope = read_text(root / "proc/sys/kernel/yama/ptrace_scope") or "0"
    if scope == "0":
        return Permission(
            "memory access", Level.DEGRADED, "only processes of this user can be read",
            "for others: sudo $(command -v cputax) attach PID",
        )  # fmt: skip
    return Permission(
        "memory access", Level.DEGRADED,
        f"ptrace_scope is {scope}: only our own children can be read",
        "sudo $(command -v cputax) attach PID, or: sudo sysctl kernel.yama.ptrace_scope=0",
    )  # fmt: skip


def _check_perf(root: Path) -> Permission:
    """See perf_event_open(2) and Documentation/admin-guide/perf-security.rst."""
    paranoid = read_int(root / "proc/sys/kernel/perf_event_paranoid")
    name = "perf events"
    if paranoid is None:
        found = "this kernel, or this container, has no perf events"
        return Permission(
            name, Level.UNAVAILABLE, found, "run cputax on the host, as root: CONFIG_PERF_EVENTS"
        )
    if any(has_capability(one, root) for one in (CAP_PERFMON, CAP_SYS_ADMIN)):
        return Permission(name, Level.WORKS, "CAP_PERFMON: who pushed whom off its CPU")
    if paranoid <= 0:
        return Permission(name, Level.WORKS, f"perf_event_paranoid is {paranoid}")
    found = f"perf_event_paranoid is {paranoid}"
    found += ": nothing to be seen" if paranoid > 2 else ": own threads only, not who came instead"
    if _own_status(root).get("Seccomp") == _SECCOMP_FILTER:
        found += "; a seccomp filter may forbid it altogether"
    return Permission(
        name, Level.DEGRADED, found,
        "sudo $(command -v cputax) attach PID, or: sudo sysctl kernel.perf_event_paranoid=0",
    )  # fmt: skip


def _check_memlock(root: Path) -> Permission:
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if limit == resource.RLIM_INFINITY or has_capability(CAP_IPC_LOCK, root):
        return Permission("locked memory", Level.WORKS, "no limit")
    found = f"{limit >> 10:,} KiB may be locked"
    if limit < _RING_BYTES:
        remedy = "ulimit -l unlimited     # docker run --ulimit memlock=-1 ..."
        return Permission("locked memory", Level.DEGRADED, f"{found}: small perf rings", remedy)
    return Permission("locked memory", Level.WORKS, found)


def _check_tracefs(root: Path) -> Permission:
    """Wake-ups are a tracepoint; root can open its file system without mounting it."""
    events = root / "sys/kernel/tracing/events/sched/sched_waking/id"
    if has_capability(CAP_SYS_ADMIN, root) or read_int(events) is not None:
        return Permission("tracefs", Level.WORKS, "wake-up latency can be measured")
    return Permission(
        "tracefs", Level.DEGRADED, "not readable: wake-up latency is inferred, within 12 %",
        "sudo $(command -v cputax) attach PID, or: sudo chmod a+rx /sys/kernel/tracing",
    )  # fmt: skip


def _check_cpus() -> Permission:
    allowed, present = len(os.sched_getaffinity(0)), os.cpu_count() or 0
    found = f"{allowed} of {present} CPUs may be used by cputax"
    if allowed == 1:
        return Permission(
            "CPUs", Level.DEGRADED, found,
            "on one CPU every sample is paid for by the server: lower --rate and --gil-rate",
        )  # fmt: skip
    return Permission("CPUs", Level.WORKS, found)


def _own_status(root: Path) -> dict[str, str]:
    return read_rows(root / "proc/self/status") or {}
