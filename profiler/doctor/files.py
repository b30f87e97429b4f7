"""Reads what stands on the server's disk: packages, the model's config.json, YAML files.

The paths are the server's own, so they are followed below /proc/PID/root, and what is there is
foreign: only regular files of a sane size are read.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from probes.host.files import names_in
from profiler.doctor.evidence import Missing, Model, Packages, ProcessEvidence

_FILE_BYTES: Final = 4 << 20
_SITE = re.compile(r"(.*/(?:site|dist)-packages)/")
_VERSION = re.compile(r"vllm(?:_cpu)?-(\d[^-]*)\.dist-info")
_SCALAR = re.compile(r"([\w-]+)\s*:\s+(\S.*?)\s*(?:\s#.*)?")
_FLOAT = re.compile(r"fp([48])")
_NESTING: Final = ("[", "{", "|", ">", "&", "*", "!", "#")
_PRIVILEGE: Final = "run cputax on the server's host, as its user or as root"


def read_packages(
    root: Path, processes: Iterable[ProcessEvidence]
) -> tuple[Packages | Missing, str | None]:
    """Return what is installed beside vLLM, and the version of vLLM that is written there."""
    names: set[str] = set()
    for process in processes:
        if isinstance(process.libraries, Missing):
            continue
        found = (_SITE.match(path) for path in process.libraries)
        for site in {one[1] for one in found if one}:
            names.update(names_in(_inside(root, process.pid, site)))
    if not names:
        return Missing("where its Python packages are cannot be told", _PRIVILEGE), None
    versions = [one[1] for one in map(_VERSION.fullmatch, sorted(names)) if one]
    return Packages(frozenset(_top_name(name) for name in names)), next(iter(versions), None)


def read_model(
    root: Path, pid: int, model: str | None, homes: Mapping[str, str], quantization: str | None
) -> Model | Missing:
    """Return what the model's config.json says; ``homes`` are the variables that lead to caches."""
    if model is None:
        return Missing("the command line names no model", "look into the --config file")
    for path in _model_paths(root, pid, model, homes):
        document = _read_json(path)
        if document is not None:
            return parse_model(document, quantization)
    remedy = "run cputax where the model's files are; or compare the dtypes by hand"
    return Missing("the model's config.json cannot be read from here", remedy)


def parse_model(document: Mapping[str, Any], quantization: str | None = None) -> Model:
    """Read the weights' types from a config.json (transformers; text_config in a vision model)."""
    inner = document.get("text_config")
    layers = [document, inner] if isinstance(inner, dict) else [document]
    dtypes = [layer.get(key) for layer in layers for key in ("dtype", "torch_dtype")]
    dtype = next((one for one in dtypes if isinstance(one, str)), None)
    scheme = document.get("quantization_config")
    scheme = scheme if isinstance(scheme, dict) else {}
    method = quantization or scheme.get("quant_method")
    has_kv_scheme = any(scheme.get(key) for key in ("kv_cache_scheme", "kv_cache_quant_algo"))
    return Model(
        dtype,
        method if isinstance(method, str) else None,
        _float_bits(str(method), scheme),
        has_kv_scheme,
    )


@dataclass(frozen=True, slots=True)
class FlatYaml:
    """The scalars at the top of a YAML file, as text; ``is_flat`` when there is nothing else."""

    scalars: Mapping[str, str]
    is_flat: bool


def read_yaml(root: Path, pid: int, path: str) -> FlatYaml | None:
    """Read the settings of a process's configuration file; None when it cannot be read."""
    text = _read_regular(_inside(root, pid, path))
    return None if text is None else parse_yaml(text)


def parse_yaml(text: str) -> FlatYaml:
    """Read ``name: scalar`` lines; lists, maps and multi-line text are left out, and said so."""
    scalars = {}
    is_flat = True
    for line in text.splitlines():
        pair = _SCALAR.fullmatch(line)
        if pair and not pair[2].startswith(_NESTING):
            scalars[pair[1]] = pair[2].strip("\"'")
        elif line.strip() and not line.lstrip().startswith(("#", "---")):
            is_flat = False
    return FlatYaml(scalars, is_flat)


def _float_bits(method: str, scheme: Mapping[str, Any]) -> int | None:
    """Return the bits of weights stored as small floats; None for integers, and for what is wide.

    Methods name it (fp8, mxfp4), or their algorithm does (modelopt: NVFP4), or each group of layers
    says type and bits (compressed-tensors).
    """
    named = _FLOAT.search(f"{method} {scheme.get('quant_algo', '')}".lower())
    if named:
        return int(named[1])
    groups = scheme.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else []:
        weights = group.get("weights") if isinstance(group, dict) else None
        if isinstance(weights, dict) and weights.get("type") == "float":
            bits = weights.get("num_bits")
            return bits if isinstance(bits, int) else None
    return None


def _model_paths(root: Path, pid: int, model: str, homes: Mapping[str, str]) -> list[Path]:
    near = _inside(root, pid, model) / "config.json"
    if model.startswith("/"):
        return [near]
    # Where huggingface_hub keeps its files: HF_HUB_CACHE, else HF_HOME/hub.
    hubs = [homes[name] + end for name, end in _HUBS if name in homes]
    repository = "models--" + model.replace("/", "--")
    found = [near]
    for hub in hubs:
        snapshots = _inside(root, pid, hub) / repository / "snapshots"
        found += [snapshots / name / "config.json" for name in names_in(snapshots)]
    return found


_HUBS: Final = (("HF_HUB_CACHE", ""), ("HF_HOME", "/hub"), ("HOME", "/.cache/huggingface/hub"))


def _inside(root: Path, pid: int, path: str) -> Path:
    """Return where the file that ``path`` is to a process shows from here."""
    process = root / "proc" / str(pid)
    return process / "root" / path.lstrip("/") if path.startswith("/") else process / "cwd" / path


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        document = json.loads(_read_regular(path) or "")
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _read_regular(path: Path) -> str | None:
    try:
        # Without waiting for the other end of a FIFO.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        return file.read(_FILE_BYTES).decode("utf-8", "replace")


def _top_name(name: str) -> str:
    return name.partition(".")[0].partition("-")[0].lower()
