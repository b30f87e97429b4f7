"""What vLLM made of its options: its defaults by version, or "cannot tell".

The versions are those whose source was read (0.19 and 0.32) or in which a change was released; in
between nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from profiler.doctor import variables as names
from profiler.doctor.arguments import LEVEL, Arguments
from profiler.doctor.evidence import CannotTell, Evidence, Missing, known

CUDA: Final = "CUDA"
ROCM: Final = "ROCm"
CPU: Final = "CPU"

ASYNC_DEFAULT: Final = (0, 14)  # release notes of v0.14.0
FULL_GRAPHS_DEFAULT: Final = (0, 11)  # github.com/vllm-project/vllm/pull/25444
LEVELS_KNOWN_FIRST: Final = (0, 19)  # -O0 to -O3; before, they chose how to compile
# Block hashes start from a random number in each process up to 0.19 and from a fixed one in 0.32
# (vllm/v1/core/kv_cache_utils.py; github.com/vllm-project/vllm/pull/51875).
RANDOM_HASH_LAST: Final = (0, 19)
FIXED_HASH_FIRST: Final = (0, 32)
OFFLOAD_TO_MP_FIRST: Final = (0, 32)  # vllm/config/vllm.py, _post_init_kv_transfer_config
BATCH_TOKENIZER_LAST: Final = (0, 19)  # AsyncMicrobatchTokenizer encodes up to 32 prompts a call

T = TypeVar("T")

_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})")
_LMCACHE: Final = "LMCacheConnectorV1"
_VENDORS: Final = {0x10DE: CUDA, 0x1002: ROCM}  # PCI
_REMEDY_CONFIG: Final = "give the options on the command line, or look into the --config file"


@dataclass(frozen=True, slots=True)
class Connector:
    """A KV connector and what it was given."""

    name: str
    extra: Mapping[str, Any]

    @property
    def is_lmcache(self) -> bool:
        """Whether LMCache runs inside the server's own processes."""
        return self.name == _LMCACHE


def version(evidence: Evidence) -> tuple[int, int]:
    """Return vLLM's (major, minor)."""
    text = known(evidence.version)
    found = _VERSION.match(text.removeprefix("v"))
    if found is None:
        raise CannotTell(f"{text!r} is no version that is known", "compare with `vllm --version`")
    return int(found[1]), int(found[2])


def accelerator(evidence: Evidence) -> str:
    """Return what the model runs on: CUDA, ROCM or CPU, from what its processes have open."""
    if not evidence.runners:
        raise CannotTell("no process runs a model", "give the PID of a server: cputax ps")
    libraries = set().union(*(known(process.libraries) for process in evidence.runners))
    files = {path.rpartition("/")[2] for path in libraries}
    if _any_starts(files, "libcuda.so") or _any_starts(libraries, "/dev/nvidia"):
        return CUDA
    if _any_starts(libraries, "/dev/kfd", "/dev/dri/renderD"):
        return ROCM
    is_cpu_build = not isinstance(evidence.version, Missing) and "+cpu" in evidence.version
    is_torch_for_gpu = _any_starts(files, "libtorch_cuda", "libtorch_hip", "libtorch_xpu")
    if is_cpu_build or (_any_starts(files, "libtorch_cpu") and not is_torch_for_gpu):
        return CPU
    vendors = {gpu.vendor for process in evidence.runners for gpu in process.gpus}
    for vendor, name in _VENDORS.items():
        if vendor in vendors:
            return name
    raise CannotTell(
        "the model's processes have neither a GPU open nor a CPU build of torch mapped",
        "run cputax where /proc/PID/maps of the workers can be read",
    )


def switch(evidence: Evidence, name: str) -> bool | None:
    """Return a switch as given on the command line; None: not given, so the default holds."""
    return _given(evidence, name, lambda arguments: arguments.switch(name))


def value(evidence: Evidence, name: str) -> str | None:
    """Return an option's value as given on the command line; None: not given."""
    return _given(evidence, name, lambda arguments: arguments.value(name))


def given(evidence: Evidence, name: str) -> bool:
    """Whether an option stands on the command line, with or without a value."""
    return _given(evidence, name, lambda arguments: arguments.has(name) or None) or False


def json_object(evidence: Evidence, name: str) -> dict[str, Any]:
    """Return an option that is a JSON object; empty: not given."""

    def read(arguments: Arguments) -> dict[str, Any] | None:
        try:
            return arguments.object(name) or None
        except ValueError:
            raise CannotTell(f"--{name} is no JSON object", "look at the command line") from None

    return _given(evidence, name, read) or {}


def connectors(evidence: Evidence) -> list[Connector]:
    """Return the KV connectors; those inside a MultiConnector for itself."""
    config = json_object(evidence, "kv-transfer-config")
    found = _unfold(config)
    if value(evidence, "kv-offloading-size") is not None:
        backend = value(evidence, "kv-offloading-backend") or "native"
        if backend == "native":
            found.append(Connector("OffloadingConnector", {}))
        elif version(evidence) >= OFFLOAD_TO_MP_FIRST:
            found.append(Connector("LMCacheMPConnector", {}))
        else:
            raise CannotTell(
                f"which connector --kv-offloading-backend {backend} means here was not looked up",
                "name it: --kv-transfer-config '{\"kv_connector\": ...}'",
            )
    return found


def lmcache(evidence: Evidence) -> Connector | None:
    """Return the connector that runs LMCache inside the server, or None."""
    return next((one for one in connectors(evidence) if one.is_lmcache), None)


def lmcache_setting(evidence: Evidence, connector: Connector, name: str) -> str | None:
    """Return one of LMCache's settings as text; None where its default holds.

    It comes from the connector's own options, else from the file, else from the environment. That
    the file and the environment differ is "cannot tell": which wins changed between versions.
    """
    given = connector.extra.get(f"lmcache.{name}", connector.extra.get(name))
    if given is not None:
        return str(given)
    in_environment = known(evidence.variables).get(f"LMCACHE_{name.upper()}")
    if evidence.lmcache_file is None:
        return in_environment
    in_file = known(evidence.lmcache_file).get(name)
    if in_environment == names.PRESENT and names.is_on(in_file):
        return in_file
    if None not in (in_file, in_environment) and in_file != in_environment:
        raise CannotTell(
            f"LMCache's file and its environment variable differ about {name}",
            f"give {name} in one place only",
        )
    return in_file if in_file is not None else in_environment


def kv_dtype(evidence: Evidence) -> str:
    """Return the KV cache's type as vLLM names it; ``auto`` is the model's."""
    said = _said(evidence, "cache_dtype")
    return said if said not in {None, "auto"} else value(evidence, "kv-cache-dtype") or "auto"


def prefix_caching(evidence: Evidence) -> bool:
    """Whether the prefix cache is on; the server itself says it in its metrics."""
    said = _said(evidence, "enable_prefix_caching")
    if said in {"True", "False"}:
        return said == "True"
    given = switch(evidence, "enable-prefix-caching")
    if given is None:
        known(evidence.metrics)
        raise CannotTell(
            "the metrics do not say it, and the default depends on the model",
            "say it on the command line: --enable-prefix-caching",
        )
    return given


def graph_mode(evidence: Evidence) -> str:
    """Return the CUDA graph mode that was asked for, or the default: FULL_AND_PIECEWISE, ..."""
    config = json_object(evidence, "compilation-config")
    asked = config.get("cudagraph_mode")
    if asked is not None:
        return str(asked).upper()
    level, of = value(evidence, LEVEL), version(evidence)
    if level is not None and of < LEVELS_KNOWN_FIRST:
        raise CannotTell(
            f"what -O{level} means for graphs in vLLM {of[0]}.{of[1]} was not looked up",
            'say it: --compilation-config \'{"cudagraph_mode": "FULL_AND_PIECEWISE"}\'',
        )
    if level in {"0", "1"}:  # OPTIMIZATION_LEVEL_00 and _01
        return "PIECEWISE" if level == "1" else "NONE"
    if of >= FULL_GRAPHS_DEFAULT:
        return "FULL_AND_PIECEWISE"
    return "FULL" if config.get("full_cuda_graph") else "PIECEWISE"


def variable(evidence: Evidence, name: str) -> str | None:
    """Return a variable that the server was started with; None: not set."""
    if name not in names.SHOWN:
        raise KeyError(name)
    return known(evidence.variables).get(name)


def _said(evidence: Evidence, name: str) -> str | None:
    """Return what the server says of its cache in its metrics; None: it does not."""
    metrics = evidence.metrics
    return None if isinstance(metrics, Missing) else metrics.cache_config.get(name)


def _given(evidence: Evidence, name: str, read: Callable[[Arguments], T | None]) -> T | None:
    arguments = known(evidence.arguments)
    found = read(arguments)
    if found is None and not arguments.is_whole:
        raise CannotTell(f"{name} may stand in the file that --config names", _REMEDY_CONFIG)
    return found


def _unfold(config: Mapping[str, Any]) -> list[Connector]:
    name = config.get("kv_connector")
    if not isinstance(name, str):
        return []
    extra = config.get("kv_connector_extra_config")
    extra = extra if isinstance(extra, dict) else {}
    if name != "MultiConnector":
        return [Connector(name, extra)]
    children = extra.get("connectors")
    inner = children if isinstance(children, list) else []
    return [one for child in inner if isinstance(child, dict) for one in _unfold(child)]


def _any_starts(paths: set[str], *beginnings: str) -> bool:
    return any(path.startswith(beginnings) for path in paths)
