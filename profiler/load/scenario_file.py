"""Scenarios as TOML and JSON: every name and type is checked before anything is sent."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final

from profiler.load.arrivals import Arrivals
from profiler.load.scenario import Kind, Scenario, ScenarioInvalid, WarmUp


def from_json(table: dict[str, Any]) -> Scenario:
    """Make a scenario of names and values, as TOML or `Scenario.to_json` has them.

    Raises:
        ScenarioInvalid: a name or a value is not one of a scenario's.
    """
    name = table.get("name")
    if not isinstance(name, str):
        raise ScenarioInvalid(str(name), "it needs a name")
    values = dict(table)
    warm_up = values.get("warm_up", {})
    values["warm_up"] = {"requests": warm_up} if isinstance(warm_up, int) else warm_up
    if not isinstance(values["warm_up"], dict):
        raise ScenarioInvalid(name, "warm_up must be a number of requests, or a table")
    _check(name, values, Scenario)
    _check(name, values["warm_up"], WarmUp)
    try:
        values["kind"] = Kind(values.get("kind", Kind.CHAT))
        values["arrivals"] = Arrivals(values.get("arrivals", Arrivals.POISSON))
    except ValueError as error:
        raise ScenarioInvalid(name, str(error)) from error
    values["warm_up"] = WarmUp(**values["warm_up"])
    return Scenario(**values)


def read_scenarios(path: Path) -> list[Scenario]:
    """Read the ``[[scenario]]`` tables of a TOML file; ``[defaults]`` hold for all of them.

    Raises:
        ScenarioInvalid: it cannot be read, or holds something that is no scenario.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ScenarioInvalid(str(path), f"cannot be read: {error}") from error
    defaults = document.pop("defaults", {})
    tables = document.pop("scenario", None)
    if document or not isinstance(defaults, dict) or not isinstance(tables, list) or not tables:
        raise ScenarioInvalid(str(path), "needs [[scenario]] tables and at most [defaults] beside")
    if not all(isinstance(table, dict) for table in tables):
        raise ScenarioInvalid(str(path), "scenario must be written as [[scenario]]")
    scenarios = [from_json({**defaults, **table}) for table in tables]
    names = [scenario.name for scenario in scenarios]
    if len(set(names)) < len(names):
        raise ScenarioInvalid(str(path), "two scenarios have the same name")
    return scenarios


def choose(
    scenarios: Sequence[Scenario], only: Sequence[str], *, scale: float, shared_prompt: bool
) -> list[Scenario]:
    """Return the scenarios called ``only`` (empty: all), scaled; `shared_prompt` for all of them.

    Raises:
        ScenarioInvalid: there is none of such a name.
    """
    names = [scenario.name for scenario in scenarios]
    for name in only:
        if name not in names:
            raise ScenarioInvalid(name, f"is none of {', '.join(names)}")
    chosen = [scenario for scenario in scenarios if not only or scenario.name in only]
    return [
        replace(one.scaled(scale), shared_prompt=shared_prompt or one.shared_prompt)
        for one in chosen
    ]


# What a value may be, by the annotation of its field; an int will do for a float, a bool for none.
_TYPES: Final = {
    "str": (str,),
    "bool": (bool,),
    "int": (int,),
    "int | None": (int, type(None)),
    "float": (int, float),
    "float | None": (int, float, type(None)),
}


def _check(name: str, values: dict[str, Any], owner: type[Scenario] | type[WarmUp]) -> None:
    kinds = {each.name: str(each.type) for each in fields(owner)}
    for key, value in values.items():
        if key not in kinds:
            raise ScenarioInvalid(name, f"{key} is nothing a scenario has")
        allowed = _TYPES.get(kinds[key])
        is_wrong_bool = isinstance(value, bool) and kinds[key] != "bool"
        if allowed is not None and (is_wrong_bool or not isinstance(value, allowed)):
            raise ScenarioInvalid(name, f"{key} must be a {kinds[key].removesuffix(' | None')}")
