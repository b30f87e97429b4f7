"""Every check fires on a server with its mistake, and is silent on the same one without it."""

from __future__ import annotations

from typing import Any

import pytest
from doctor_evidence import (
    C_OPS,
    CACHE_OFF,
    CPU_FILES,
    CUDA_FILES,
    LMCACHE,
    ROCM_FILES,
    gpu,
    host,
    quota,
    server,
    two_nodes,
)

from profiler.doctor.catalogue import CHECKS, diagnose
from profiler.doctor.check import Outcome, Severity
from profiler.doctor.evidence import (
    Evidence,
    Frequency,
    HugePages,
    Means,
    Metrics,
    Missing,
    Model,
    Packages,
    Throttling,
)

CONVOY = Metrics({}, 96, Means(19_704, ttft_s=1.617, queue_s=0.0, prefill_s=0.417))
WITH_LMCACHE = ("--kv-transfer-config", LMCACHE)
STORE = ("--kv-transfer-config", '{"kv_connector": "MooncakeStoreConnector"}')
EXAMPLE = ("--kv-transfer-config", '{"kv_connector": "ExampleConnector"}')
NIXL = ("--kv-transfer-config", '{"kv_connector": "NixlConnector"}')
MULTI = (
    "--kv-transfer-config",
    '{"kv_connector": "MultiConnector", "kv_connector_extra_config": {"connectors": '
    '[{"kv_connector": "NixlConnector"}, {"kv_connector": "LMCacheConnectorV1"}]}}',
)
STORAGE_OPS = C_OPS.replace("c_ops", "native_storage_ops")
IN_EXTRA = (
    '{"kv_connector": "LMCacheConnectorV1", '
    '"kv_connector_extra_config": {"lmcache.save_decode_cache": true}}'
)
GRAPHS = "--compilation-config"
PROFILER = '{"profiler": "torch", "torch_profiler_dir": "/traces"}'
NO_STACKS = '{"profiler": "torch", "torch_profiler_with_stack": false}'
SAVING = {"balance_power": 16}
FP8 = Model("bfloat16", "fp8", 8)
FAR = {"seen_cpus": (8, 9, 8, 1)}
ON_CPU: dict[str, Any] = {"files": CPU_FILES, "version": "0.32.0+cpu"}

# (check, a server with the mistake, its severity where it is not the check's own)
FIRES: list[tuple[str, Evidence, Severity | None]] = [
    ("hash-seed", server(*WITH_LMCACHE), None),
    ("hash-seed", server(*MULTI), None),
    ("hash-seed", server(*WITH_LMCACHE, variables={"PYTHONHASHSEED": "random"}), None),
    ("hash-seed", server(*STORE, version="0.19.0"), None),
    ("hash-seed", server(*STORE, "--prefix-caching-hash-algo", "xxhash"), None),
    ("prefix-caching-off", server(*EXAMPLE, metrics=Metrics(CACHE_OFF)), None),
    ("prefix-caching-off", server(*NIXL, metrics=Metrics(CACHE_OFF)), Severity.WARNING),
    (
        "prefix-caching-off",
        server("--no-enable-prefix-caching", metrics=Metrics(CACHE_OFF)),
        Severity.INFO,
    ),
    (
        "save-decode-cache",
        server(*WITH_LMCACHE, variables={"LMCACHE_SAVE_DECODE_CACHE": "true"}),
        None,
    ),
    ("save-decode-cache", server("--kv-transfer-config", IN_EXTRA), None),
    ("save-decode-cache", server(*WITH_LMCACHE, lmcache_file={"save_decode_cache": "True"}), None),
    ("lmcache-fallback", server(*WITH_LMCACHE, files=ROCM_FILES), None),
    ("lmcache-fallback", server(*WITH_LMCACHE), None),
    ("lmcache-fallback", server(*WITH_LMCACHE, files=CUDA_FILES | {STORAGE_OPS}), None),
    (
        "aiofile-missing",
        server(
            *WITH_LMCACHE,
            variables={"LMCACHE_LOCAL_DISK": "(set)"},
            packages=Packages(frozenset({"vllm"})),
        ),
        None,
    ),
    ("wide-kv-cache", server(model=FP8), None),
    ("wide-kv-cache", server("--kv-cache-dtype=bfloat16", model=FP8), None),
    ("wide-kv-cache", server("--dtype", "float32", **ON_CPU), Severity.WARNING),
    ("eager-mode", server("--enforce-eager"), None),
    ("eager-mode", server("--enforce_eager", files=ROCM_FILES), None),
    ("partial-graphs", server(GRAPHS, '{"cudagraph_mode": "PIECEWISE"}'), None),
    ("partial-graphs", server("-cc.cudagraph_mode=none"), None),
    ("partial-graphs", server("-O1"), None),
    ("partial-graphs", server(version="0.10.2"), None),
    ("async-scheduling-off", server("--no-async-scheduling"), None),
    ("async-scheduling-off", server(version="0.13.0"), Severity.INFO),
    ("single-api-server", server(metrics=CONVOY), None),
    ("tokenizer-threads", server(variables={"RAYON_NUM_THREADS": "32"}), None),
    (
        "tokenizer-threads",
        server(api_servers=4, variables={"RAYON_NUM_THREADS": "8"}),
        None,
    ),
    (
        "tokenizer-threads",
        server(version="0.19.0", variables={"TOKENIZERS_PARALLELISM": "false"}),
        None,
    ),
    ("omp-threads", server(workers=4, variables={"OMP_NUM_THREADS": "8"}), None),
    (
        "omp-threads",
        server(
            cpus=2,
            variables={"OMP_NUM_THREADS": "8", "VLLM_CPU_OMP_THREADS_BIND": "nobind"},
            **ON_CPU,
        ),
        None,
    ),
    (
        "omp-threads",
        server(cpus=2, process={"variables": {"OMP_NUM_THREADS": "4"}}, **ON_CPU),
        None,
    ),
    ("few-cpus", server(cpus=4, workers=8), None),
    ("few-cpus", server(workers=2, host=host(throttling=Throttling((quota(2),)))), None),
    (
        "cpu-throttled",
        server(host=host(throttling=Throttling((quota(2),), 9, 4))),
        Severity.CRITICAL,
    ),
    (
        "cpu-throttled",
        server(host=host(throttling=Throttling((quota(2),), 9, 1))),
        Severity.WARNING,
    ),
    (
        "cpu-throttled",
        server(host=host(throttling=Throttling((quota(2, 900, 90),)))),
        Severity.WARNING,
    ),
    (
        "cpu-governor",
        server(host=host(frequency=Frequency("acpi-cpufreq", {"ondemand": 16}))),
        None,
    ),
    (
        "cpu-governor",
        server(host=host(frequency=Frequency("intel_pstate", {"powersave": 16}, SAVING))),
        None,
    ),
    ("off-gpu-node", server(worker_cpus=frozenset({8, 9}), process={"seen_cpus": ()}), None),
    ("off-gpu-node", server(process=FAR), None),
    ("swapped", server(process={"swap_bytes": 100 << 20}), None),
    ("huge-page-stalls", server(host=host(huge_pages=HugePages("always", "always"))), None),
    ("profiling-on", server("--profiler-config", PROFILER), None),
    ("profiling-on", server("--profiler-config", NO_STACKS), Severity.INFO),
    ("profiling-on", server(variables={"CUDA_LAUNCH_BLOCKING": "1"}), None),
    ("profiling-on", server(process={"tracer": "strace (7)"}), None),
    ("profiling-on", server(profilers=("py-spy (7) records it",)), None),
    ("profiling-on", server(version="0.9.1", variables={"VLLM_TORCH_PROFILER_DIR": "(set)"}), None),
]

# (check, a server without the mistake, what becomes of the check)
SILENT: list[tuple[str, Evidence, Outcome]] = [
    ("hash-seed", server(), Outcome.NOT_APPLICABLE),
    ("hash-seed", server(*WITH_LMCACHE, variables={"PYTHONHASHSEED": "0"}), Outcome.FINE),
    ("hash-seed", server(*WITH_LMCACHE, workers=0), Outcome.FINE),
    ("hash-seed", server(*EXAMPLE), Outcome.FINE),
    ("hash-seed", server(*STORE), Outcome.FINE),
    ("hash-seed", server(*STORE, version="0.25.0"), Outcome.UNKNOWN),
    ("hash-seed", server("--kv-transfer-config", '{"kv_connector": "X"}'), Outcome.UNKNOWN),
    ("prefix-caching-off", server(*EXAMPLE), Outcome.FINE),
    # A model that cannot have one
    ("prefix-caching-off", server(metrics=Metrics(CACHE_OFF)), Outcome.NOT_APPLICABLE),
    ("prefix-caching-off", server(metrics=Missing("no answer", "x")), Outcome.UNKNOWN),
    ("save-decode-cache", server(*WITH_LMCACHE), Outcome.FINE),
    (
        "save-decode-cache",
        server(variables={"LMCACHE_SAVE_DECODE_CACHE": "true"}),
        Outcome.NOT_APPLICABLE,
    ),
    (
        "save-decode-cache",
        server(
            *WITH_LMCACHE,
            variables={"LMCACHE_SAVE_DECODE_CACHE": "true"},
            lmcache_file={"save_decode_cache": "false"},
        ),
        Outcome.UNKNOWN,
    ),
    ("lmcache-fallback", server(*WITH_LMCACHE, files=CUDA_FILES | {C_OPS}), Outcome.FINE),
    ("lmcache-fallback", server(*WITH_LMCACHE, **ON_CPU), Outcome.NOT_APPLICABLE),
    ("aiofile-missing", server(*WITH_LMCACHE), Outcome.NOT_APPLICABLE),
    (
        "aiofile-missing",
        server(*WITH_LMCACHE, variables={"LMCACHE_GDS_PATH": "(set)"}),
        Outcome.FINE,
    ),
    ("wide-kv-cache", server(), Outcome.FINE),
    ("wide-kv-cache", server("--kv-cache-dtype", "fp8", model=FP8), Outcome.FINE),
    ("wide-kv-cache", server(metrics=Metrics({"cache_dtype": "fp8"}), model=FP8), Outcome.FINE),
    ("wide-kv-cache", server(model=Model("bfloat16", "awq")), Outcome.FINE),
    ("wide-kv-cache", server(model=FP8, **ON_CPU), Outcome.NOT_APPLICABLE),
    ("wide-kv-cache", server(model=Missing("not here", "x")), Outcome.UNKNOWN),
    ("eager-mode", server(), Outcome.FINE),
    ("eager-mode", server("--enforce-eager", **ON_CPU), Outcome.NOT_APPLICABLE),
    ("eager-mode", server(packages=Packages(frozenset({"atom"}))), Outcome.UNKNOWN),
    ("partial-graphs", server(), Outcome.FINE),
    ("partial-graphs", server(GRAPHS, '{"cudagraph_mode": "FULL"}'), Outcome.FINE),
    ("partial-graphs", server("-cc.mode=0"), Outcome.FINE),
    ("partial-graphs", server("-O1", version="0.12.0"), Outcome.UNKNOWN),
    ("partial-graphs", server("--enforce-eager"), Outcome.NOT_APPLICABLE),
    ("partial-graphs", server("-O0", **ON_CPU), Outcome.NOT_APPLICABLE),
    (
        "partial-graphs",
        server(*WITH_LMCACHE, "-O1", variables={"LMCACHE_USE_LAYERWISE": "True"}),
        Outcome.NOT_APPLICABLE,
    ),
    ("async-scheduling-off", server(), Outcome.FINE),
    ("async-scheduling-off", server("--async-scheduling", version="0.11.0"), Outcome.FINE),
    ("async-scheduling-off", server("-pp", "1"), Outcome.FINE),
    ("async-scheduling-off", server("-pp", "2"), Outcome.UNKNOWN),
    ("async-scheduling-off", server("--no-async-scheduling", **ON_CPU), Outcome.NOT_APPLICABLE),
    ("single-api-server", server(), Outcome.FINE),
    ("single-api-server", server(metrics=CONVOY, api_servers=4), Outcome.FINE),
    ("single-api-server", server(metrics=Metrics({}, 3, CONVOY.means)), Outcome.FINE),
    ("single-api-server", server(metrics=CONVOY, cpus=3), Outcome.NOT_APPLICABLE),
    ("tokenizer-threads", server(), Outcome.FINE),
    ("tokenizer-threads", server(variables={"RAYON_NUM_THREADS": "4"}), Outcome.FINE),
    ("tokenizer-threads", server(variables={"TOKENIZERS_PARALLELISM": "false"}), Outcome.FINE),
    ("omp-threads", server(), Outcome.FINE),
    ("omp-threads", server(workers=2, variables={"OMP_NUM_THREADS": "8"}), Outcome.FINE),
    # vLLM's CPU backend sets it for its workers, whatever it was started with.
    ("omp-threads", server(cpus=2, variables={"OMP_NUM_THREADS": "8"}, **ON_CPU), Outcome.FINE),
    ("few-cpus", server(cpus=3), Outcome.FINE),
    ("few-cpus", server(cpus=2, **ON_CPU), Outcome.NOT_APPLICABLE),
    ("cpu-throttled", server(), Outcome.NOT_APPLICABLE),
    (
        "cpu-throttled",
        server(host=host(throttling=Throttling((quota(8, 9000, 9),), 9, 0))),
        Outcome.FINE,
    ),
    ("cpu-governor", server(), Outcome.FINE),
    (
        "cpu-governor",
        server(
            host=host(
                frequency=Frequency("intel_pstate", {"powersave": 16}, {"balance_performance": 16})
            )
        ),
        Outcome.FINE,
    ),
    ("cpu-governor", server(host=host(frequency=None)), Outcome.NOT_APPLICABLE),
    ("off-gpu-node", server(), Outcome.FINE),
    ("off-gpu-node", server(process={"seen_cpus": (8, 1, 2, 3)}), Outcome.FINE),
    ("off-gpu-node", server(process=FAR, host=host(topology=two_nodes(12))), Outcome.FINE),
    ("off-gpu-node", server(process={"gpus": ()}), Outcome.UNKNOWN),
    ("off-gpu-node", server(process={"gpus": (gpu(node=None),)}), Outcome.UNKNOWN),
    ("swapped", server(process={"swap_bytes": 4 << 20}), Outcome.FINE),
    ("swapped", server(process={"swap_bytes": None}), Outcome.FINE),
    ("huge-page-stalls", server(), Outcome.FINE),
    ("huge-page-stalls", server(host=host(huge_pages=None)), Outcome.NOT_APPLICABLE),
    ("profiling-on", server(), Outcome.FINE),
    ("profiling-on", server(variables={"CUDA_LAUNCH_BLOCKING": "0"}), Outcome.FINE),
    ("profiling-on", server(variables={"VLLM_TORCH_PROFILER_DIR": "(set)"}), Outcome.FINE),
]


def named(cases: list[Any]) -> list[Any]:
    return [pytest.param(*case, id=f"{case[0]}-{place}") for place, case in enumerate(cases)]


@pytest.mark.parametrize(("slug", "evidence", "severity"), named(FIRES))
def test_the_mistake_is_found(slug: str, evidence: Evidence, severity: Severity | None) -> None:
    check = next(one for one in CHECKS if one.slug == slug)

    diagnosis = check.run(evidence)

    assert diagnosis.has_fired(), diagnosis.answer
    assert diagnosis.answer.evidence
    assert diagnosis.severity is (severity or check.severity)


@pytest.mark.parametrize(("slug", "evidence", "outcome"), named(SILENT))
def test_there_is_no_false_alarm(slug: str, evidence: Evidence, outcome: Outcome) -> None:
    check = next(one for one in CHECKS if one.slug == slug)

    answer = check.run(evidence).answer

    assert answer.outcome is outcome, answer
    assert answer.evidence
    assert bool(answer.remedy) == (outcome is Outcome.UNKNOWN)


def test_every_check_is_tried_both_ways() -> None:
    slugs = [check.slug for check in CHECKS]

    assert len(slugs) == len(set(slugs))
    assert {slug for slug, _, _ in FIRES} == set(slugs)
    assert {slug for slug, _, outcome in SILENT if outcome is not Outcome.UNKNOWN} == set(slugs)


@pytest.mark.parametrize("changes", [{}, ON_CPU, {"files": ROCM_FILES}])
def test_a_server_without_a_mistake_is_left_in_peace(changes: dict[str, Any]) -> None:
    found = {one.check.slug: one.answer.outcome for one in diagnose(server(**changes))}

    assert set(found.values()) <= {Outcome.FINE, Outcome.NOT_APPLICABLE}, found


def test_of_nothing_nothing_is_said() -> None:
    # Given a process tree, and nothing else that could be read
    blind = Evidence(server().processes[:1])

    outcomes = {one.answer.outcome for one in diagnose(blind)}

    assert outcomes <= {Outcome.UNKNOWN, Outcome.NOT_APPLICABLE, Outcome.FINE}
    assert Outcome.UNKNOWN in outcomes


def test_the_worst_comes_first() -> None:
    found = diagnose(server("--enforce-eager", "--no-async-scheduling", model=FP8))

    fired = [(one.check.slug, one.severity) for one in found if one.has_fired()]

    assert fired == [
        ("eager-mode", Severity.CRITICAL),
        ("async-scheduling-off", Severity.WARNING),
        ("wide-kv-cache", Severity.INFO),
    ]
    assert [one.has_fired() for one in found] == [True] * 3 + [False] * (len(found) - 3)


def test_a_fix_names_what_this_server_needs() -> None:
    found = {one.check.slug: one.fix for one in diagnose(server(metrics=CONVOY, cpus=5))}

    assert found["single-api-server"] == "vllm serve ... --api-server-count 3"


def test_settings_in_a_file_that_was_not_read_are_unknown() -> None:
    evidence = server("--config", "settings.yaml")
    hidden = evidence.arguments
    assert not isinstance(hidden, Missing)
    partial = server(arguments=type(hidden)(hidden.options, is_whole=False))

    found = {one.check.slug: one.answer for one in diagnose(partial)}

    assert found["eager-mode"].outcome is Outcome.UNKNOWN
    assert "--config" in found["eager-mode"].evidence[0]
