"""Lists of CPUs, and small files that are not there, refused, or not what they should be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.cpu_lists import format_list, parse_list
from probes.host.files import names_in, read_bytes, read_int, read_list, read_text


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("0-3,8", (0, 1, 2, 3, 8)), ("5\n", (5,)), ("", ()), (" (null)\n", ()), ("1,0-1", (0, 1))],
)
def test_lists_in_the_kernel_s_format(text, numbers):
    assert parse_list(text) == numbers


@pytest.mark.parametrize("text", ["a", "3-1", "-1", "1,,2", "0-4294967295", "1-", "0:2"])
def test_what_is_no_list_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011  (int's own words, or ours)
        parse_list(text)


@given(st.sets(st.integers(0, 300)))
def test_a_list_survives_being_written_and_read(numbers):
    assert parse_list(format_list(numbers)) == tuple(sorted(numbers))


def test_runs_are_written_short():
    assert format_list([7, 1, 2, 3, 5, 2]) == "1-3,5,7"


def test_what_cannot_be_read_is_unknown(tmp_path):
    (tmp_path / "directory").mkdir()
    (tmp_path / "garbage").write_bytes(b"\xff\xfe")

    for reader in (read_text, read_bytes, read_int, read_list):
        assert reader(tmp_path / "absent") is None
        assert reader(tmp_path / "directory") is None  # reading it fails, opening does not
    assert read_int(tmp_path / "garbage") is None
    assert read_list(tmp_path / "garbage") is None
    assert names_in(tmp_path / "garbage") == []


def test_a_number_may_be_hexadecimal(tmp_path):
    (tmp_path / "class").write_text("0x030200\n")

    assert read_int(tmp_path / "class", base=16) == 0x030200
    assert read_int(tmp_path / "class") is None
