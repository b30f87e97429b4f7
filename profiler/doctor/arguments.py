"""vLLM's command line as its own parser reads it.

Names may be written with dashes or underscores, a value may follow or be joined by ``=``, a switch
is negated by ``--no-``, and a JSON object may be given whole or by dotted keys
(``--compilation-config.cudagraph_mode=NONE``, ``-cc.mode 3``, ``-O3``). The command line outranks
the file that ``--config`` names. Rules of ``FlexibleArgumentParser``
(vllm/utils/argparse_utils.py, 0.32).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

_SHORT: Final = {
    "-tp": "tensor-parallel-size",
    "-pp": "pipeline-parallel-size",
    "-dp": "data-parallel-size",
    "-q": "quantization",
    "-asc": "api-server-count",
    "-sc": "speculative-config",
    "-cc": "compilation-config",
    "-O": "compilation-config",  # with dotted keys; -O3 alone is the level, see below
}
LEVEL: Final = "optimization-level"


@dataclass(frozen=True, slots=True)
class Arguments:
    """``options`` by name without its dashes; a switch that takes no value has None."""

    options: dict[str, str | None] = field(default_factory=dict)
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)  # given by dotted keys
    is_whole: bool = True  # otherwise more stands in the file that --config names

    def has(self, name: str) -> bool:
        """Whether the option was given."""
        return name in self.options

    def switch(self, name: str) -> bool | None:
        """Return whether a switch was put on or off; None when it was not given."""
        if name in self.options:
            return True
        return False if f"no-{name}" in self.options else None

    def value(self, name: str) -> str | None:
        """Return an option's value, or None."""
        return self.options.get(name)

    def object(self, name: str) -> dict[str, Any]:
        """Return an option that is a JSON object; empty when it was not given.

        Raises:
            ValueError: it is no JSON object.
        """
        text = self.options.get(name)
        try:
            given = json.loads(text) if text else {}
        except RecursionError as error:
            raise ValueError(f"--{name} nests too deep") from error
        if not isinstance(given, dict):
            raise ValueError(f"--{name} is no JSON object")
        return {**given, **self.objects.get(name, {})}


def parse_arguments(
    cmdline: Sequence[str], file: Mapping[str, str] | None = None, *, is_whole: bool = True
) -> Arguments:
    """Read a command line; what stands before the first option is left out.

    ``file`` holds the scalars of the configuration file; ``is_whole`` says whether that is all of
    what the file holds.
    """
    arguments = Arguments(is_whole=is_whole)
    words = [word for item in (file or {}).items() for word in _words(*item)]
    for name, value in _pairs([*words, *cmdline]):
        head, _, key = name.partition(".")
        if not key:
            opposite = head.removeprefix("no-") if head.startswith("no-") else f"no-{head}"
            arguments.options.pop(opposite, None)
            arguments.options[head] = value
        elif value is not None:
            _nest(arguments.objects.setdefault(head, {}), key.split("."), value)
    return arguments


def _words(key: str, value: str) -> list[str]:
    """Return a line of the file as it would stand on the command line."""
    if value.lower() in {"true", "false"}:
        return [f"--{key}" if value.lower() == "true" else f"--no-{key}"]
    return [f"--{key}", value]


def _pairs(cmdline: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Yield each option's full name and its value."""
    for place, part in enumerate(cmdline):
        word, is_joined, value = part.partition("=")
        following = cmdline[place + 1] if place + 1 < len(cmdline) else None
        if not is_joined:
            is_value = following is not None and not _is_option(following)
            value = following if is_value and following is not None else ""
        given = value if is_joined or value else None
        if word.startswith("-O") and word[2:].isdecimal():
            yield LEVEL, word[2:]
        elif word == "-O" and given and given.isdecimal():
            yield LEVEL, given
        elif word.startswith("--") and len(word) > 2:
            head, dot, key = word[2:].partition(".")
            yield head.replace("_", "-") + dot + key, given
        elif word.startswith("-"):
            short, dot, key = word.partition(".")
            if short in _SHORT:
                yield _SHORT[short] + dot + key, given


def _is_option(part: str) -> bool:
    return part.startswith("-") and not part[1:].replace(".", "").isdecimal()


def _nest(document: dict[str, Any], keys: list[str], text: str) -> None:
    """Put a dotted key's value where it belongs."""
    for key in keys[:-1]:
        inner = document.setdefault(key, {})
        if not isinstance(inner, dict):
            return
        document = inner
    try:
        document[keys[-1]] = json.loads(text)
    except (ValueError, RecursionError):
        document[keys[-1]] = text
