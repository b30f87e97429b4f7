"""The in-process GPU probe in a whole recording, on a server with a GPU that is not there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from collectors.capture import Capture, open_capture
from collectors.errors import ProbeUnavailable
from probes.base import Level
from probes.rocprof.inprocess_probe import InProcessProbe
from probes.rocprof.probe import rocprof_probe
from probes.rocprof.spool import spool_directory
from probes.rocprof.traced import UNSEEN
from probes.target import find_target
from profiler.session import Session, StopReason
from tests.rocprof_fakes import TracedServer, make_rocm, traced_server
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def rocm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_rocm(tmp_path_factory.mktemp("rocm"))


@pytest.fixture
def spool() -> Iterator[Path]:
    with spool_directory() as directory:
        yield directory


class Recording:
    """A session with this probe only."""

    def __init__(self, spool: Path, server: TracedServer, directory: Path) -> None:
        self.probe = rocprof_probe(spool)
        self.session = Session(find_target(server.pid), directory, [self.probe])
        self._directory = directory

    def start(self, server: TracedServer) -> None:
        """Begin, and return once kernels are recorded."""
        self.session.start()
        wait_until(lambda: server.call("fake_run_kernels", 1, 1) == 1, "a kernel finds its place")

    def finish(self) -> Capture:
        self.session.finish(StopReason.USER)
        return open_capture(self._directory)


def record_of(capture: Capture) -> Any:
    (record,) = capture.manifest.probes
    return record


def test_kernels_stand_in_the_capture_at_its_time(rocm, spool, tmp_path):
    with traced_server(rocm, spool) as server:
        server.call("import", "torch")
        server.call("fake_load_kernel", 1, "_Z4gemmIfEvPT_i.kd", 0)
        recording = Recording(spool, server, tmp_path / "c")
        assert recording.session.capabilities["rocprof"].level is Level.WORKS

        recording.start(server)
        server.call("fake_run_kernels", 20_000, 1)
        server.call("fake_copy", 10, 1 << 20)
        capture = recording.finish()

    record = record_of(capture)
    assert (record.level, record.reason) == ("works", None)
    (process,) = record.detail["processes"].values()
    kernel_count = process["kernel_count"]
    assert kernel_count > 20_000
    assert process["missing_kernel_count"] == process["dropped_record_count"] == 0
    assert process["mean_gil_held_ns"] > 0
    assert record.detail["clock_error_ns"] > 0
    slices = capture.table("slices").to_pylist()
    names = {row["name"]: row for row in capture.table("names").to_pylist()}
    tracks = {row["track"]: row for row in capture.table("tracks").to_pylist()}
    assert len(slices) == kernel_count + 10
    assert {names[row["name"]]["text"] for row in slices} == {
        "void gemm<float>(float*, int)", "HOST_TO_DEVICE",
    }  # fmt: skip
    assert {tracks[row["track"]]["device"] for row in slices} == {0, 1}
    process_tracks = {row["track"] for row in tracks.values() if row["kind"] == "process"}
    assert {tracks[row["launch_track"]]["parent"] for row in slices} <= process_tracks
    assert all(row["time_ns"] >= capture.manifest.started_ns - 10**9 for row in slices)
    assert capture.table("gaps").num_rows == 0


def test_what_was_lost_is_a_gap(rocm, spool, tmp_path):
    with traced_server(rocm, spool) as server:
        server.call("import", "torch")
        recording = Recording(spool, server, tmp_path / "c")
        recording.start(server)
        server.call("fake_lose", 7)
        server.call("fake_run_kernels", 1, 1)
        capture = recording.finish()

    (gap,) = capture.table("gaps").to_pylist()
    assert (gap["probe"], gap["reason"], gap["lost_count"]) == ("rocprof", UNSEEN, 7)


def test_a_recording_without_kernels_says_so(rocm, spool, tmp_path):
    with traced_server(rocm, spool) as server:
        server.call("import", "torch")
        recording = Recording(spool, server, tmp_path / "c")
        recording.session.start()
        capture = recording.finish()

    record = record_of(capture)
    assert record.level == "degraded"
    assert "no kernel ran" in record.reason
    assert record.remedy


def test_a_server_that_dies_leaves_what_it_had_told(rocm, spool, tmp_path):
    with traced_server(rocm, spool) as server:
        server.call("import", "torch")
        recording = Recording(spool, server, tmp_path / "c")
        recording.start(server)
        server.call("fake_run_kernels", 10_000, 1)
        server.process.kill()
        server.process.wait()
        capture = recording.finish()

    assert capture.table("slices").num_rows > 0
    reasons = [gap["reason"] for gap in capture.table("gaps").to_pylist()]
    assert any("last records" in reason for reason in reasons)


def test_a_process_that_imports_torch_later_is_taken_up(rocm, spool, tmp_path):
    # Given a server of which only the child uses the GPU, and not yet
    with traced_server(rocm, spool) as server:
        server.call("import", "torch")
        target = find_target(server.pid)
        with traced_server(rocm, spool) as late:
            late.call("import", "colorsys")
            target.processes[late.pid] = find_target(late.pid).processes[late.pid]
            session = Session(target, tmp_path / "c", [InProcessProbe(spool)])
            session.start()
            late.call("import", "torch")
            wait_until(lambda: late.call("fake_run_kernels", 1, 1) == 1, "it is recorded")
            session.finish(StopReason.USER)

    (record,) = open_capture(tmp_path / "c").manifest.probes
    assert record.detail["processes"][str(late.pid)]["kernel_count"] == 1


def test_a_server_that_loaded_nothing_is_told_what_it_lacks(rocm, spool, tmp_path):
    with traced_server(rocm, spool) as server:
        capability = InProcessProbe(spool).check(find_target(server.pid))

        assert capability.level is Level.UNAVAILABLE
        assert "rocprofiler-sdk" in (capability.reason or "")
        assert "ROCM_PATH" in (capability.remedy or "")
        recording = Recording(spool, server, tmp_path / "c")
        with pytest.raises(ProbeUnavailable):
            recording.session.start()


def test_a_library_that_refused_is_told_in_its_words(rocm, spool):
    environment = {"FAKE_ROCP_FAIL": "rocprofiler_force_configure:16"}
    with traced_server(rocm, spool, **environment) as server:
        server.call("import", "torch")
        capability = InProcessProbe(spool).check(find_target(server.pid))

    assert capability.level is Level.UNAVAILABLE
    assert "Configuration is locked (fake)" in (capability.reason or "")
    assert "another tool" in (capability.remedy or "")


def test_a_version_that_nobody_compared_is_used_with_a_caveat(rocm, spool):
    with traced_server(rocm, spool, FAKE_ROCP_VERSION="1.9.0") as server:
        server.call("import", "torch")
        capability = InProcessProbe(spool).check(find_target(server.pid))

    assert capability.level is Level.DEGRADED
    assert "1.9.0" in (capability.reason or "")
