"""Errors are told apart by errno, and each says what to do next."""

from __future__ import annotations

import errno

import pytest

from collectors import errors
from collectors.errors import CputaxError, ExitCode, output_error
from probes.keeper import KeeperGone


def every_error() -> list[type[CputaxError]]:
    found = [
        each
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, CputaxError) and each is not CputaxError
    ]
    assert len(found) > 8
    return [*found, KeeperGone]


def test_each_error_has_a_slug_of_its_own():
    slugs = [each.slug for each in every_error()]

    assert len(set(slugs)) == len(slugs)
    assert CputaxError.slug not in slugs


@pytest.mark.parametrize(
    ("number", "slug", "exit_code"),
    [
        (errno.ENOSPC, "output-full", ExitCode.GATE_OR_PARTIAL),
        (errno.EDQUOT, "output-full", ExitCode.GATE_OR_PARTIAL),
        (errno.EFBIG, "output-full", ExitCode.GATE_OR_PARTIAL),
        (errno.EEXIST, "output-exists", ExitCode.USAGE),
        (errno.EACCES, "output-not-writable", ExitCode.PERMISSION),
        (errno.EROFS, "output-not-writable", ExitCode.PERMISSION),
        (errno.ENOENT, "output-not-writable", ExitCode.PERMISSION),
    ],
)
def test_a_refused_write_is_told_by_its_number(number, slug, exit_code):
    # Given the number, and a text that says something else
    refused = OSError(number, "some other words")

    # When
    shown = output_error(refused, "my.capture")

    # Then
    assert (shown.slug, shown.exit_code) == (slug, exit_code)
    assert "my.capture" in shown.message
    assert shown.remedy


def test_an_unusual_refusal_names_its_number():
    assert "EIO" in output_error(OSError(errno.EIO, ""), "x").message
    assert "unknown" in output_error(OSError("no number"), "x").message
