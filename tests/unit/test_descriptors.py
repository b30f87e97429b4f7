"""How many files this process may open."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from probes.descriptors import allow_many_descriptors


@pytest.fixture
def hard_limit() -> Iterator[int]:
    """Lower the soft limit for the test; yield the hard one."""
    soft, hard = before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft // 2, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_soft_limit_is_raised_to_the_hard_one(hard_limit: int) -> None:
    allow_many_descriptors()

    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard_limit, hard_limit)


def test_a_kernel_that_refuses_leaves_the_limit_as_it_is(
    hard_limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    def refuse(_which: int, _limits: tuple[int, int]) -> None:
        raise ValueError("not allowed to raise maximum limit")

    with monkeypatch.context() as patch:
        patch.setattr(resource, "setrlimit", refuse)
        allow_many_descriptors()

    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before
