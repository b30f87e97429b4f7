"""The doctor says what works, and hands out a remedy for what does not."""

from __future__ import annotations

import json
import os

import pytest

from probes.base import Level
from probes.target import find_target
from profiler import doctor
from profiler.doctor import Check, check_host, check_target, has_capability
from profiler.probe_set import PROBE_NAMES, make_probes
from tests.commands import run_cputax, said_error


def check_named(name: str) -> Check:
    (check,) = [check for check in check_host() if check.name == name]
    return check


def test_whatever_does_not_work_here_has_a_remedy():
    checks = check_host()

    assert {check.name for check in checks} == {"kernel", "py-spy", "memory access", "CPUs"}
    assert all(check.found for check in checks)
    assert all(check.remedy for check in checks if check.level is not Level.WORKS)


def test_without_py_spy(monkeypatch):
    monkeypatch.setattr(doctor, "find_pyspy", lambda: None)

    assert check_named("py-spy").level is Level.UNAVAILABLE
    assert "pip install py-spy" in (check_named("py-spy").remedy or "")


@pytest.mark.parametrize(
    ("is_capable", "scope", "level", "found"),
    [
        (True, "2", Level.WORKS, "CAP_SYS_PTRACE"),
        (False, "0", Level.DEGRADED, "this user"),
        (False, "1", Level.DEGRADED, "ptrace_scope is 1"),
        (False, None, Level.DEGRADED, "this user"),
    ],
)
def test_who_may_be_read(monkeypatch, tmp_path, is_capable, scope, level, found):
    # Given
    monkeypatch.setattr(doctor, "has_capability", lambda _number: is_capable)
    monkeypatch.setattr(doctor, "PTRACE_SCOPE", tmp_path / "scope")
    if scope is not None:
        (tmp_path / "scope").write_text(f"{scope}\n")

    # When
    check = check_named("memory access")

    # Then
    assert check.level is level
    assert found in check.found


def test_a_single_cpu_is_shared_with_the_server(monkeypatch):
    monkeypatch.setattr("profiler.doctor.os.sched_getaffinity", lambda _pid: {0})

    assert check_named("CPUs").level is Level.DEGRADED


def test_the_capabilities_of_root():
    # CAP_CHOWN is the first: root has it unless a container took it away
    assert has_capability(0) or os.geteuid() != 0
    assert not has_capability(63)


def test_every_probe_is_asked_about_a_target(program):
    checks = check_target(find_target(program.pid), make_probes(find_target(program.pid)))

    assert {check.name for check in checks} == {f"probe {name}" for name in PROBE_NAMES}
    levels = {check.name: check.level for check in checks}
    assert levels["probe threads"] is levels["probe gil"] is Level.WORKS


def test_the_command_prints_json_and_says_by_its_exit_code_that_something_is_missing(program):
    # Given a plain program, which has no metrics
    ended = run_cputax("doctor", program.pid, "--json")

    document = json.loads(ended.stdout)
    assert document["schema_version"] == 1
    checks = {check["name"]: check for check in document["checks"]}
    assert checks["probe server_metrics"]["level"] == "unavailable"
    assert checks["probe server_metrics"]["remedy"]
    assert ended.returncode == 4


def test_the_command_on_this_machine_alone():
    ended = run_cputax("doctor")

    assert ended.returncode in (0, 4)
    assert "py-spy" in ended.stdout
    assert ended.stderr == ""


def test_the_command_on_a_process_that_is_not_there():
    ended = run_cputax("doctor", (1 << 22) - 1)

    assert ended.returncode == 3
    assert said_error(ended.stderr)["slug"] == "target-not-found"
