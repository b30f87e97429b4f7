"""The only environment variables that are ever read or shown: settings, no names, keys or paths."""

from __future__ import annotations

from typing import Final

HASH_SEED: Final = "PYTHONHASHSEED"
SAVE_DECODE: Final = "LMCACHE_SAVE_DECODE_CACHE"
HASH_ALGORITHM: Final = "LMCACHE_PRE_CACHING_HASH_ALGORITHM"
LAYERWISE: Final = "LMCACHE_USE_LAYERWISE"
ENABLE_PD: Final = "LMCACHE_ENABLE_PD"
ENABLE_P2P: Final = "LMCACHE_ENABLE_P2P"
OMP_THREADS: Final = "OMP_NUM_THREADS"
OMP_BIND: Final = "VLLM_CPU_OMP_THREADS_BIND"
RAYON_THREADS: Final = "RAYON_NUM_THREADS"
TOKENIZERS_PARALLELISM: Final = "TOKENIZERS_PARALLELISM"
RUST_FRONTEND: Final = "VLLM_USE_RUST_FRONTEND"

# Set, these make every call slower: they wait for the GPU after each launch, or log each call.
SLOWING: Final = (
    "CUDA_LAUNCH_BLOCKING",
    "HIP_LAUNCH_BLOCKING",
    "AMD_SERIALIZE_KERNEL",
    "AMD_SERIALIZE_COPY",
    "VLLM_TRACE_FUNCTION",
    "PYTHONASYNCIODEBUG",
    "PYTHONTRACEMALLOC",
    "PYTHONPROFILEIMPORTTIME",
    "TORCH_SHOW_DISPATCH_TRACE",
)
SHOWN: Final = (
    HASH_SEED,
    SAVE_DECODE,
    HASH_ALGORITHM,
    LAYERWISE,
    ENABLE_PD,
    ENABLE_P2P,
    OMP_THREADS,
    OMP_BIND,
    RAYON_THREADS,
    TOKENIZERS_PARALLELISM,
    RUST_FRONTEND,
    *SLOWING,
)

# Paths: only whether they are set is used, and where they lead; they are never shown.
TORCH_PROFILER_DIR: Final = "VLLM_TORCH_PROFILER_DIR"
DISK: Final = "LMCACHE_LOCAL_DISK"
GDS: Final = "LMCACHE_GDS_PATH"
REMOTE: Final = "LMCACHE_REMOTE_URL"
LMCACHE_FILE: Final = "LMCACHE_CONFIG_FILE"
MODEL_HOMES: Final[tuple[str, ...]] = ("HF_HUB_CACHE", "HF_HOME", "HOME")
PRESENT: Final = "(set)"  # stands for their values
HIDDEN: Final = (TORCH_PROFILER_DIR, DISK, GDS, REMOTE, LMCACHE_FILE, *MODEL_HOMES)

_MOST_DIGITS: Final = 9
_OFF: Final = frozenset({"", "0", "false", "f", "no", "n", "off"})


def is_on(value: str | None) -> bool:
    """Whether a variable's or a YAML scalar's text means yes."""
    return value is not None and value.strip().strip("\"'").lower() not in _OFF


def thread_count(value: str | None) -> int | None:
    """Return a variable's number of threads, as ``8`` or OpenMP's ``8,4``; None: it is none."""
    first = (value or "").partition(",")[0].strip()
    return int(first) if first.isdecimal() and len(first) < _MOST_DIGITS else None
