"""A server's tree is found from any of its PIDs, and everybody in it has a role."""

from __future__ import annotations

from pathlib import Path

import pytest

from collectors.errors import TargetExited, TargetNotFound, TargetNotPython, TargetReplaced
from probes import roles
from probes.target import Target, find_servers, find_target
from tests.fakeproc import PYTHON, FakeProc

SERVE = [PYTHON, "/usr/bin/vllm", "serve", "facebook/opt-125m", "--port", "8000"]
TRACKER = [PYTHON, "-c", "from multiprocessing.resource_tracker import main;main(5)"]
SPAWN = [PYTHON, "-c", "from multiprocessing.spawn import spawn_main; spawn_main(7)"]


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    return FakeProc(tmp_path / "proc")


def a_large_server(proc: FakeProc, prefix: str = "VLLM") -> list[int]:
    """Two API servers, two data-parallel engines with two tensor-parallel workers each."""
    proc.add(100, SERVE, comm="vllm")
    proc.add(101, TRACKER, parent=100)
    proc.add(102, [f"{prefix}::DPCoordinator"], parent=100)
    proc.add(103, [f"{prefix}::APIServer_0"], parent=100)
    proc.add(104, [f"{prefix}::APIServer_1"], parent=100)
    proc.add(110, [f"{prefix}::EngineCore_DP0"], parent=100)
    proc.add(120, [f"{prefix}::EngineCore_DP1"], parent=100)
    # Started in an order that is not that of their ranks
    proc.add(111, [f"{prefix}::Worker_DP0_TP1"], parent=110)
    proc.add(112, [f"{prefix}::Worker_DP0_TP0"], parent=110)
    proc.add(121, [f"{prefix}::Worker_DP1_TP1_EP3"], parent=120)
    proc.add(122, [f"{prefix}::Worker_DP1_TP0_EP2"], parent=120)
    return [100, 101, 102, 103, 104, 110, 111, 112, 120, 121, 122]


def roles_of(target: Target) -> dict[int, str]:
    return {process.pid: process.role for process in target.processes.values()}


@pytest.mark.parametrize("prefix", ["VLLM", "my-server", "team_a.7"])
def test_a_large_server_is_the_same_tree_from_each_of_its_pids(proc, prefix):
    # Given
    pids = a_large_server(proc, prefix)

    # When
    found = [find_target(pid, proc.procfs) for pid in pids]

    # Then
    expected = {
        100: roles.LAUNCHER,
        101: roles.RESOURCE_TRACKER,
        102: roles.DP_COORDINATOR,
        103: roles.API_SERVER,
        104: roles.API_SERVER,
        110: roles.ENGINE_CORE,
        120: roles.ENGINE_CORE,
        **dict.fromkeys([111, 112, 121, 122], roles.WORKER),
    }
    assert all(target.root_pid == 100 for target in found)
    assert all(target.kind == "vllm" for target in found)
    assert all(roles_of(target) == expected for target in found)
    assert found[0].model == "facebook/opt-125m"


def test_workers_are_numbered_by_their_ranks_not_by_their_pids(proc):
    a_large_server(proc)

    target = find_target(100, proc.procfs)

    ranks = {process.pid: process.rank for process in target.of_role(roles.WORKER)}
    assert ranks == {112: 0, 111: 1, 122: 2, 121: 3}


@pytest.mark.parametrize(
    "cmdline",
    [
        SERVE,
        [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", "facebook/opt-125m"],
        [PYTHON, "-X", "dev", "-m", "vllm.entrypoints.cli.main", "serve", "facebook/opt-125m"],
        [PYTHON, "-O", "/opt/bin/vllm", "serve", "--model=facebook/opt-125m"],
    ],
)
def test_each_way_to_start_a_single_server(proc, cmdline):
    proc.add(100, cmdline)
    proc.add(110, ["VLLM::EngineCore"], parent=100)

    target = find_target(110, proc.procfs)

    assert roles_of(target) == {100: roles.API_SERVER, 110: roles.ENGINE_CORE}
    assert target.model == "facebook/opt-125m"


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("/usr/bin/tini", ["tini", "--"]),
        ("/usr/bin/sudo", ["sudo"]),
        ("/usr/bin/timeout", ["timeout", "600"]),
        ("/usr/bin/bash", ["bash", "-c", "vllm serve facebook/opt-125m; true"]),
    ],
)
def test_a_wrapper_that_holds_the_servers_command_is_not_the_server(proc, program, words):
    # Given a wrapper and the server below it
    proc.add(90, [*words, "vllm", "serve", "m"], program=program)
    a_large_server(proc)
    children = proc.root / "90" / "task" / "90" / "children"
    children.write_text("100 ")
    stat = proc.root / "100" / "stat"
    stat.write_text(stat.read_text().replace(") S 1 ", ") S 90 "))

    # When it is found from the wrapper, and from below
    from_above, from_below = find_target(90, proc.procfs), find_target(110, proc.procfs)
    servers = find_servers(proc.procfs)

    # Then
    assert roles_of(from_above)[90] == roles.OTHER
    assert 90 not in [process.pid for process in from_above.python_processes]
    assert roles_of(from_above)[100] == roles.LAUNCHER
    assert from_below.root_pid == 100
    assert [server.root_pid for server in servers] == [100]


def test_a_child_without_a_title_still_leads_to_its_server(proc):
    # Given a child that multiprocessing has just spawned
    a_large_server(proc)
    proc.add(130, SPAWN, parent=100)

    assert find_target(130, proc.procfs).root_pid == 100


def test_a_server_that_another_server_did_not_start_is_its_own(proc):
    a_large_server(proc)
    proc.add(200, [PYTHON, "/usr/bin/vllm", "serve", "other"])

    servers = {server.root_pid: server.model for server in find_servers(proc.procfs)}

    assert servers == {100: "facebook/opt-125m", 200: "other"}


def test_a_plain_python_program_has_the_role_python(proc):
    proc.add(300, [PYTHON, "train.py"])
    proc.add(301, ["/bin/sh", "-c", "nvidia-smi"], program="/bin/dash", parent=300)

    target = find_target(300, proc.procfs)

    assert target.kind == roles.PYTHON
    assert roles_of(target) == {300: roles.PYTHON, 301: roles.OTHER}
    assert find_servers(proc.procfs) == []


@pytest.mark.parametrize(
    "program", ["/usr/bin/python3", "/opt/py/bin/python3.13t", "/usr/bin/python3.11 (deleted)"]
)
def test_python_is_told_by_its_program(proc, program):
    proc.add(300, ["myserver"], program=program)

    assert find_target(300, proc.procfs).processes[300].role == roles.PYTHON


def test_a_program_that_embeds_python_is_told_by_its_library(proc):
    proc.add(300, ["uwsgi"], program="/usr/bin/uwsgi")
    (proc.root / "300" / "maps").write_text("7f r-xp 0 08:01 9 /usr/lib/libpython3.11.so.1.0\n")

    assert find_target(300, proc.procfs).processes[300].role == roles.PYTHON


@pytest.mark.parametrize("state", ["Z", "X"])
def test_a_dead_process_is_not_found(proc, state):
    proc.add(300, [PYTHON, "x.py"], state=state)

    for pid in (300, 301):
        with pytest.raises(TargetNotFound, match=str(pid)):
            find_target(pid, proc.procfs)


def test_a_program_without_python_is_refused_by_name(proc):
    proc.add(300, ["/usr/sbin/nginx"], program="/usr/sbin/nginx", comm="nginx")

    with pytest.raises(TargetNotPython, match=r"300 \(nginx\)"):
        find_target(300, proc.procfs)


def test_a_reused_pid_is_noticed(proc):
    # Given a target
    target = find_target(proc.add(300, [PYTHON, "x.py"], start_ticks=500), proc.procfs)
    target.verify()

    # When its PID belongs to a process that was started later
    proc.add(300, ["/bin/sh"], program="/bin/dash", comm="sh", start_ticks=900)

    # Then
    assert not target.is_alive(target.processes[300])
    with pytest.raises(TargetReplaced, match=r"PID 300 .* another process \(sh\)") as refused:
        target.verify()
    assert refused.value.exit_code == 3
    assert "cputax ps" in refused.value.remedy


def test_a_target_that_ended_is_noticed(proc):
    target = find_target(proc.add(300, [PYTHON, "x.py"]), proc.procfs)

    proc.add(300, [PYTHON, "x.py"], state="Z")

    with pytest.raises(TargetExited, match="300"):
        target.verify()


def test_processes_that_appear_are_taken_up_once(proc):
    # Given a server that is still starting
    proc.add(100, SERVE)
    target = find_target(100, proc.procfs)

    # When its engine appears, with a worker
    proc.add(110, ["VLLM::EngineCore"], parent=100)
    proc.add(111, ["VLLM::Worker_TP0"], parent=110)

    # Then
    assert [process.pid for process in target.refresh()] == [110, 111]
    assert target.refresh() == []
    assert roles_of(target) == {
        100: roles.API_SERVER,
        110: roles.ENGINE_CORE,
        111: roles.WORKER,
    }


def test_what_is_kept_of_a_process_holds_no_command_line(proc):
    proc.add(100, [*SERVE, "--api-key", "secret"])

    record = find_target(100, proc.procfs).processes[100].record()

    assert "secret" not in repr(record)
