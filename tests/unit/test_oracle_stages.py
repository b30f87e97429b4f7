"""The oracle's table of stages names functions that exist and book that stage."""

from __future__ import annotations

import importlib
import inspect
from functools import reduce

import pytest

from profiler.oracle.stages import STAGES, Place, Stage
from profiler.oracle.truth import ledger as ledger_module

OWN_PLACES = [
    (place, stage)
    for places in STAGES.values()
    for place, stage in places.items()
    if place.file.startswith("profiler/")
]


def resolve(place: Place) -> object:
    module = importlib.import_module(place.file.removesuffix(".py").replace("/", "."))
    return reduce(getattr, place.function.split("."), module)


@pytest.mark.parametrize(("place", "stage"), OWN_PLACES)
def test_every_place_is_a_function_of_that_file(place: Place, stage: Stage) -> None:
    function = inspect.unwrap(resolve(place))  # type: ignore[arg-type]

    assert inspect.isfunction(function)
    assert function.__code__.co_qualname == place.function
    assert function.__code__.co_filename.endswith(place.file)


@pytest.mark.parametrize(
    ("place", "stage"), [pair for pair in OWN_PLACES if pair[1] != Stage.DISPATCH]
)
def test_every_place_books_its_stage(
    place: Place, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Spy(Exception):
        pass

    class Entered:
        def enter(self, entered: str) -> str:
            raise Spy(entered)

    monkeypatch.setattr(ledger_module._current, "ledger", Entered())
    function = resolve(place)

    with pytest.raises(Spy, match=f"^{stage}$"):
        function()  # type: ignore[operator]
