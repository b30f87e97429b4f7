"""The command line: help, options, exit codes, and errors that can be acted on."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from profiler.cli import COMMANDS, cli
from profiler.options import Duration, Pid
from tests.commands import run_cputax, said_error


def test_help_names_every_command():
    # When
    shown = CliRunner().invoke(cli, ["--help"])

    # Then
    assert shown.exit_code == 0
    assert all(name in shown.output for name in COMMANDS)


@pytest.mark.parametrize("name", ["ps", "attach", "analyze", "import", "doctor"])
def test_each_command_explains_itself_with_an_example(name):
    shown = CliRunner().invoke(cli, [name, "--help"])

    assert shown.exit_code == 0
    assert "Example" in shown.output


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("30s", 30.0), ("2m", 120.0), ("1m30s", 90.0), ("500ms", 0.5), ("1.5h", 5400.0), (7.0, 7.0)],
)
def test_a_duration_has_units(given, seconds):
    assert Duration().convert(given, None, None) == seconds


@pytest.mark.parametrize("given", ["30", "", "s", "-3s", "0s", "2 m", "1d", "30s and more"])
def test_a_duration_without_a_known_unit_is_refused(given):
    with pytest.raises(click.BadParameter, match="duration"):
        Duration().convert(given, None, None)


@pytest.mark.parametrize("given", ["0", "-1", "abc", "12.5", str(1 << 22), "99999999999999999999"])
def test_what_cannot_be_a_pid_is_refused(given):
    with pytest.raises(click.BadParameter, match="process id"):
        Pid().convert(given, None, None)


@pytest.mark.parametrize(
    "arguments",
    [
        ["attach"],
        ["attach", "-p", "12", "13"],
        ["attach", "12", "-d", "30"],
        ["attach", "12", "--rate", "0"],
        ["attach", "12", "--probe", "nonsense"],
        ["attach", "1", "--probe", "gil", "--no-probe", "gil"],
        ["analyze"],
        ["nonsense"],
    ],
)
def test_wrong_usage_exits_with_2_and_no_traceback(arguments):
    ended = run_cputax(*arguments)

    assert ended.returncode == 2
    assert "Error" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_path_that_is_no_capture_is_a_bad_input(tmp_path):
    ended = run_cputax("analyze", tmp_path / "nothing")

    error = said_error(ended.stderr)
    assert ended.returncode == 5
    assert error["slug"] == "capture-invalid"
    assert str(tmp_path / "nothing") in error["message"]
