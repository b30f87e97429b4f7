"""Python functions in which a thread waits for the GPU to finish."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from importlib import resources
from typing import Final

from analyzers.gpu.bare_names import strict_bare_pattern

PART: Final = "wait_device"  # of rules in stages/*.toml: the frame is such a wait
# https://docs.pytorch.org/docs/stable/cuda.html: synchronize, and the methods of Stream and Event.
_TORCH: Final = (r"torch/cuda/(__init__|streams)\.py", r"(.*\.)?synchronize")


@cache
def _rules() -> tuple[tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]], ...]:
    """Return pairs of patterns: of the file, of qualified names, of names without their class."""
    source = resources.files("analyzers") / "stages" / "vllm.toml"
    document = tomllib.loads(source.read_text(encoding="utf-8"))
    pairs = [(one["file"], one["function"]) for one in document["rule"] if one.get("part") == PART]
    return tuple(
        (
            re.compile(f"(?:^|/)(?:{file})$"),
            re.compile(function),
            re.compile(strict_bare_pattern(function)),
        )
        for file, function in [_TORCH, *pairs]
    )


@cache
def is_device_wait(function: str, file: str) -> bool:
    """Return whether this function, qualified or by its bare name, waits for the GPU."""
    return any(
        path.search(file) is not None
        and (qualified if "." in function else bare).fullmatch(function) is not None
        for path, qualified, bare in _rules()
    )
