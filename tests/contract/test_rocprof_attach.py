"""Attaching through a stand-in for AMD's attacher: the child that does it, its end, and the data.

Nothing here says that it works on an AMD GPU. The data is real: rocprofv3's of an MI350X.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from collectors.capture import open_capture
from collectors.errors import CputaxError, ProbeUnavailable
from probes.base import Level
from probes.procfs import Procfs
from probes.rocprof import attach_output
from probes.rocprof.attach import AttachLibrary, Attachment
from probes.rocprof.attach_output import SETTINGS, Output
from probes.rocprof.attach_probe import AttachProbe
from probes.rocprof.errors import RocprofAttachFailed, RocprofNoData
from probes.target import Target, find_target
from profiler.session import Session, StopReason
from tests import foreign_traces
from tests.programs import Program, start_program
from tests.rocprof_fakes import OLD_ATTACH, REGISTER, ROCATTACH, SOURCES, build
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
ATTACHER = [sys.executable, "-S", "-P", "-m", "probes.rocprof.attacher"]
SETTING = {"ROCPROF_KERNEL_TRACE": "1"}


@pytest.fixture(scope="module")
def rocm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a ROCm with an attacher, as the process that uses it has it loaded."""
    lib = tmp_path_factory.mktemp("rocm") / "lib"
    build("fake_rocattach.c", lib / ROCATTACH)
    for part in ("libhsa-runtime64.so.1", REGISTER):
        build("fake_part.c", lib / part)
    return lib.parent


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file in which the stand-in notes its calls."""
    path = tmp_path / "calls.log"
    path.touch()
    monkeypatch.setenv("FAKE_ATTACH_LOG", str(path))
    return path


@pytest.fixture
def server(rocm: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Program]:
    """Yield a process that waits for an attacher."""
    monkeypatch.setenv("ROCP_TOOL_ATTACH", "1")
    running = start_attachable(rocm)
    monkeypatch.delenv("ROCP_TOOL_ATTACH")
    place = output_of(running.pid)
    yield running
    running.end()
    shutil.rmtree(place, ignore_errors=True)


def start_attachable(rocm: Path, *more: str, listener: str = "rocp-bg-attach") -> Program:
    libraries = [str(rocm / "lib" / name) for name in ("libhsa-runtime64.so.1", REGISTER)]
    return start_program(SOURCES / "attachable.py", *libraries, f"thread:{listener}", *more)


def calls(log: Path) -> list[str]:
    return [line for line in log.read_text().splitlines() if not line.startswith("ROCP")]


def attachment(rocm: Path, *pids: int, **timeouts: float) -> Attachment:
    library = AttachLibrary(rocm / "lib" / ROCATTACH, is_old=False, tool=None)
    return Attachment(library, pids, SETTING, timeouts)


def run_through(child: Attachment) -> None:
    child.wait_attached()
    child.begin_detach()
    child.wait_detached()


def put_trace(store: Path, pid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the stand-in write a real trace, as that of this process, when it detaches."""
    suffix = foreign_traces.ROCPD_SUFFIX
    store.mkdir(exist_ok=True)
    made = foreign_traces.rocpd(store, f"UPDATE rocpd_info_process{suffix} SET pid = {pid};")
    made.rename(store / f"{pid}.db")
    monkeypatch.setenv("FAKE_ATTACH_ROCPD", str(store))


def output_of(pid: int) -> Path:
    start_ticks = Procfs().stat(pid).start_ticks
    return Path(f"/tmp/cputax-rocprof-{pid}-{start_ticks}")


# The child.


def test_attach_and_detach_come_from_one_thread_with_our_settings_only(rocm, log, monkeypatch):
    monkeypatch.setenv("ROCPROF_OF_THE_USER", "1")
    child = attachment(rocm, 77)

    run_through(child)

    assert calls(log) == ["rocattach_attach 77", "rocattach_detach 77"]
    copied = [line for line in log.read_text().splitlines() if line.startswith("ROCP")]
    assert copied == ["ROCPROF_KERNEL_TRACE=1 77"]


@pytest.mark.parametrize(
    ("failing", "called"),
    [
        ("rocattach_attach:5", ["rocattach_attach 77"]),
        ("rocattach_detach:5", ["rocattach_attach 77", "rocattach_detach 77"]),
    ],
)
def test_a_refusal_comes_with_the_librarys_words_and_a_remedy(
    rocm, log, monkeypatch, failing, called
):
    monkeypatch.setenv("FAKE_ATTACH_FAIL", failing)
    child = attachment(rocm, 77)

    with pytest.raises(RocprofAttachFailed, match=r"operation not permitted \(fake\)") as failed:
        run_through(child)

    assert "process 77: " in failed.value.message
    assert "SYS_PTRACE" in failed.value.remedy
    assert calls(log) == called


def test_what_was_attached_to_is_let_go_when_the_rest_refuses(tmp_path, log, monkeypatch):
    monkeypatch.setenv("FAKE_ATTACH_FAIL", "rocattach_attach:5:78")
    library = build("fake_rocattach.c", tmp_path / ROCATTACH, "-DWITHOUT_TREES")
    child = Attachment(AttachLibrary(library, is_old=False, tool=None), [77, 78, 79], SETTING)

    with pytest.raises(RocprofAttachFailed):
        child.wait_attached()

    assert calls(log) == ["rocattach_attach 77", "rocattach_attach 78", "rocattach_detach 77"]


def test_a_tree_that_is_refused_is_let_go_as_a_whole(rocm, log, monkeypatch):
    monkeypatch.setenv("FAKE_ATTACH_FAIL", "rocattach_attach_tree:5")
    child = attachment(rocm, 77, 78)

    with pytest.raises(RocprofAttachFailed):
        child.wait_attached()

    assert calls(log) == ["rocattach_attach_tree 77", "rocattach_detach_tree 77"]


@pytest.mark.parametrize("hanging", ["rocattach_attach", "rocattach_detach"])
def test_a_call_that_never_returns_is_given_up(rocm, log, monkeypatch, hanging):
    monkeypatch.setenv("FAKE_ATTACH_HANG", hanging)
    child = attachment(rocm, 77, attach_timeout_s=0.5, detach_timeout_s=0.5)

    with pytest.raises(RocprofAttachFailed, match="did not return"):
        run_through(child)


def test_a_library_that_cannot_be_loaded_is_told(rocm, log):
    child = Attachment(AttachLibrary(rocm / "none.so", is_old=False, tool=None), [77], {})

    with pytest.raises(RocprofAttachFailed, match=r"none\.so cannot be used"):
        child.wait_attached()


def test_a_tree_is_attached_to_in_one_call(rocm, log):
    own = os.getpid()
    child = attachment(rocm, own, own + 1)
    run_through(child)

    assert calls(log) == [f"rocattach_attach_tree {own}", f"rocattach_detach_tree {own}"]


def test_without_trees_each_process_is_attached_to_by_itself(tmp_path, log):
    library = build("fake_rocattach.c", tmp_path / ROCATTACH, "-DWITHOUT_TREES")
    child = Attachment(AttachLibrary(library, is_old=False, tool=None), [77, 78], SETTING)
    run_through(child)

    assert calls(log) == [
        "rocattach_attach 77", "rocattach_attach 78", "rocattach_detach 78", "rocattach_detach 77",
    ]  # fmt: skip


def test_the_attacher_of_old_is_used_by_its_own_names(tmp_path, log):
    library = build("fake_rocattach.c", tmp_path / OLD_ATTACH, "-DOLD")
    child = Attachment(AttachLibrary(library, is_old=True, tool=None), [77], SETTING)
    run_through(child)

    assert calls(log) == ["attach 77", "detach 77"]


@pytest.mark.parametrize("how", ["SIGTERM", "SIGHUP", "end of session", "silence", "time over"])
def test_the_child_detaches_however_it_is_ended(rocm, log, how):
    # Given a child that has attached for a session that does not say that it lives
    ours, theirs = socket.socketpair()
    with theirs:
        child = subprocess.Popen(
            [*ATTACHER, str(theirs.fileno())], pass_fds=[theirs.fileno()], cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    request = {"library": str(rocm / "lib" / ROCATTACH), "is_old": False, "pids": [77]}
    request |= {"max_seconds": 0.5 if how == "time over" else 60}
    request |= {"silence_s": 0.5 if how == "silence" else 60}
    ours.sendall(json.dumps(request).encode() + b"\n")
    wait_until(lambda: "rocattach_attach 77" in calls(log), "it has attached")
    child.send_signal(signal.SIGINT)  # the terminal's, which is not for it

    # When
    if how == "end of session":
        ours.close()
    elif how.startswith("SIG"):
        child.send_signal(signal.Signals[how])

    # Then
    assert child.wait(20) == 0
    assert calls(log) == ["rocattach_attach 77", "rocattach_detach 77"]


def test_the_child_of_a_killed_session_detaches(rocm, log):
    code = (
        "import sys, time; from pathlib import Path\n"
        "from probes.rocprof.attach import Attachment, AttachLibrary\n"
        f"library = AttachLibrary(Path({str(rocm / 'lib' / ROCATTACH)!r}), False, None)\n"
        "child = Attachment(library, [77], {})\n"
        "child.wait_attached()\n"
        "print('attached', flush=True)\n"
        "time.sleep(60)\n"
    )
    session = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT)
    assert session.stdout is not None
    assert session.stdout.readline()

    session.kill()
    session.communicate()

    wait_until(lambda: "rocattach_detach 77" in calls(log), "it has detached")


# The probe.


def probe(rocm: Path, file_timeout_s: float = 20.0) -> AttachProbe:
    return AttachProbe(
        environ={"ROCM_PATH": str(rocm)}, cache=None, file_timeout_s=file_timeout_s
    )  # fmt: skip


def record(target: Target, directory: Path, one: AttachProbe) -> Any:
    """Record for a moment; return the probe's entry in the manifest."""
    session = Session(target, directory, [one])
    session.start()
    session.finish(StopReason.USER)
    (entry,) = open_capture(directory).manifest.probes
    return entry


def test_kernels_of_a_running_server_come_into_the_capture(
    rocm, log, server, tmp_path, monkeypatch
):
    put_trace(tmp_path / "store", server.pid, monkeypatch)
    target = find_target(server.pid)
    one = probe(rocm)
    assert one.check(target).level is Level.WORKS

    entry = record(target, tmp_path / "c", one)

    assert (entry.level, entry.reason) == ("works", None)
    assert entry.detail["kernel_count"] == foreign_traces.REAL_COUNT
    assert entry.detail["clock_error_ns"] > 0
    capture = open_capture(tmp_path / "c")
    slices = capture.table("slices")
    assert slices.num_rows == foreign_traces.REAL_COUNT
    tracks = {row["track"]: row for row in capture.table("tracks").to_pylist()}
    assert {tracks[track]["pid"] for track in slices["track"].to_pylist()} == {server.pid}
    anchor = capture.manifest.anchors[0]
    offset_ns = anchor.monotonic_ns - anchor.boottime_ns
    first_ns = min(slices["time_ns"].to_pylist())
    assert (
        abs(first_ns - offset_ns - foreign_traces.REAL_FIRST_NS) <= entry.detail["clock_error_ns"]
    )
    assert calls(log) == [f"rocattach_attach {server.pid}", f"rocattach_detach {server.pid}"]
    copied = log.read_text()
    assert "ROCPROF_KERNEL_TRACE=1" in copied
    assert "ROCPROF_MEMORY_COPY_TRACE=1" in copied
    assert "HIP_RUNTIME_API" not in copied
    assert [path.name for path in output_of(server.pid).rglob("*.*")] == [SETTINGS], (
        "its files hold the server's environment"
    )


def test_an_attach_that_brings_no_file_is_a_failure(rocm, log, server, tmp_path):
    entry = record(find_target(server.pid), tmp_path / "c", probe(rocm, file_timeout_s=1.0))

    assert entry.level == "unavailable"
    assert "wrote no file" in entry.reason
    assert entry.remedy
    (gap,) = open_capture(tmp_path / "c").table("gaps").to_pylist()
    assert gap["reason"] == entry.reason


def test_a_file_without_kernels_is_a_failure(rocm, log, server, tmp_path, monkeypatch):
    store = tmp_path / "store"
    put_trace(store, server.pid, monkeypatch)
    with sqlite3.connect(store / f"{server.pid}.db") as database:
        database.execute(f"DELETE FROM rocpd_kernel_dispatch{foreign_traces.ROCPD_SUFFIX}")
    database.close()

    entry = record(find_target(server.pid), tmp_path / "c", probe(rocm))

    assert entry.level == "unavailable"
    assert "no kernel is in it" in entry.reason


def test_a_damaged_file_is_a_failure_that_says_so(rocm, log, server, tmp_path, monkeypatch):
    put_trace(tmp_path / "store", server.pid, monkeypatch)
    whole = tmp_path / "store" / f"{server.pid}.db"
    whole.write_bytes(whole.read_bytes()[:5000])

    entry = record(find_target(server.pid), tmp_path / "c", probe(rocm, file_timeout_s=2.0))

    assert entry.level == "unavailable"
    assert "damaged" in entry.reason or "cut" in entry.reason


def test_an_attach_that_is_refused_is_a_failure(rocm, log, server, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_ATTACH_FAIL", "rocattach_attach:5")

    entry = record(find_target(server.pid), tmp_path / "c", probe(rocm))

    assert entry.level == "unavailable"
    assert "operation not permitted (fake)" in entry.reason


def test_a_server_that_dies_while_recorded_still_gives_what_its_tool_wrote(
    rocm, log, server, tmp_path, monkeypatch
):
    put_trace(tmp_path / "store", server.pid, monkeypatch)
    session = Session(find_target(server.pid), tmp_path / "c", [probe(rocm)])
    session.start()
    server.process.kill()
    server.process.wait()

    session.finish(StopReason.TARGET_EXITED)

    assert open_capture(tmp_path / "c").table("slices").num_rows == foreign_traces.REAL_COUNT


def test_a_parent_and_child_that_are_ready_are_attached_to_as_a_tree(
    rocm, log, tmp_path, monkeypatch
):
    monkeypatch.setenv("ROCP_TOOL_ATTACH", "1")
    parent = start_attachable(rocm, "child")
    monkeypatch.delenv("ROCP_TOOL_ATTACH")
    pid, place = parent.pid, output_of(parent.pid)
    try:
        put_trace(tmp_path / "store", pid, monkeypatch)
        entry = record(find_target(pid), tmp_path / "c", probe(rocm))
    finally:
        parent.end()
        shutil.rmtree(place, ignore_errors=True)

    assert entry.level == "works"
    assert entry.detail["processes"] == [pid, parent.hello["child"]]
    assert calls(log) == [f"rocattach_attach_tree {pid}", f"rocattach_detach_tree {pid}"]


def test_a_process_that_does_not_listen_is_refused_untouched(rocm, log, tmp_path):
    running = start_attachable(rocm, listener="other")
    try:
        target = find_target(running.pid)
        capability = probe(rocm).check(target)
        with pytest.raises(ProbeUnavailable):
            Session(target, tmp_path / "c", [probe(rocm)]).start()
    finally:
        running.end()

    assert capability.level is Level.UNAVAILABLE
    assert "ROCP_TOOL_ATTACH=1" in (capability.reason or "")
    assert calls(log) == []


def test_a_host_without_rocm_is_told_where_it_was_sought(program, tmp_path):
    one = AttachProbe(environ={}, cache=tmp_path / "no cache")

    capability = one.check(find_target(program.pid))

    assert capability.level is Level.UNAVAILABLE
    assert (capability.reason or "").startswith("no ROCm library found")
    assert "ROCM_PATH" in (capability.remedy or "")


def test_the_servers_own_rocm_needs_no_variable(server, tmp_path):
    one = AttachProbe(environ={}, cache=tmp_path / "no cache")

    assert one.check(find_target(server.pid)).level is Level.WORKS


def test_a_rocm_that_cannot_attach_is_told_apart(tmp_path):
    # Given ROCm 7.0, or 7.13 without its profiler
    for part in ("libhsa-runtime64.so.1", REGISTER):
        build("fake_part.c", tmp_path / "lib" / part)
    running = start_attachable(tmp_path)
    try:
        one = AttachProbe(environ={}, cache=tmp_path / "no cache")
        capability = one.check(find_target(running.pid))
    finally:
        running.end()

    assert capability.level is Level.UNAVAILABLE
    assert "librocprofiler-sdk-rocattach" in (capability.reason or "")
    assert "cputax attach --" in (capability.remedy or "")


def test_a_program_that_does_not_use_the_gpu_is_told_so(rocm, program):
    capability = probe(rocm).check(find_target(program.pid))

    assert capability.level is Level.UNAVAILABLE
    assert "libhsa-runtime64 is not loaded" in (capability.reason or "")


# Where AMD's tool writes.


@pytest.fixture
def output(server: Program) -> Iterator[Output]:
    target = find_target(server.pid)
    made = Output(target.procfs, target.processes[server.pid], file_timeout_s=1.0)
    yield made
    made.close()


def test_a_second_attach_with_other_settings_is_refused(output, server):
    output.prepare({"A": "1"})
    output.close()
    target = find_target(server.pid)
    again = Output(target.procfs, target.processes[server.pid])

    again.prepare({"A": "1"})
    with pytest.raises(RocprofAttachFailed, match="other settings"):
        Output(target.procfs, target.processes[server.pid]).prepare({"A": "2"})
    again.close()


@pytest.mark.parametrize("kind", ["link", "file", "open to others"])
def test_a_place_that_somebody_else_laid_is_refused(output, server, tmp_path, kind):
    place = output_of(server.pid)
    if kind == "link":
        (tmp_path / "theirs").mkdir(mode=0o700)
        place.symlink_to(tmp_path / "theirs")
    elif kind == "file":
        place.touch()
    else:
        place.mkdir()
        place.chmod(0o777)
    try:
        with pytest.raises(CputaxError, match=str(place)):
            output.prepare({})
    finally:
        place.rmdir() if kind == "open to others" else place.unlink()


def test_links_in_the_place_are_not_followed(output, server, tmp_path):
    output.prepare({})
    precious = tmp_path / "precious.db"
    precious.touch()
    (output_of(server.pid) / "trace.db").symlink_to(precious)

    with pytest.raises(RocprofNoData, match="no file"):
        output.read()

    assert precious.exists()


def test_a_file_that_is_still_written_is_waited_for(output, server, tmp_path, monkeypatch):
    monkeypatch.setattr(attach_output, "STABLE_S", 0.0)
    output.prepare({})
    made = foreign_traces.rocpd(tmp_path)
    place = output_of(server.pid)
    (place / "trace.db-journal").touch()
    (place / "trace.db").write_bytes(made.read_bytes())

    with pytest.raises(RocprofNoData):
        output.read()
    (place / "trace.db").write_bytes(made.read_bytes())

    assert output.read().slice_count == foreign_traces.REAL_COUNT
