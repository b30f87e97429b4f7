"""Checks of LMCache inside the server: what it copies when, with which code, and to where."""

from __future__ import annotations

from typing import Final

from profiler.doctor import settings
from profiler.doctor import variables as names
from profiler.doctor.check import Answer, Check, Severity, fine, fires, not_applicable
from profiler.doctor.evidence import Evidence, known

# lmcache/__init__.py; native_storage_ops is another one, which is there in any case.
_EXTENSIONS: Final = ("c_ops.", "xpu_ops.")
_NO_LMCACHE: Final = "LMCache does not run inside this server"


def _ask_save_decode(evidence: Evidence) -> Answer:
    connector = settings.lmcache(evidence)
    if connector is None:
        return not_applicable(_NO_LMCACHE)
    given = settings.lmcache_setting(evidence, connector, "save_decode_cache")
    if names.is_on(given):
        return fires(f"save_decode_cache is {given}")
    return fine("save_decode_cache is off")


def _ask_extension(evidence: Evidence) -> Answer:
    if settings.lmcache(evidence) is None:
        return not_applicable(_NO_LMCACHE)
    accelerator = settings.accelerator(evidence)
    if accelerator == settings.CPU:
        return not_applicable("LMCache has no compiled operations for CPU servers")
    mapped = set().union(*(known(process.libraries) for process in evidence.runners))
    compiled = sorted(path for path in mapped if _is_extension(path))
    if compiled:
        return fine(f"mapped: {compiled[0].rpartition('/')[2]}")
    return fires(
        "LMCacheConnectorV1, and no process has LMCache's c_ops mapped",
        fix=_BUILD_HIP if accelerator == settings.ROCM else _BUILD_CUDA,
    )


def _is_extension(path: str) -> bool:
    directory, _, file = path.rpartition("/")
    return directory.endswith("/lmcache") and file.startswith(_EXTENSIONS)


def _ask_aiofile(evidence: Evidence) -> Answer:
    connector = settings.lmcache(evidence)
    if connector is None:
        return not_applicable(_NO_LMCACHE)
    tiers = [
        name
        for name in ("local_disk", "gds_path")
        if names.is_on(settings.lmcache_setting(evidence, connector, name))
    ]
    if not tiers:
        return not_applicable("LMCache has no disk tier")
    if "aiofile" in known(evidence.packages).names:
        return fine(f"{tiers[0]} is set, and aiofile is installed")
    return fires(f"{tiers[0]} is set", "no aiofile beside vLLM in its site-packages")


_BUILD_HIP: Final = """\
git clone https://github.com/LMCache/LMCache && cd LMCache
BUILD_WITH_HIP=1 pip install -e . --no-build-isolation
python -c "import torch, lmcache.c_ops as c; print(c.__file__)"   # must end in .so"""
_BUILD_CUDA: Final = """\
pip install --force-reinstall --no-deps lmcache     # the wheel for this CUDA and this torch
python -c "import torch, lmcache.c_ops as c; print(c.__file__)"   # must end in .so"""

CHECKS: Final = (
    Check(
        "save-decode-cache",
        "LMCache stores every decoded token",
        Severity.CRITICAL,
        "environ, --kv-transfer-config, LMCache's file",
        "LMCACHE_SAVE_DECODE_CACHE, or save_decode_cache elsewhere, is on",
        "Each decode step is copied to the CPU before the next may run: stalls of 100 to 250 s "
        "were seen, for text that is hardly ever reused (LMCache study, MI300X).",
        "unset LMCACHE_SAVE_DECODE_CACHE     # or in LMCache's file: save_decode_cache: false",
        _ask_save_decode,
    ),
    Check(
        "lmcache-fallback",
        "LMCache runs without its compiled operations",
        Severity.CRITICAL,
        "maps of the workers, command line",
        "LMCache runs inside a GPU server and no worker has its c_ops mapped",
        "KV blocks are then moved by Python: 1.7 times slower than no LMCache at all (ATOM "
        "study, MI300X). Nothing in the log says so.",
        _BUILD_HIP,
        _ask_extension,
    ),
    Check(
        "aiofile-missing",
        "LMCache has a disk tier, and aiofile is not installed",
        Severity.WARNING,
        "environ, LMCache's file, site-packages",
        "LMCACHE_LOCAL_DISK or LMCACHE_GDS_PATH is set and there is no aiofile",
        "The disk tier then fails to import, or writes while the event loop waits (ATOM study). "
        "With it, the 95th percentile of TTFT was 41 % lower than with CPU memory alone.",
        "pip install aiofile",
        _ask_aiofile,
    ),
)
