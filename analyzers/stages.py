"""Which stage a stack belongs to, by the rules in ``stages/*.toml``.

A stack is read from its leaf to its root; the first frame that a rule matches decides. A rule
matches a frame when ``file`` matches the end of the frame's path at a path separator, and
``function`` its whole qualified name. ``is_leaf_only`` rules see the leaf only, rules with
``roles`` only processes of those roles, ``is_native`` rules only frames that are not Python.
Between rules that match one frame the file's ``order`` decides. ``is_fallback`` rules are asked
only when no other rule matches any frame of the stack. What no rule matches is `UNKNOWN`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from analyzers.intervals import Intervals, empty, intervals
from analyzers.timeline import Thread, Timeline, column, runs_by_thread

UNKNOWN: Final = "unknown"  # a stack that no rule knows
IDLE: Final = "idle"
SPIN_WAIT: Final = "spin_wait"
# Which rule files a target's kind is read with; the first file's rules go first.
FILES: Final = {
    "vllm": ("vllm", "python"),
    "oracle": ("oracle", "python"),
    "python": ("python",),
}
_PYTHON_FILE = re.compile(r"\.pyx?$|^<|^$")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, compiled. ``bare`` is for names that carry no class, as up to CPython 3.10."""

    stage: str
    file: re.Pattern[str]
    function: re.Pattern[str]
    bare: re.Pattern[str]
    roles: frozenset[str]
    is_leaf_only: bool
    is_fallback: bool
    is_native: bool


def load_rules(kind: str) -> list[Rule]:
    """Return the rules for a target of this kind, the ones that win first."""
    return list(_load(FILES.get(kind, FILES["python"])))


@cache
def _load(names: tuple[str, ...]) -> tuple[Rule, ...]:
    rules: list[Rule] = []
    for name in names:
        source = resources.files("analyzers") / "stages" / f"{name}.toml"
        document = tomllib.loads(source.read_text(encoding="utf-8"))
        ranks = {stage: rank for rank, stage in enumerate(document["order"])}
        entries: list[dict[str, Any]] = document["rule"]
        rules += [_rule(one) for one in sorted(entries, key=lambda one: ranks[one["stage"]])]
    return tuple(rules)


def _rule(entry: dict[str, Any]) -> Rule:
    return Rule(
        stage=entry["stage"],
        file=re.compile(f"(?:^|/)(?:{entry['file']})$"),
        function=re.compile(entry["function"]),
        bare=re.compile(bare_pattern(entry["function"])),
        roles=frozenset(entry.get("roles", ())),
        is_leaf_only=entry.get("is_leaf_only", False),
        is_fallback=entry.get("is_fallback", False),
        is_native=entry.get("is_native", False),
    )


def bare_pattern(function: str) -> str:
    r"""Return the pattern for the last dotted part of the names that ``function`` matches.

    ``(A|B)\.run|C\.stop`` becomes ``run|stop``. A look-ahead that excludes a method must exclude
    the bare name too.
    """
    function = function.replace(r"(?!.*\.(", r"(?!(?:.*\.)?(")
    alternatives, depth, start, position = [], 0, 0, 0
    while position < len(function):
        character = function[position]
        if function.startswith(r"\.", position) and depth == 0:
            start = position + 2
        if character == "\\":
            position += 2
            continue
        depth += (character == "(") - (character == ")")
        if character == "|" and depth == 0:
            alternatives.append(function[start:position])
            start = position + 1
        position += 1
    return "|".join([*alternatives, function[start:]])


class StageMap:
    """Decides for frames and stacks; remembers what it decided."""

    def __init__(self, rules: Sequence[Rule], *, has_qualified_names: bool = True) -> None:
        self._rules = rules
        self._has_qualified_names = has_qualified_names
        self._of_file: dict[str, list[Rule]] = {}
        self.stages = [UNKNOWN, *dict.fromkeys(rule.stage for rule in rules)]
        self._codes = {stage: code for code, stage in enumerate(self.stages)}

    def code(self, stage: str) -> int:
        """Return the number that stands for a stage in arrays; -1 if no rule leads to it."""
        return self._codes.get(stage, -1)

    def _matching(self, function: str, file: str) -> list[Rule]:
        candidates = self._of_file.get(file)
        if candidates is None:
            is_python = _PYTHON_FILE.search(file) is not None
            candidates = self._of_file[file] = [
                rule
                for rule in self._rules
                if not (rule.is_native and is_python) and rule.file.search(file)
            ]
        if self._has_qualified_names:
            return [rule for rule in candidates if rule.function.fullmatch(function)]
        return [rule for rule in candidates if rule.bare.fullmatch(function)]

    def frame(self, function: str, file: str, role: str) -> tuple[int, int, int]:
        """Return what a frame decides as leaf, below a leaf, and as fallback; -1: nothing."""
        decisions = [-1, -1, -1]
        for rule in self._matching(function, file):
            if rule.roles and role not in rule.roles:
                continue
            code = self._codes[rule.stage]
            if rule.is_fallback:
                places: Iterable[int] = () if rule.is_leaf_only else (2,)
            else:
                places = (0,) if rule.is_leaf_only else (0, 1)
            for place in places:
                if decisions[place] < 0:
                    decisions[place] = code
        return decisions[0], decisions[1], decisions[2]

    def stack(self, frames: Sequence[tuple[str, str]], role: str) -> str:
        """Return the stage of one stack given root first as (function, file)."""
        fallback = -1
        for depth, (function, file) in enumerate(reversed(frames)):
            as_leaf, inside, last_resort = self.frame(function, file, role)
            decided = as_leaf if depth == 0 else inside
            if decided >= 0:
                return self.stages[decided]
            if fallback < 0:
                fallback = last_resort
        return self.stages[fallback] if fallback >= 0 else UNKNOWN


@dataclass(frozen=True, slots=True, eq=False)
class StackStages:
    """The stage code of every stack of a capture, per role."""

    map: StageMap
    codes: dict[str, NDArray[np.int16]]  # role -> stage code by stack id
    leaves: dict[int, tuple[str, str]]  # stack id -> function and file of its leaf

    def stage(self, role: str, stack: NDArray[np.int32]) -> NDArray[np.int16]:
        """Return the stage codes of stacks; one that the tables do not hold is unknown."""
        codes = self.codes[role]
        is_known = (stack >= 0) & (stack < len(codes))
        return np.where(is_known, codes[np.where(is_known, stack, 0)], 0).astype(np.int16)


def classify(timeline: Timeline) -> StackStages:
    """Return the stages of all stacks in the capture, for each role in it."""
    capture = timeline.capture
    table = capture.table("frames")
    frames = dict(
        zip(
            table["frame"].to_pylist(),
            zip(table["function"].to_pylist(), table["file"].to_pylist(), strict=True),
            strict=True,
        )
    )
    has_qualified_names = any("." in function for function, _ in frames.values())
    rules = load_rules(capture.manifest.target.kind)
    stage_map = StageMap(rules, has_qualified_names=has_qualified_names)
    roles = {process.role for process in timeline.processes.values()}
    stacks = capture.table("stacks")
    pairs = zip(stacks["stack"].to_pylist(), stacks["frame"].to_pylist(), strict=True)
    leaves = {stack: frames[frame] for stack, frame in pairs if frame in frames}
    codes = {role: _codes(timeline, stage_map, frames, role) for role in roles}
    return StackStages(stage_map, codes, leaves)


def shown(timeline: Timeline, thread: Thread, stages: Collection[str]) -> Intervals:
    """Return when a thread's stacks were of one of these stages."""
    runs = timeline.once(runs_by_thread).get(thread.track)
    if runs is None:
        return empty()
    known = timeline.once(classify)
    codes = known.stage(thread.process.role, runs.stack)
    is_shown = np.isin(codes, [known.map.code(stage) for stage in stages])
    return intervals(runs.start[is_shown], runs.end[is_shown])


def _codes(
    timeline: Timeline, stage_map: StageMap, frames: dict[int, tuple[str, str]], role: str
) -> NDArray[np.int16]:
    """Walk the prefix tree once, parents first: a stack's stage is its leaf's or its caller's."""
    stacks = timeline.capture.table("stacks")
    ids = column(stacks, "stack", np.int32)
    size = int(ids.max()) + 1 if len(ids) else 1
    decisions = {frame: stage_map.frame(*names, role) for frame, names in frames.items()}
    undecided = (-1, -1, -1)
    # As the caller of something: what the stack up to here decides, strictly and as fallback.
    strict = [-1] * size
    fallback = [-1] * size
    codes = np.zeros(size, np.int16)
    columns = (stacks[name].to_pylist() for name in ("stack", "parent", "frame"))
    for stack, parent, frame in zip(*columns, strict=True):
        as_leaf, inside, last_resort = decisions.get(frame, undecided)
        # Interning gives a parent before its children; a file that says otherwise has no caller.
        has_caller = 0 <= parent < stack
        above = strict[parent] if has_caller else -1
        above_fallback = fallback[parent] if has_caller else -1
        strict[stack] = inside if inside >= 0 else above
        fallback[stack] = last_resort if last_resort >= 0 else above_fallback
        decided = as_leaf if as_leaf >= 0 else above
        code = decided if decided >= 0 else fallback[stack]
        codes[stack] = max(code, 0)
    return codes
