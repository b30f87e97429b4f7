"""Where ROCm's libraries may be: beside torch, in wheels, in ROCM_PATH, /opt, or ld's cache.

Standard library only (see the package).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

SDK_NAMES = ("librocprofiler-sdk.so.1", "librocprofiler-sdk.so.0", "librocprofiler-sdk.so")
# The attacher of 7.13 and later, and that of 7.1 and 7.2.
ROCATTACH_NAMES = ("librocprofiler-sdk-rocattach.so.1", "librocprofiler-sdk-rocattach.so")
OLD_ATTACH_NAMES = (
    "rocprofiler-sdk/librocprofv3-attach.so.1",
    "rocprofiler-sdk/librocprofv3-attach.so",
)
TOOL_NAMES = (
    "rocprofiler-sdk/librocprofiler-sdk-tool.so.1",
    "rocprofiler-sdk/librocprofiler-sdk-tool.so",
)
_NUMBERS = re.compile(r"\d+")


def library_directories(
    environ: Mapping[str, str], python_path: Sequence[str] = (), root: Path = Path("/")
) -> Iterator[Path]:
    """Yield the directories in which ROCm's libraries may be, the likeliest first.

    A wheel of torch that brings its own ROCm uses that and no other, so it stands first.

    Args:
        environ: where ``ROCM_PATH`` may be set.
        python_path: of the interpreter whose wheels count; none when its packages do not.
        root: where the file system begins.
    """
    for entry in map(Path, python_path):
        yield entry / "torch" / "lib"
    for entry in map(Path, python_path):
        if entry.is_dir():
            for wheel in sorted(entry.glob("_rocm_sdk_*")):
                yield wheel / "lib"
    if environ.get("ROCM_PATH"):
        yield Path(environ["ROCM_PATH"]) / "lib"
    opt = root / "opt"
    yield opt / "rocm" / "lib"
    installed = [*opt.glob("rocm-*"), *opt.glob("rocm/core-*")]
    for directory in sorted(installed, key=_version_of, reverse=True):
        yield directory / "lib"


def find_library(
    names: Iterable[str], directories: Iterable[Path], cache: Path | None = None
) -> Path | None:
    """Return the first library with one of these names, or None.

    Args:
        names: relative to each directory, the likeliest first.
        directories: where to look, the likeliest first.
        cache: of the dynamic linker (``/etc/ld.so.cache``), looked at last.
    """
    wanted = list(names)
    for directory in directories:
        for name in wanted:
            if (directory / name).is_file():
                return directory / name
    return _in_cache(wanted, cache) if cache is not None else None


def find_sdk(environ: Mapping[str, str]) -> Path | None:
    """Return the rocprofiler-sdk that this process would use, or None.

    ``ROCPROFILER_REGISTER_LIBRARY`` is AMD's own way to say which one.
    """
    chosen = environ.get("ROCPROFILER_REGISTER_LIBRARY")
    if chosen and Path(chosen).is_file():
        return Path(chosen)
    return find_library(SDK_NAMES, library_directories(environ, sys.path), LD_CACHE)


LD_CACHE = Path("/etc/ld.so.cache")


def _in_cache(names: list[str], cache: Path) -> Path | None:
    """Look into ld's cache (ld.so(8)), in which each path stands as a string of C."""
    try:
        content = cache.read_bytes()
    except OSError:
        return None
    for name in names:
        found = re.search(rb"(/[^\0]*/" + re.escape(name.encode()) + rb")\0", content)
        if found and Path(found[1].decode("utf-8", "replace")).is_file():
            return Path(found[1].decode("utf-8", "replace"))
    return None


def _version_of(directory: Path) -> tuple[int, ...]:
    return tuple(map(int, _NUMBERS.findall(directory.name)))
