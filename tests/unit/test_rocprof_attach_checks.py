"""What is in the way of an attach, each thing by itself, told from /proc alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from probes.rocprof import attach_checks
from probes.rocprof.attach import find_attach_library
from probes.rocprof.attach_checks import (
    LISTENER,
    Obstacle,
    find_obstacle,
    is_prepared,
    shadowing_library,
    uses_rocm,
)
from probes.rocprof.attach_probe import plan, tool_settings
from probes.target import Process
from tests.fakeproc import PYTHON, FakeProc
from tests.rocprof_fakes import OLD_ATTACH, REGISTER, ROCATTACH, build

PID = 300
SECRET = "HF_TOKEN=secret"


class Host:
    """A host with one process that can be attached to; each test takes one thing away."""

    def __init__(self, root: Path) -> None:
        self.proc = FakeProc(root / "proc")
        self.procfs = self.proc.procfs
        self.lib = root / "rocm" / "lib"
        self.lib.mkdir(parents=True)
        self.proc.add(PID, [PYTHON, "server.py"])
        self.proc.root.joinpath("self/ns").mkdir(parents=True)
        self.proc.root.joinpath("self/ns/pid").symlink_to("pid:[1]")
        self.proc.root.joinpath(f"{PID}/ns").mkdir()
        self.namespace("pid:[1]")
        self.own_status()
        self.scope(0)
        self.environ("ROCP_TOOL_ATTACH=1", SECRET)
        self.thread(LISTENER)
        (self.proc.root / str(PID) / "root").symlink_to("/")
        self.maps(str(self.file("libhsa-runtime64.so.1")), str(self.file(REGISTER)))

    def file(self, name: str) -> Path:
        path = self.lib / name
        path.touch()
        return path

    def own_status(self, *, uid: int = 1000, capabilities: int = 0) -> None:
        text = f"Uid:\t{uid}\t{uid}\nCapEff:\t{capabilities:016x}\n"
        (self.proc.root / "self/status").write_text(text)

    def namespace(self, name: str) -> None:
        link = self.proc.root / f"{PID}/ns/pid"
        link.unlink(missing_ok=True)
        link.symlink_to(name)

    def scope(self, value: int) -> None:
        path = self.proc.root / "sys/kernel/yama/ptrace_scope"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")

    def environ(self, *variables: str) -> None:
        text = "".join(one + "\0" for one in variables)
        (self.proc.root / str(PID) / "environ").write_text(text)

    def thread(self, name: str, *, tracer: int = 0) -> None:
        task = self.proc.root / str(PID) / "task" / str(PID + 1)
        task.mkdir(exist_ok=True)
        own = (self.proc.root / str(PID) / "stat").read_text()
        task.joinpath("stat").write_text(own.replace("(python)", f"({name})"))
        task.joinpath("status").write_text(f"TracerPid:\t{tracer}\n")

    def maps(self, *paths: str) -> None:
        lines = [f"7f{at:06x}000-7f{at:06x}fff r--p 00000000 00:01 1 {p}\n" for at, p in
                 enumerate(paths)]  # fmt: skip
        (self.proc.root / str(PID) / "maps").write_text("".join(lines))

    def obstacle(self, *, is_old: bool = False) -> Obstacle | None:
        return find_obstacle(self.procfs, PID, self.lib / ROCATTACH, is_old=is_old)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_process_that_is_ready_has_nothing_in_the_way(host):
    assert host.obstacle() is None
    assert uses_rocm(host.procfs, PID)


@pytest.mark.parametrize(
    ("spoil", "reason", "remedy"),
    [
        (lambda host: host.namespace("pid:[2]"), "another PID namespace", "--cap-add=SYS_PTRACE"),
        (lambda host: host.scope(3), "ptrace_scope is 3", "cputax attach --"),
        (lambda host: host.scope(1), "ptrace_scope is 1", "sysctl kernel.yama"),
        (lambda host: host.own_status(uid=0), "belongs to another user", "sudo"),
        (lambda host: host.thread("python"), f"no thread {LISTENER}", "ROCM_PATH"),
        (lambda host: host.thread(LISTENER, tracer=77), "process 77 is attached", "end that"),
    ],
)
def test_each_thing_in_the_way_is_told_with_what_to_do(
    host, spoil: Callable[[Host], None], reason, remedy
):
    spoil(host)

    found = host.obstacle()

    assert found is not None
    assert reason in found.reason
    assert remedy in found.remedy


@pytest.mark.parametrize("scope", [0, 1, 2])
def test_the_capability_stands_above_users_and_yama(host, scope):
    host.scope(scope)
    host.own_status(uid=0, capabilities=1 << attach_checks.CAP_SYS_PTRACE)

    assert host.obstacle() is None


def test_a_kernel_without_yama_has_no_scope(host):
    (host.proc.root / "sys/kernel/yama/ptrace_scope").unlink()

    assert host.obstacle() is None


@pytest.mark.parametrize("variables", [(), ("ROCP_TOOL_ATTACH=0",), ("XROCP_TOOL_ATTACH=1",)])
def test_a_server_that_was_not_prepared_is_told_the_variable(host, variables):
    host.thread("python")
    host.environ(SECRET, *variables)

    found = host.obstacle()

    assert found is not None
    assert "was not started with ROCP_TOOL_ATTACH=1" in found.reason
    assert "34205" in found.remedy, "what that variable did to vLLM is said"
    assert "secret" not in str(found)


@pytest.mark.parametrize("value", ["1", "true", "ON", "yes"])
def test_the_variable_may_be_any_word_for_true(host, value):
    host.environ(f"ROCP_TOOL_ATTACH={value}")

    assert is_prepared(host.procfs, PID)


def test_a_listener_needs_no_variable(host):
    """ROCm can be built to listen always."""
    host.environ()

    assert host.obstacle() is None


def test_a_library_that_says_it_is_a_tool_is_named(host):
    # Given a process that was prepared, but does not listen, with libraries that are no tools
    shadow = build("fake_part.c", host.lib / "libtorch_cpu.so", "-DSHADOW")
    plain = build("fake_part.c", host.lib / "libplain.so")
    amds = build("fake_part.c", host.lib / "librocprofiler-sdk.so.1", "-DSHADOW")
    host.thread("python")

    # When
    host.maps(str(plain), str(amds))
    assert shadowing_library(host.procfs, PID) is None
    host.maps(str(plain), "/gone/libgone.so", "/bin/sh", str(shadow))
    found = host.obstacle()

    # Then
    assert found is not None
    assert found.reason.startswith("libtorch_cpu.so exports rocprofiler_configure")
    assert "cputax attach --" in found.remedy


def test_the_attacher_of_old_wants_its_helper_loaded(host):
    host.thread("python")

    found = host.obstacle(is_old=True)
    assert found is not None
    assert "librocprofiler-sdk-attach.so is not loaded" in found.reason

    host.maps(str(host.file("librocprofiler-sdk-attach.so.1")))
    assert host.obstacle(is_old=True) is None


def test_the_attacher_of_old_traces_the_main_thread(host):
    host.maps(str(host.file("librocprofiler-sdk-attach.so.1")))
    status = host.proc.root / str(PID) / "task" / str(PID) / "status"
    status.write_text("TracerPid:\t88\n")

    found = host.obstacle(is_old=True)

    assert found is not None
    assert "process 88" in found.reason


def test_another_copy_of_rocm_is_not_taken_for_the_servers(host, tmp_path):
    """The server's root is a container's: the same path there is another file."""
    (host.proc.root / str(PID) / "root").unlink()
    (host.proc.root / str(PID) / "root").symlink_to(tmp_path / "container")

    found = host.obstacle()

    assert found is not None
    assert REGISTER in found.reason


def test_an_attacher_of_another_rocm_is_not_used(host, tmp_path):
    other = tmp_path / "other" / "lib"
    other.mkdir(parents=True)
    assert find_obstacle(host.procfs, PID, other / ROCATTACH, is_old=False) is None

    (other / REGISTER).touch()
    found = find_obstacle(host.procfs, PID, other / ROCATTACH, is_old=False)

    assert found is not None
    assert "of another ROCm" in found.reason
    assert "ROCM_PATH" in found.remedy


def test_a_process_that_is_gone_uses_nothing(host):
    assert not uses_rocm(host.procfs, 4711)
    assert not is_prepared(host.procfs, 4711)
    assert attach_checks.listener_tid(host.procfs, 4711) is None


def test_the_attacher_is_that_of_the_servers_own_rocm(host, tmp_path):
    # Given the server's ROCm without an attacher, and another that ROCM_PATH names
    other = tmp_path / "other" / "lib"
    (other / OLD_ATTACH).parent.mkdir(parents=True)
    (other / OLD_ATTACH).touch()
    environ = {"ROCM_PATH": str(tmp_path / "other")}

    def found():
        return find_attach_library(host.procfs, [PID], environ, cache=None)

    # Then any will do
    assert found().path == other / OLD_ATTACH
    assert found().is_old
    # But a new one, and the server's own, is better
    (other / ROCATTACH).touch()
    assert found().path == other / ROCATTACH
    host.file(ROCATTACH)
    (host.lib / "rocprofiler-sdk").mkdir()
    tool = host.file("rocprofiler-sdk/librocprofiler-sdk-tool.so")
    assert (found().path, found().is_old, found().tool) == (host.lib / ROCATTACH, False, tool)


def process(pid: int, parent: int) -> Process:
    return Process(pid, 1, parent, "worker", "vllm", "worker", ())


@pytest.mark.parametrize(
    ("ready", "groups"),
    [
        ({1, 2, 3, 4}, [[1, 2, 4, 3]]),
        ({1, 2, 4}, [[1], [2, 4]]),
        ({3, 4}, [[3], [4]]),
        ({2}, [[2]]),
    ],
)
def test_only_whole_trees_are_attached_to_as_trees(ready, groups):
    # Given 1 above 2 and 3, and 2 above 4
    processes = [process(1, 0), process(2, 1), process(3, 1), process(4, 2)]

    planned = plan([one for one in processes if one.pid in ready], processes)

    found = [[one.pid for one in group] for group in planned]
    assert [sorted(group) for group in found] == [sorted(group) for group in groups]
    assert [group[0] for group in found] == [group[0] for group in groups]


def test_calls_of_hip_are_traced_only_when_asked_for():
    plainly = tool_settings("/tmp/x", is_hip_traced=False)
    with_calls = tool_settings("/tmp/x", is_hip_traced=True)

    assert plainly["ROCPROF_OUTPUT_PATH"] == "/tmp/x/%pid%"
    assert plainly["ROCPROF_OUTPUT_FORMAT"] == "rocpd"
    assert set(with_calls) - set(plainly) == {"ROCPROF_HIP_RUNTIME_API_TRACE"}
    assert all(name.startswith("ROCPROF_") for name in with_calls)
