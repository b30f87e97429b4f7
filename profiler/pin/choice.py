"""A plan of the user's own: masks named on the command line, or in a file that --plan has made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from collectors.cpu_lists import format_list, parse_list
from collectors.errors import CputaxError, ExitCode
from profiler.pin.affinity import Mask
from profiler.pin.plan import Placement, Plan

_WHY = "as you said"


class ChoiceInvalid(CputaxError):
    """A mask that the user named makes no sense here."""

    slug = "cpus-invalid"
    exit_code = ExitCode.USAGE


class PlanFileInvalid(CputaxError):
    """The file holds no plan for this server."""

    slug = "plan-file-invalid"
    exit_code = ExitCode.BAD_INPUT


def with_choices(plan: Plan, choices: Sequence[str], allowed: Mask) -> Plan:
    """Return the plan with masks of the user's for some processes.

    Args:
        plan: the plan to change.
        choices: each ``ROLE=LIST`` or ``PID=LIST``, as ``engine_core=4-5``.
        allowed: the CPUs that the server may use.

    Raises:
        ChoiceInvalid: it names no process, or CPUs that the server may not use.
    """
    placements = list(plan.placements)
    for choice in choices:
        who, _, text = choice.partition("=")
        mask = _mask(text, allowed, choice)
        meant = [
            index for index, one in enumerate(placements)
            if who in (one.member.role, str(one.member.pid))
        ]  # fmt: skip
        if not meant:
            names = sorted({one.member.role for one in placements})
            raise ChoiceInvalid(
                f"{who!r} is no process of this server",
                f"give one of its PIDs, or a role: {', '.join(names)}",
            )
        for index in meant:
            placements[index] = replace(placements[index], proposed=mask, why=_WHY)
    return Plan(tuple(placements), () if choices else plan.notes)


def from_file(plan: Plan, path: Path, allowed: Mask) -> Plan:
    """Return the plan that a file holds, for the same processes.

    Raises:
        PlanFileInvalid: it is no such file, or was made for other processes.
        ChoiceInvalid: it names CPUs that the server may not use.
    """
    try:
        document = json.loads(path.read_text())
        wanted = {int(one["pid"]): one["proposed"] for one in document["placements"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PlanFileInvalid(
            f"{path} holds no plan ({type(error).__name__})",
            "make one, and edit it: cputax pin --plan PID --json > plan.json",
        ) from error
    strangers = wanted.keys() - {one.member.pid for one in plan.placements}
    if strangers:
        raise PlanFileInvalid(
            f"{path} was made for other processes (PID {min(strangers)} is none of this server)",
            "make it anew: cputax pin --plan PID --json > plan.json",
        )
    placements = []
    for one in plan.placements:
        text = wanted.get(one.member.pid)
        mask = None if text is None else _mask(str(text), allowed, f"{one.member.pid}={text}")
        placements.append(Placement(one.member, mask, f"as {path.name} says"))
    return Plan(tuple(placements))


def _mask(text: str, allowed: Mask, choice: str) -> Mask:
    try:
        mask = frozenset(parse_list(text))
    except ValueError:
        mask = frozenset()
    if not mask or not mask <= allowed:
        raise ChoiceInvalid(
            f"{choice!r}: the server may use CPU {format_list(allowed)}",
            "name who and some of these CPUs, as --cpus engine_core=0-1",
        )
    return mask
