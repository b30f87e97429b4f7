"""Checks of CPU time: how many CPUs the server may use, how fast they run, and whose they are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from collectors.cpu_lists import format_list
from probes import roles
from profiler.doctor import settings
from profiler.doctor import variables as names
from profiler.doctor.check import Answer, Check, Severity, fine, fires, not_applicable
from profiler.doctor.evidence import Evidence, Missing, ProcessEvidence, known

# A period in which a group stood still now and then is how a quota works; above this share of
# them it costs, and above the second one the group mostly stands.
_THROTTLED_RATIO: Final = 0.05
_STANDING_RATIO: Final = 0.25
_ENOUGH_PERIODS: Final = 50  # 5 s of the usual 100 ms, in which something was runnable
# Their governor "powersave" is not slow by itself: the preference decides.
_DRIVERS_WITH_PREFERENCE: Final = frozenset({"intel_pstate", "amd-pstate-epp"})
_SAVING_PREFERENCES: Final = frozenset({"power", "balance_power"})
_NO_BINDING: Final = "nobind"


@dataclass(frozen=True, slots=True)
class AllowedCpus:
    """How many CPUs some processes may use together, and how that was told."""

    count: float
    said: str


def allowed_cpus(evidence: Evidence, processes: Iterable[ProcessEvidence]) -> AllowedCpus:
    """Count the CPUs that ``processes`` may run on, within the quotas over the server."""
    allowed = frozenset[int]().union(*(known(process.allowed_cpus) for process in processes))
    throttling = evidence.host.throttling
    quota = None if isinstance(throttling, Missing) else throttling.quota_cpus
    if quota is not None and quota < len(allowed):
        return AllowedCpus(quota, f"a quota of {quota:g} CPUs")
    plural = "" if len(allowed) == 1 else "s"
    said = f"{len(allowed)} CPU{plural} allowed ({format_list(allowed)})"
    return AllowedCpus(len(allowed), said)


def _ask_cpu_count(evidence: Evidence) -> Answer:
    if settings.accelerator(evidence) == settings.CPU:
        return not_applicable("the model itself runs on the CPUs, and takes what there is")
    busy = evidence.of_role(roles.API_SERVER, roles.ENGINE_CORE, roles.WORKER)
    cpus = allowed_cpus(evidence, evidence.processes)
    seen = f"{len(busy)} API servers, engine cores and workers, {cpus.said}"
    if cpus.count >= len(busy):
        return fine(seen)
    fix = f"docker run --cpus={len(busy)} ...     # Kubernetes: resources.limits.cpu: {len(busy)}"
    return fires(seen, fix=fix)


def _ask_omp_threads(evidence: Evidence) -> Answer:
    runners = evidence.runners
    if not runners:
        return not_applicable("no process runs a model")
    started = settings.variable(evidence, names.OMP_THREADS)
    is_bound = (
        settings.accelerator(evidence) == settings.CPU
        and settings.variable(evidence, names.OMP_BIND) != _NO_BINDING
    )
    counts = []
    for runner in runners:
        # vLLM's CPU backend sets the variable for each worker, unless told to bind nothing.
        text = runner.variables.get(names.OMP_THREADS, None if is_bound else started)
        count = names.thread_count(text)
        if count is not None:
            counts.append(count)
    if not counts:
        return fine(f"{names.OMP_THREADS} is left to vLLM")
    cpus = allowed_cpus(evidence, runners)
    seen = f"{names.OMP_THREADS} adds up to {sum(counts)} in {len(counts)} worker(s), {cpus.said}"
    if sum(counts) <= math.ceil(cpus.count):
        return fine(seen)
    each = max(1, int(cpus.count) // len(counts))
    return fires(seen, fix=f"{names.OMP_THREADS}={each} vllm serve ...     # or leave it unset")


def _ask_throttling(evidence: Evidence) -> Answer:
    throttling = known(evidence.host.throttling)
    quota = throttling.quota_cpus
    if quota is None:
        return not_applicable("no CPU quota over the server, as far as it shows from here")
    limited = f"a quota of {quota:g} CPUs"
    look = f"the last {evidence.looked_s:.1f} s"
    if throttling.throttled_period_count:
        ratio = throttling.throttled_period_count / max(throttling.period_count, 1)
        seen = f"stood still in {ratio * 100:.0f} % of the periods of {look}"
        if ratio > _THROTTLED_RATIO:
            severity = Severity.CRITICAL if ratio > _STANDING_RATIO else Severity.WARNING
            return fires(limited, seen, fix=_raise_quota(quota), severity=severity)
        return fine(limited, seen)
    for limit in throttling.limits:
        periods, throttled = limit.period_count or 0, limit.throttled_period_count or 0
        if periods >= _ENOUGH_PERIODS and throttled / periods > _THROTTLED_RATIO:
            seen = (
                f"stood still in {throttled / periods * 100:.0f} % of its {periods} periods so far"
            )
            return fires(
                limited, seen, f"not in {look}", fix=_raise_quota(quota), severity=Severity.WARNING
            )
    return fine(limited, f"hardly ever used up, and not in {look}")


def _raise_quota(quota: float) -> str:
    more = math.ceil(quota) * 2
    return (
        f"docker update --cpus={more} CONTAINER\n"
        "# Kubernetes: raise or remove resources.limits.cpu; requests alone give no quota"
    )


def _ask_governor(evidence: Evidence) -> Answer:
    frequency = evidence.host.frequency
    if frequency is None:
        return not_applicable("no cpufreq here: the host under this machine chooses the clock")
    if frequency.driver in _DRIVERS_WITH_PREFERENCE and set(frequency.governors) <= {
        "powersave",
        "performance",
    }:
        saving = set(frequency.preferences) & _SAVING_PREFERENCES
        seen = f"{frequency.driver}, energy preference {_said(frequency.preferences)}"
        return fires(seen) if saving else fine(seen)
    seen = f"{frequency.driver}, governor {_said(frequency.governors)}"
    return fine(seen) if set(frequency.governors) == {"performance"} else fires(seen)


def _said(values: Mapping[str, int]) -> str:
    return ", ".join(f"{value} ({count} CPUs)" for value, count in values.items()) or "unknown"


CHECKS: Final = (
    Check(
        "few-cpus",
        "Fewer CPUs than processes that want one all the time",
        Severity.WARNING,
        "process tree, affinity, cgroups, maps of the workers",
        "a GPU server may use fewer CPUs than it has API servers, engine cores and workers",
        "Engine cores and workers busy-poll shared memory: one that waits for a CPU keeps the GPU "
        "waiting with it. On two cores, 90 % of the engine's samples were such polling.",
        "docker run --cpus=N ...     # N: API servers + engine cores + workers, at least",
        _ask_cpu_count,
    ),
    Check(
        "omp-threads",
        "More OpenMP threads than CPUs",
        Severity.WARNING,
        "environ of the server and of its workers, affinity, cgroups",
        "OMP_NUM_THREADS, added up over the workers, is more than the CPUs they may use",
        "A parallel region ends when its last thread has had a CPU, and OpenMP threads spin while "
        "they wait: they push off the very thread that they wait for.",
        "unset OMP_NUM_THREADS",
        _ask_omp_threads,
    ),
    Check(
        "cpu-throttled",
        "The CPU quota stops the server",
        Severity.CRITICAL,
        "cpu.max and cpu.stat of its cgroup and of those above",
        "the group stood still in more than 5 % of the periods while it was looked at (critical: "
        "25 %), or, as warning, since it was made",
        "All threads stop to the end of the period, which is usually 100 ms, also the one that "
        "feeds the GPU: of 1,599 ms in the run queue, 1,490 were the quota's (20 % of a CPU).",
        "docker update --cpus=N CONTAINER",
        _ask_throttling,
    ),
    Check(
        "cpu-governor",
        "The kernel saves power on the CPUs",
        Severity.INFO,
        "/sys/devices/system/cpu/*/cpufreq",
        "a governor other than performance; with intel_pstate or amd-pstate-epp an energy "
        "preference for power",
        "The CPU speeds up after the work has begun, and the steps of a server are short. The "
        "published study expects 0.5 to 1 %; it did not measure it.",
        "sudo cpupower frequency-set -g performance",
        _ask_governor,
    ),
)
