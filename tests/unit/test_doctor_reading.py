"""The doctor's evidence: what is read of a process tree and a machine, and what is never read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from probes import roles
from profiler.doctor import settings
from profiler.doctor.catalogue import diagnose
from profiler.doctor.check import Diagnosis, Outcome
from profiler.doctor.evidence import CannotTell, Evidence, Missing, Model, Packages, known
from profiler.doctor.files import parse_model, parse_yaml
from profiler.doctor.instruments import find_instruments
from profiler.doctor.machine import Machine
from profiler.doctor.reading import read_evidence
from profiler.doctor.server import parse
from tests import hosts
from tests.hosts import API, CORE, WORKER, FakeHost

SITE = "/venv/lib/python3.12/site-packages"
NOBODY = "http://127.0.0.1:9"  # the discard port
PAGE = """\
# HELP vllm:cache_config_info Information of the LLMEngine CacheConfig
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{cache_dtype="auto",enable_prefix_caching="True",engine="0"} 1.0
# TYPE vllm:request_prompt_tokens histogram
vllm:request_prompt_tokens_bucket{engine="0",le="+Inf"} 40.0
vllm:request_prompt_tokens_count{engine="0"} 40.0
vllm:request_prompt_tokens_sum{engine="0"} 200000.0
vllm:request_prompt_tokens_count{engine="1"} 10.0
vllm:request_prompt_tokens_sum{engine="1"} 50000.0
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_count{engine="0"} 50.0
vllm:time_to_first_token_seconds_sum{engine="0"} 100.0
# TYPE vllm:request_queue_time_seconds histogram
vllm:request_queue_time_seconds_count{engine="0"} 50.0
vllm:request_queue_time_seconds_sum{engine="0"} 5.0
# TYPE vllm:request_prefill_time_seconds histogram
vllm:request_prefill_time_seconds_count{engine="0"} 50.0
vllm:request_prefill_time_seconds_sum{engine="0"} 20.0
"""


def start(host: FakeHost, *options: str, environ: str = "") -> None:
    """Give the server's first process a command line and an environment."""
    cmdline = ["/usr/bin/python3", "-m", "vllm.entrypoints.openai.api_server", *options]
    (host.root / f"proc/{API}/cmdline").write_text("".join(f"{part}\0" for part in cmdline))
    (host.root / f"proc/{API}/environ").write_text(environ.replace("\n", "\0"))


def map_files(host: FakeHost, *paths: str) -> None:
    lines = [
        f"7f00000{i}0000-7f00000{i}1000 r-xp 00000000 08:01 {i}  {p}" for i, p in enumerate(paths)
    ]
    host.write(f"proc/{WORKER}/maps", "\n".join(lines))


def read(host: FakeHost) -> Evidence:
    return look(host, API)


def look(host: FakeHost, pid: int) -> Evidence:
    """Read it; the PIDs are no real ones, so nobody is asked for metrics."""
    return read_evidence(
        host.target(pid), root=host.root, metrics_url=NOBODY, pause=lambda _seconds: None
    )


def fired(host: FakeHost) -> dict[str, Diagnosis]:
    return {one.check.slug: one for one in diagnose(read(host)) if one.has_fired()}


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return hosts.healthy(tmp_path)


def test_only_variables_of_the_list_are_read_and_paths_only_as_set(host: FakeHost) -> None:
    secret = "sk-4711"
    start(
        host,
        environ=f"OPENAI_API_KEY={secret}\nHF_TOKEN={secret}\nPYTHONHASHSEED=0\n"
        f"LMCACHE_LOCAL_DISK=/mnt/{secret}\nLMCACHE_REMOTE_URL=redis://:{secret}@store\n"
        f"HOME=/home/{secret}\nLMCACHE_CONFIG_FILE=/etc/{secret}.yaml",
    )

    evidence = read(host)

    assert known(evidence.variables) == {
        "PYTHONHASHSEED": "0",
        "LMCACHE_LOCAL_DISK": "(set)",
        "LMCACHE_REMOTE_URL": "(set)",
        "LMCACHE_CONFIG_FILE": "(set)",
    }
    assert secret not in repr(evidence)


def test_processes_are_seen_with_role_affinity_and_swap(host: FakeHost) -> None:
    host.write(f"proc/{WORKER}/status", "Name:\tpython\nTracerPid:\t7\nVmSwap:\t  2048 kB")
    host.write("proc/7/comm", "gdb")

    evidence = read(host)

    (core,) = evidence.of_role(roles.ENGINE_CORE)
    (worker,) = evidence.runners
    assert (core.pid, core.allowed_cpus, set(core.seen_cpus)) == (CORE, {4, 5, 6, 7}, {4})
    assert (worker.pid, worker.swap_bytes, worker.tracer) == (WORKER, 2 << 20, "gdb (7)")
    assert isinstance(worker.allowed_cpus, Missing)
    assert [device.node for device in worker.gpus] == [hosts.GPU_NODE]


@pytest.mark.parametrize(
    ("files", "accelerator"),
    [
        (["/usr/lib/libcuda.so.570.86", f"{SITE}/torch/lib/libtorch_cuda.so"], settings.CUDA),
        (["/dev/dri/renderD128 (deleted)", "/opt/rocm/lib/libamdhip64.so.7"], settings.ROCM),
        ([f"{SITE}/torch/lib/libtorch_cpu.so"], settings.CPU),
    ],
)
def test_mapped_files_tell_what_the_model_runs_on(
    host: FakeHost, files: list[str], accelerator: str
) -> None:
    map_files(host, *files)
    (host.root / f"proc/{WORKER}/fd/1").unlink()  # without its GPU's device file

    assert settings.accelerator(read(host)) == accelerator


def test_what_the_model_runs_on_is_not_guessed(host: FakeHost) -> None:
    map_files(host, f"{SITE}/torch/lib/libtorch_cpu.so", f"{SITE}/torch/lib/libtorch_cuda.so")
    (host.root / f"proc/{WORKER}/fd/1").unlink()

    with pytest.raises(CannotTell):
        settings.accelerator(read(host))


def test_packages_model_and_files_are_found_below_the_servers_own_root(host: FakeHost) -> None:
    # Given a server in a container
    container = host.root / "container"
    (host.root / f"proc/{API}/root").symlink_to(container)
    (host.root / f"proc/{WORKER}/root").symlink_to(container)
    for name in ("aiofile", "vllm", "vllm-0.19.1.dist-info"):
        (container / SITE.lstrip("/") / name).mkdir(parents=True)
    map_files(host, f"{SITE}/torch/lib/libtorch_cpu.so")
    hub = "hf/hub/models--org--some-fp8/snapshots/abc"
    host.write(f"container/{hub}/config.json", json.dumps({"torch_dtype": "bfloat16"}))
    host.write("container/etc/lmcache.yaml", "chunk_size: 256\nsave_decode_cache: True  # why")
    host.write("container/etc/vllm.yaml", "model: org/some-fp8\nenforce-eager: true")
    start(
        host, "--config", "/etc/vllm.yaml",
        environ="HF_HOME=/hf\nLMCACHE_CONFIG_FILE=/etc/lmcache.yaml",
    )  # fmt: skip

    evidence = read(host)

    packages = known(evidence.packages)
    assert isinstance(packages, Packages)
    assert {"aiofile", "vllm"} <= packages.names
    assert evidence.version == "0.19.1"
    assert evidence.model == Model("bfloat16")
    assert evidence.lmcache_file == {"chunk_size": "256", "save_decode_cache": "True"}
    assert settings.switch(evidence, "enforce-eager") is True


def test_what_is_no_regular_file_is_not_read(host: FakeHost) -> None:
    os.mkfifo(host.root / "config.json")
    (host.root / f"proc/{API}/cwd").symlink_to(host.root)
    start(host, "--model", ".")

    assert isinstance(read(host).model, Missing)


def test_without_the_first_process_nothing_is_said_of_the_options(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    host.add(CORE, ["VLLM::EngineCore"], comm="VLLM::EngineCor")

    evidence = look(host, CORE)

    assert isinstance(evidence.arguments, Missing)
    eager = next(one for one in diagnose(evidence) if one.check.slug == "eager-mode")
    assert eager.answer.outcome is Outcome.UNKNOWN


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (hosts.healthy, set()),
        (hosts.scheduler_off_node, {"off-gpu-node"}),
        (hosts.affinity_off_node, {"off-gpu-node"}),
        (hosts.throttled, {"cpu-throttled", "few-cpus"}),  # half a CPU
    ],
)
def test_the_captured_machine(
    tmp_path: Path, case: Callable[[Path], FakeHost], expected: set[str]
) -> None:
    host = case(tmp_path)
    map_files(host, "/opt/rocm/lib/libamdhip64.so", "/dev/kfd")

    assert set(fired(host)) == expected


def test_it_says_who_is_off_its_node(tmp_path: Path) -> None:
    host = hosts.scheduler_off_node(tmp_path)
    map_files(host, "/dev/kfd")

    diagnosis = fired(host)["off-gpu-node"]

    (seen,) = diagnosis.answer.evidence
    assert seen.startswith("VLLM::EngineCore (101) ran off its GPU's node at 10 of 10 looks")
    assert "taskset -a -c -p 4-5" in diagnosis.fix


def test_throttling_during_the_look_is_told_from_that_before(tmp_path: Path) -> None:
    host = hosts.throttled(tmp_path)
    machine = Machine(host.root, [API, WORKER])
    stat = next(host.root.glob("sys/fs/cgroup/**/serving/cpu.stat"))
    begin = dict(line.split() for line in stat.read_text().splitlines() if line)
    later = {**begin, "nr_periods": int(begin["nr_periods"]) + 10}
    later["nr_throttled"] = int(begin["nr_throttled"]) + 4
    stat.write_text("".join(f"{name} {value}\n" for name, value in later.items()))

    throttling = machine.finish().throttling

    assert not isinstance(throttling, Missing)
    assert (throttling.period_count, throttling.throttled_period_count) == (10, 4)
    assert throttling.quota_cpus == 0.5


def test_instruments_around_inside_and_attached(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    host.add(50, ["/usr/bin/nsys", "profile", "python3"], comm="nsys")
    host.add(
        API, ["/usr/bin/python3", "-m", "cProfile", "-m", "vllm.entrypoints.openai.api_server"],
        parent=50,
    )  # fmt: skip
    host.add(60, ["/venv/bin/py-spy", "record", "--pid", str(API)], comm="py-spy")
    host.add(61, ["/usr/bin/perf", "record", "-p", f"9,{API}"], comm="perf")
    host.add(
        62, ["/venv/bin/py-spy", "record", "--pid", "4242", "--rate", str(API)], comm="py-spy"
    )  # fmt: skip

    found = find_instruments(host.target())

    assert found == (
        "started by nsys (50)",
        f"python -m cProfile ({API})",
        "py-spy (60) records it",
        "perf (61) records it",
    )


def test_metrics_are_added_up_over_engines() -> None:
    metrics = parse(PAGE)

    assert metrics.cache_config["enable_prefix_caching"] == "True"
    assert metrics.request_count == 50
    assert metrics.means is not None
    assert metrics.means.prompt_tokens == 5000
    assert metrics.means.front_s == pytest.approx(1.5)


def test_a_server_without_requests_has_no_means() -> None:
    assert parse("vllm:request_prompt_tokens_count 0.0\n").means is None
    assert parse("").request_count == 0


@pytest.mark.parametrize(
    ("document", "model"),
    [
        ({"torch_dtype": "float16"}, Model("float16")),
        ({"text_config": {"dtype": "bfloat16"}}, Model("bfloat16")),
        (
            {"dtype": "bfloat16", "quantization_config": {"quant_method": "fp8"}},
            Model("bfloat16", "fp8", 8),
        ),
        (
            {"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}},
            Model(None, "modelopt", 4),
        ),
        (
            {
                "quantization_config": {
                    "quant_method": "compressed-tensors",
                    "kv_cache_scheme": {"num_bits": 8},
                    "config_groups": {"group_0": {"weights": {"type": "float", "num_bits": 8}}},
                }
            },
            Model(None, "compressed-tensors", 8, has_kv_scheme=True),
        ),
        # Integers say nothing of what the cache needs.
        (
            {"dtype": "float16", "quantization_config": {"quant_method": "awq", "bits": 4}},
            Model("float16", "awq"),
        ),
        ({"dtype": 3, "quantization_config": [], "text_config": 1}, Model(None)),
    ],
)
def test_model_configurations(document: dict[str, object], model: Model) -> None:
    assert parse_model(document) == model


def test_yaml_that_nests_is_read_as_far_as_it_is_flat() -> None:
    flat = parse_yaml("# settings\nmodel: 'a/b'\nurl: redis://x:1#y\n\nport: 8000 # why\n")
    nested = parse_yaml("enforce-eager: true\ncompilation-config:\n  mode: 3\nlist: [1, 2]\n")

    assert (flat.scalars, flat.is_flat) == (
        {"model": "a/b", "url": "redis://x:1#y", "port": "8000"}, True,
    )  # fmt: skip
    assert (nested.scalars, nested.is_flat) == ({"enforce-eager": "true"}, False)
