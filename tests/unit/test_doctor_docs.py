"""The table of docs/doctor.md is the catalogue's, word for word."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from profiler.doctor.catalogue import CHECKS
from profiler.doctor.check import Check, Severity
from profiler.doctor.variables import HIDDEN, SHOWN

PAGE = Path(__file__).parents[2] / "docs" / "doctor.md"
HEAD = ["Check", "Severity", "Reads", "Fires when", "Why it costs", "Fix"]
TEXT_WIDTH = 84  # beside the words "seen", "why" and "fix" in 100 columns
VARIABLE = re.compile(r"(?:LMCACHE|VLLM)_[A-Z_]+|PYTHONHASHSEED|\w+_NUM_THREADS")


def row(check: Check) -> list[str]:
    """Return a check as the table has it."""
    fix = "<br>".join(f"`{line}`" for line in check.fix.splitlines())
    cells = [
        f"`{check.slug}`", check.severity.label, check.reads, check.fires_when,
        f"**{check.title}.** {check.why}", fix,
    ]  # fmt: skip
    return [cell.replace("|", "\\|") for cell in cells]


def documented() -> list[list[str]]:
    """Return the rows of the page's table of checks."""
    lines = PAGE.read_text().splitlines()
    head = f"| {' | '.join(HEAD)} |"
    first = lines.index(head) + 2
    rows = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return rows


def test_the_table_and_the_catalogue_are_the_same() -> None:
    assert documented() == [row(check) for check in CHECKS]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.slug)
def test_a_check_says_what_people_need(check: Check) -> None:
    texts = (check.title, check.reads, check.fires_when, check.why, check.fix)

    assert all(texts)
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", check.slug)
    assert check.why.endswith(".")
    assert not check.title.endswith(".")
    assert max(map(len, check.fix.splitlines())) <= TEXT_WIDTH
    assert check.severity in Severity


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.slug)
def test_a_variable_that_a_check_speaks_of_is_one_that_may_be_read(check: Check) -> None:
    spoken = VARIABLE.findall(f"{check.fires_when} {check.fix}")

    assert set(spoken) <= {*SHOWN, *HIDDEN}
