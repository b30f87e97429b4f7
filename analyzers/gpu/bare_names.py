"""Rules of stages for functions whose class is not told, as in the names of torch's profiler.

A rule for all methods of a class, ``Worker\\..*``, says nothing of a bare name: any function of the
file could be meant. Such rules are asked last.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from analyzers.stages import Rule, bare_pattern

ANY: Final = ".*"
_ANY_METHOD = re.compile(r"(^|\|)\.\*(?=\||$)")


def strict_bare_pattern(function: str) -> str:
    """Return the pattern of bare names for a pattern of qualified ones, without any-method parts.

    It matches nothing where no part is left.
    """
    if function == ANY:
        return ANY
    kept = _ANY_METHOD.sub("", bare_pattern(function)).strip("|")
    return kept or r"(?!)"


def rules_for_bare_names(rules: Sequence[Rule]) -> list[Rule]:
    """Return the rules in an order in which those that name functions win."""
    strict = [
        replace(rule, bare=re.compile(strict_bare_pattern(rule.function.pattern))) for rule in rules
    ]
    loose = [
        rule
        for rule, one in zip(rules, strict, strict=True)
        if rule.bare.pattern != one.bare.pattern
    ]
    return [*strict, *loose]
