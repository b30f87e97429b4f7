"""What works here and what does not: each check says what it found, why it matters, and the fix."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from probes.base import Capability, Level, Probe
from probes.pyspy import find_pyspy
from probes.target import Target

CAP_SYS_PTRACE: Final = 19  # linux/capability.h
PTRACE_SCOPE: Final = Path("/proc/sys/kernel/yama/ptrace_scope")

DOCKER: Final = """\
docker run --cap-add=SYS_PTRACE ... YOUR_IMAGE        # then run cputax inside, or:
sudo $(command -v cputax) attach PID                  # on the host, with the host's PID of it"""
KUBERNETES: Final = """\
kubectl debug -it POD --image=python:3.11 --target=CONTAINER --profile=sysadmin -- bash
# or in the pod's spec, for the container that runs cputax:
#   shareProcessNamespace: true
#   containers: [{securityContext: {capabilities: {add: [SYS_PTRACE]}}}]"""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    level: Level
    found: str
    remedy: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the check as a JSON object."""
        return asdict(self)


def check_host() -> list[Check]:
    """Look at what does not depend on a target."""
    return [_check_kernel(), _check_pyspy(), _check_ptrace(), _check_cpus()]


def check_target(target: Target, probes: Sequence[Probe]) -> list[Check]:
    """Ask every probe what it could do on ``target``."""
    return [_from_capability(probe.check(target)) for probe in probes]


def _from_capability(capability: Capability) -> Check:
    found = capability.reason or "ready"
    return Check(f"probe {capability.probe}", capability.level, found, capability.remedy)


def _check_kernel() -> Check:
    found = f"{platform.system()} {platform.release()} {platform.machine()}"
    if not Path("/proc/thread-self/schedstat").exists():
        return Check(
            "kernel", Level.DEGRADED, f"{found}, without schedstat",
            "CPU time and run-queue wait need a kernel with CONFIG_SCHED_INFO",
        )  # fmt: skip
    return Check("kernel", Level.WORKS, found)


def _check_pyspy() -> Check:
    program = find_pyspy()
    if program is None:
        remedy = "pip install py-spy"
        return Check("py-spy", Level.UNAVAILABLE, "no py-spy beside this Python or on PATH", remedy)
    return Check("py-spy", Level.WORKS, "installed")


def _check_ptrace() -> Check:
    """Reading another process's memory is what the kernel calls a ptrace access."""
    if has_capability(CAP_SYS_PTRACE):
        return Check("memory access", Level.WORKS, "CAP_SYS_PTRACE: every process can be read")
    scope = PTRACE_SCOPE.read_text().strip() if PTRACE_SCOPE.exists() else "0"
    if scope == "0":
        return Check(
            "memory access", Level.DEGRADED, "only processes of this user can be read",
            "for others: sudo $(command -v cputax) attach PID",
        )  # fmt: skip
    return Check(
        "memory access", Level.DEGRADED,
        f"ptrace_scope is {scope}: only our own children can be read",
        "sudo $(command -v cputax) attach PID, or: sudo sysctl kernel.yama.ptrace_scope=0",
    )  # fmt: skip


def _check_cpus() -> Check:
    allowed, present = len(os.sched_getaffinity(0)), os.cpu_count() or 0
    found = f"{allowed} of {present} CPUs may be used by cputax"
    if allowed == 1:
        return Check(
            "CPUs", Level.DEGRADED, found,
            "on one CPU every sample is paid for by the server: lower --rate and --gil-rate",
        )  # fmt: skip
    return Check("CPUs", Level.WORKS, found)


def has_capability(number: int) -> bool:
    """Whether this process has the capability in its effective set (capabilities(7))."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False
