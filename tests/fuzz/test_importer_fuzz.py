"""Spoiled foreign files, a few of each format: never anything but our errors.

`tests.fuzz.fuzz_importers` does the same for as long as you like, in a process with limits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.fuzz_importers import SEEDS, read_checked
from tests.fuzz.mutations import spoil_file

HOSTILE = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@dataclass(frozen=True)
class Whole:
    """A format's small files."""

    name: str
    content: dict[Path, bytes] = field(repr=False)

    @property
    def paths(self) -> list[Path]:
        return list(self.content)


@pytest.fixture(params=list(SEEDS))
def whole(request: pytest.FixtureRequest, tmp_path: Path) -> Whole:
    paths = SEEDS[request.param](tmp_path)
    if not paths:
        pytest.skip("no small file of this format")
    return Whole(request.param, {path: path.read_bytes() for path in paths})


def test_whole_files_are_taken(whole):
    assert read_checked(whole.name, whole.paths)


@HOSTILE
@given(seed=st.integers(0, 2**32))
def test_spoiled_files_are_taken_or_refused(whole, seed):
    for path, content in whole.content.items():
        path.write_bytes(content)
    random = Random(seed)

    spoil_file(random, random.choice(whole.paths))

    read_checked(whole.name, whole.paths)
