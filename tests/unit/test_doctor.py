"""The command: what cputax may see here, what is wrong with a server, and the exit code."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from doctor_evidence import server as made_server

from probes.base import Level
from probes.target import find_target
from profiler.commands import doctor as doctor_command
from profiler.doctor import permissions
from profiler.doctor.catalogue import CHECKS
from profiler.doctor.evidence import Evidence
from profiler.doctor.permissions import Permission, check_host, check_target, has_capability
from profiler.probe_set import PROBE_NAMES, make_probes
from tests.commands import run_cputax, said_error
from tests.programs import Program

WIDTH = 100
ALL_CAPABILITIES = "000001ffffffffff"
NO_CAPABILITIES = "0000000000000000"


def machine(root: Path, *, capabilities: str = NO_CAPABILITIES, seccomp: str = "0") -> Path:
    """Make a machine on which cputax has these capabilities."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/status").write_text(f"CapEff:\t{capabilities}\nSeccomp:\t{seccomp}\n")
    (root / "proc/thread-self").mkdir()
    (root / "proc/thread-self/schedstat").write_text("1 2 3\n")
    return root


def set_sysctl(root: Path, name: str, value: str) -> None:
    path = root / "proc/sys/kernel" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{value}\n")


def named(found: list[Permission], name: str) -> Permission:
    (one,) = [permission for permission in found if permission.name == name]
    return one


def run_on(
    monkeypatch: pytest.MonkeyPatch, program: Program, evidence: Evidence, *options: str
) -> tuple[int, str]:
    """Run the command on a server of which ``evidence`` is seen."""
    monkeypatch.setattr(doctor_command, "read_evidence", lambda *_args, **_named: evidence)
    runner = CliRunner(env={"COLUMNS": str(WIDTH)})
    ended = runner.invoke(
        doctor_command.command, [str(program.pid), *options], standalone_mode=False
    )
    assert ended.exception is None, ended.exception
    return int(ended.return_value), ended.stdout


def test_whatever_does_not_work_here_has_a_remedy() -> None:
    found = check_host()

    assert all(one.found for one in found)
    assert all(one.remedy for one in found if one.level is not Level.WORKS)


def test_whoever_may_do_everything_lacks_nothing(tmp_path: Path) -> None:
    root = machine(tmp_path, capabilities=ALL_CAPABILITIES)
    set_sysctl(root, "perf_event_paranoid", "4")
    set_sysctl(root, "yama/ptrace_scope", "3")

    levels = {one.name: one.level for one in check_host(root)}

    wanted = {"kernel", "memory access", "perf events", "locked memory", "tracefs"}
    assert {levels[name] for name in wanted} == {Level.WORKS}


def test_without_py_spy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permissions, "find_pyspy", lambda: None)

    found = named(check_host(), "py-spy")

    assert found.level is Level.UNAVAILABLE
    assert "pip install py-spy" in (found.remedy or "")


@pytest.mark.parametrize(
    ("scope", "said"),
    [("0", "this user"), ("1", "ptrace_scope is 1"), (None, "this user")],
)
def test_who_may_be_read(tmp_path: Path, scope: str | None, said: str) -> None:
    root = machine(tmp_path)
    if scope is not None:
        set_sysctl(root, "yama/ptrace_scope", scope)

    found = named(check_host(root), "memory access")

    assert found.level is Level.DEGRADED
    assert said in found.found


@pytest.mark.parametrize(
    ("paranoid", "seccomp", "level", "said"),
    [
        ("-1", "0", Level.WORKS, "perf_event_paranoid is -1"),
        ("2", "0", Level.DEGRADED, "own threads only"),
        ("4", "0", Level.DEGRADED, "nothing to be seen"),
        ("2", "2", Level.DEGRADED, "seccomp"),
        (None, "0", Level.UNAVAILABLE, "no perf events"),
    ],
)
def test_who_may_count_events(
    tmp_path: Path, paranoid: str | None, seccomp: str, level: Level, said: str
) -> None:
    root = machine(tmp_path, seccomp=seccomp)
    if paranoid is not None:
        set_sysctl(root, "perf_event_paranoid", paranoid)

    found = named(check_host(root), "perf events")

    assert found.level is level
    assert said in found.found


def test_locked_memory_is_told_in_kib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(permissions.resource, "getrlimit", lambda _which: (64 << 10, 64 << 10))

    found = named(check_host(machine(tmp_path)), "locked memory")

    assert found.level is Level.DEGRADED
    assert found.found.startswith("64 KiB")


def test_a_single_cpu_is_shared_with_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("profiler.doctor.permissions.os.sched_getaffinity", lambda _pid: {0})

    assert named(check_host(), "CPUs").level is Level.DEGRADED


def test_the_capabilities_of_root() -> None:
    # CAP_CHOWN is the first: root has it unless a container took it away
    assert has_capability(0) or os.geteuid() != 0
    assert not has_capability(63)


def test_every_probe_is_asked_about_a_target(program: Program) -> None:
    target = find_target(program.pid)

    found = check_target(target, make_probes(target))

    assert {one.name for one in found} == {f"probe {name}" for name in PROBE_NAMES}
    levels = {one.name: one.level for one in found}
    assert levels["probe threads"] is levels["probe gil"] is Level.WORKS


def test_a_plain_program_is_asked_for_no_settings(program: Program) -> None:
    ended = run_cputax("doctor", program.pid, "--json")

    document = json.loads(ended.stdout)
    assert document["schema_version"] == 2
    assert document["checks"] == document["failed"] == []
    found = {one["name"]: one for one in document["permissions"]}
    assert found["probe server_metrics"]["level"] == "not applicable"
    assert found["probe gil"]["level"] == "works"
    assert ended.returncode == 0


@pytest.mark.parametrize(
    ("name", "exit_code"), [("probe stacks", 4), ("py-spy", 4), ("probe gpu_counters", 0)]
)
def test_it_matters_whether_attach_uses_by_itself_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, server: Program, name: str, exit_code: int
) -> None:
    missing = Permission(name, Level.UNAVAILABLE, "missing", "get it")
    monkeypatch.setattr(doctor_command, "check_target", lambda *_args: [missing])

    code, printed = run_on(monkeypatch, server, made_server())

    assert code == exit_code
    assert "try: get it" in printed
    assert run_on(monkeypatch, server, made_server(), "--fail-on", "never")[0] == 0


def test_the_command_on_this_machine_alone() -> None:
    ended = run_cputax("doctor")

    assert ended.returncode in (0, 4)
    assert "py-spy" in ended.stdout
    assert ended.stderr == ""


def test_the_command_on_a_process_that_is_not_there() -> None:
    ended = run_cputax("doctor", (1 << 22) - 1)

    assert ended.returncode == 3
    assert said_error(ended.stderr)["slug"] == "target-not-found"


def test_a_server_is_looked_at_from_outside(server: Program) -> None:
    # Given what looks like `vllm serve tiny` with metrics
    ended = run_cputax("doctor", server.pid, "--json", "--fail-on", "never")

    document = json.loads(ended.stdout)
    assert document["server"] == {
        "pid": server.pid, "kind": "vllm", "model": "tiny", "version": "0.0.1",
    }  # fmt: skip
    assert [one["slug"] for one in document["checks"] if one["outcome"] == "fires"] == []
    assert {one["slug"] for one in document["checks"]} == {check.slug for check in CHECKS}
    assert ended.returncode == 0


@pytest.mark.parametrize(
    ("fail_on", "exit_code", "failed"),
    [
        ("critical", 1, ["eager-mode"]),
        ("warning", 1, ["eager-mode", "async-scheduling-off"]),
        ("never", 0, []),
    ],
)
def test_the_exit_code_is_a_gate(
    monkeypatch: pytest.MonkeyPatch, server: Program, fail_on: str, exit_code: int,
    failed: list[str],
) -> None:  # fmt: skip
    evidence = made_server("--enforce-eager", "--no-async-scheduling")

    code, printed = run_on(monkeypatch, server, evidence, "--json", "--fail-on", fail_on)

    document = json.loads(printed)
    assert code == exit_code
    assert document["failed"] == failed
    eager = next(one for one in document["checks"] if one["slug"] == "eager-mode")
    assert (eager["severity"], eager["outcome"]) == ("critical", "fires")
    assert eager["fix"] == "remove --enforce-eager"
    assert "why" in eager


def test_a_warning_does_not_break_the_usual_gate(
    monkeypatch: pytest.MonkeyPatch, server: Program
) -> None:
    evidence = made_server("--no-async-scheduling")

    code, _ = run_on(monkeypatch, server, evidence)

    assert code == 0


def test_people_see_what_fired_why_and_the_fix(
    monkeypatch: pytest.MonkeyPatch, server: Program
) -> None:
    evidence = made_server("--enforce-eager", "--config", "x")

    _, printed = run_on(monkeypatch, server, evidence)

    assert max(map(len, printed.splitlines())) <= WIDTH
    told = [line.strip() for line in printed.splitlines()]
    title = told.index("critical The model runs without CUDA or HIP graphs [eager-mode]")
    assert title < told.index("seen  --enforce-eager") < told.index("fix   remove --enforce-eager")
    assert f"{len(CHECKS)} checks: 1 fired" in printed
    assert "not applicable" in printed
    assert "wide-kv-cache" not in printed


def test_all_lists_the_quiet_checks_too(monkeypatch: pytest.MonkeyPatch, server: Program) -> None:
    _, printed = run_on(monkeypatch, server, made_server(), "--all")

    assert all(check.slug in printed for check in CHECKS)
    assert max(map(len, printed.splitlines())) <= WIDTH


def test_text_from_the_server_cannot_play_with_the_terminal(
    monkeypatch: pytest.MonkeyPatch, server: Program
) -> None:
    evidence = made_server(variables={"OMP_NUM_THREADS": "99", "CUDA_LAUNCH_BLOCKING": "\x1b[2J"})

    _, printed = run_on(monkeypatch, server, evidence)

    assert "CUDA_LAUNCH_BLOCKING=?[2J" in printed
    assert "\x1b" not in printed
