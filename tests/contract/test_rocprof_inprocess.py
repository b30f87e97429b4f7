"""A server that traces itself for us, on a stand-in for AMD's library: its whole life, and harm.

Nothing here says that it works on an AMD GPU; the stand-in does what AMD's sources say.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from collectors.importers.trace import Trace
from collectors.slices import API, KERNEL, MEMCPY, Slices, concatenate
from probes.procfs import Procfs
from probes.rocprof._abi import BufferPolicy
from probes.rocprof.spool import SITE, hook_environment, spool_directory
from probes.rocprof.traced import DROPPED, UNSEEN, UNWRITTEN, TracedProcess
from tests.rocprof_fakes import SOURCES, TracedServer, make_rocm, traced_server
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def rocm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_rocm(tmp_path_factory.mktemp("rocm"))


@pytest.fixture
def spool() -> Iterator[Path]:
    with spool_directory() as directory:
        yield directory


class Session:
    """The session's side of one server, which keeps what it read."""

    def __init__(self, spool: Path, server: TracedServer) -> None:
        self.traced = TracedProcess(spool, server.inner_pid, server.pid, Procfs())
        self.traces: list[Trace] = []

    def read(self) -> None:
        self.traces.append(self.traced.read())

    def start(self) -> None:
        wait_until(self.traced.want, "it waits to be told")
        wait_until(self._is_started, "it records")

    def _is_started(self) -> bool:
        self.read()
        return self.traced.is_started and not self.traced.is_stopped

    def stop(self) -> None:
        self.traced.unwant()
        wait_until(self._is_stopped, "it has handed over its last records")

    def _is_stopped(self) -> bool:
        self.read()
        return self.traced.is_stopped

    def of_kind(self, kind: str) -> tuple[Slices, list[str]]:
        """Return all slices of a kind, and the name of each."""
        found, names = [], []
        for trace in self.traces:
            rows = trace.name_rows
            slices = trace.slices()
            is_kind = np.array([rows[name][0] == kind for name in slices.name], bool)
            found.append(slices.where(is_kind))
            names += [rows[name][1] for name in slices.name[is_kind]]
        return concatenate(found), names

    def track(self, slices: Slices, row: int) -> dict[str, object]:
        (trace,) = [one for one in self.traces if one.slice_count]
        return trace.track_rows[slices.track[row]]


@contextmanager
def recording(
    rocm: Path, spool: Path, **environment: str
) -> Iterator[tuple[TracedServer, Session]]:
    """Yield a server that has imported torch, and a session that records it."""
    with traced_server(rocm, spool, **environment) as server:
        server.call("import", "torch")
        session = Session(spool, server)
        session.start()
        yield server, session


def test_kernels_and_copies_come_with_names_times_and_queues(rocm, spool):
    # Given a recorded server that has loaded two kernels
    with recording(rocm, spool) as (server, session):
        server.call("fake_load_kernel", 1, "_Z4gemmIfEvPT_i.kd", 0)
        server.call("fake_load_kernel", 2, "Cijk_Ailk_Bljk.kd", 0)

        # When it runs four kernels and copies once
        assert server.call("fake_run_kernels", 4, 2) == 4
        assert server.call("fake_copy", 1, 4096) == 1
        session.stop()
        assert server.end() == (0, "")

    # Then
    kernels, names = session.of_kind(KERNEL)
    assert names == ["void gemm<float>(float*, int)", "Cijk_Ailk_Bljk"] * 2
    assert kernels.duration_ns.tolist() == [1500] * 4
    assert np.diff(kernels.time_ns).tolist() == [2000] * 3
    assert kernels.correlation.tolist() == [1, 2, 3, 4]
    first, second = session.track(kernels, 0), session.track(kernels, 1)
    assert (first["device"], first["tid"], first["pid"]) == (0, -16, server.pid)
    assert (second["device"], second["tid"], second["name"]) == (1, -17, "queue 17")
    copies, names = session.of_kind(MEMCPY)
    assert (names, copies.size_bytes.tolist()) == (["HOST_TO_DEVICE"], [4096])
    assert session.track(copies, 0)["device"] == 0
    assert session.traced.losses() == []


def test_a_server_records_only_while_somebody_wants_it(rocm, spool):
    with traced_server(rocm, spool) as server:
        server.call("import", "torch")
        assert server.call("fake_run_kernels", 5, 1) == 0
        session = Session(spool, server)
        for _ in range(2):
            session.start()
            assert server.call("fake_run_kernels", 10, 1) == 10
            session.stop()
        assert server.call("fake_run_kernels", 5, 1) == 0

    assert len(session.of_kind(KERNEL)[0]) == 20


def test_a_program_without_gpu_packages_is_left_alone(rocm, spool):
    with traced_server(rocm, spool) as server:
        assert server.call("import", "colorsys") == []

        assert list(spool.iterdir()) == []
        assert server.end() == (0, "")


def test_a_program_without_rocm_is_left_alone(tmp_path, spool):
    with traced_server(tmp_path, spool) as server:
        server.call("import", "torch")

        assert list(spool.iterdir()) == []
        assert server.end() == (0, "")


def test_a_server_whose_session_never_comes_ends_as_ever(rocm, spool):
    with traced_server(rocm, spool) as server:
        server.call("import", "torch")

        assert server.end() == (0, "")


def test_the_servers_own_sitecustomize_still_runs(rocm, spool, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import os; os.environ['SITE_RAN'] = __file__\n")
    own = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])

    with traced_server(rocm, spool, PYTHONPATH=own) as server:
        environ = Path(f"/proc/{server.pid}/environ").read_text()
        server.call("import", "sitecustomize")
        found = server.call("module_file", "sitecustomize")

    assert f"PYTHONPATH={SITE}{os.pathsep}{own}\0" in environ
    assert found == str(tmp_path / "sitecustomize.py")


def test_a_forked_child_is_not_traced_and_does_no_harm(rocm, spool):
    with recording(rocm, spool) as (server, session):
        server.call("fake_run_kernels", 3, 1)

        assert server.call("fork") == 0

        server.call("fake_run_kernels", 3, 1)
        session.stop()
        assert server.end() == (0, "")
    assert session.traced.broken is None
    assert len(session.of_kind(KERNEL)[0]) == 6


def test_calls_of_hip_come_with_their_names_and_threads(rocm, spool):
    with recording(rocm, spool, CPUTAX_ROCPROF_HIP_API="1") as (server, session):
        server.call("fake_call_hip", 3)
        session.stop()

    calls, names = session.of_kind(API)
    assert names == ["hipLaunchKernel"] * 3
    assert calls.duration_ns.tolist() == [900] * 3
    assert session.track(calls, 0)["tid"] == server.pid


@pytest.mark.parametrize("version", ["0.5.0", "0.6.0"])
def test_older_versions_are_read_by_their_own_layouts(rocm, spool, version):
    environment = {"FAKE_ROCP_VERSION": version, "CPUTAX_ROCPROF_HIP_API": "1"}
    with recording(rocm, spool, **environment) as (server, session):
        server.call("fake_load_kernel", 1, "softmax.kd", 0)
        server.call("fake_run_kernels", 2, 1)
        server.call("fake_copy", 2, 64)
        server.call("fake_call_hip", 2)
        session.stop()
        assert server.call("fake_finalise_count") == 0
        assert server.end() == (0, "")

    assert session.of_kind(KERNEL)[1] == ["softmax"] * 2
    assert session.of_kind(MEMCPY)[0].size_bytes.tolist() == [64, 64]
    assert session.of_kind(API)[0].duration_ns.tolist() == [900, 900]


def test_a_newer_version_with_longer_records_is_read(rocm, spool):
    environment = {"FAKE_ROCP_VERSION": "1.9.0", "FAKE_ROCP_RECORD_EXTRA": "8"}
    with recording(rocm, spool, **environment) as (server, session):
        server.call("fake_run_kernels", 10_000, 3)
        session.stop()

    kernels, _ = session.of_kind(KERNEL)
    assert len(kernels) == 10_000
    assert set(kernels.duration_ns.tolist()) == {1500}
    assert session.traced.timeline.account.version == (1, 9, 0)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"FAKE_ROCP_VERSION": "2.0.0"}, "version 2.0.0 of rocprofiler-sdk has an unknown layout"),
        (
            {"FAKE_ROCP_FAIL": "rocprofiler_force_configure:16"},
            "rocprofiler_force_configure: Configuration is locked (fake) (status 16)",
        ),
        (
            {"FAKE_ROCP_FAIL": "rocprofiler_create_buffer:29"},
            "rocprofiler_create_buffer: Out of resources (fake) (status 29)",
        ),
        (
            {"FAKE_ROCP_FAIL": "rocprofiler_query_available_agents:18"},
            "rocprofiler_query_available_agents: Incompatible ABI (fake) (status 18)",
        ),
    ],
)
def test_what_the_library_refuses_is_told_and_the_server_goes_on(rocm, spool, environment, said):
    with traced_server(rocm, spool, **environment) as server:
        server.call("import", "torch")
        session = Session(spool, server)
        session.read()

        assert session.traced.problem is not None
        assert session.traced.problem.message == f"process {server.pid}: {said}"
        assert not session.traced.want()
        assert server.end() == (0, "")


def test_a_context_that_does_not_stop_is_told(rocm, spool):
    environment = {"FAKE_ROCP_FAIL": "rocprofiler_stop_context:1"}
    with recording(rocm, spool, **environment) as (_, session):
        session.stop()

    said = "rocprofiler_stop_context: General error (status 1)"
    assert said in session.traced.problem.message


def test_lossless_buffers_lose_nothing_however_small(rocm, spool):
    path = str(spool / "alone.spool")
    with traced_server(rocm, spool) as server:
        server.call("trace", path, {"kernel_buffer_bytes": 4096})
        assert server.call("fake_run_kernels", 5000, 2) == 5000
        waited_count = server.call("fake_waited_count")
        server.call("stop")
        server.call("close")
        assert server.end() == (0, "")

        assert waited_count > 0
        assert kernels_in(path, server) == 5000


def test_drops_of_a_full_buffer_are_counted(rocm, spool):
    # Given a buffer of four records less a little, of a policy that drops what finds it full
    path = str(spool / "alone.spool")
    options = {"kernel_buffer_bytes": 4096, "policy": BufferPolicy.DISCARD}
    with traced_server(rocm, spool, FAKE_ROCP_RECORD_EXTRA="1000") as server:
        server.call("trace", path, options)

        # When it runs ten
        assert server.call("fake_run_kernels", 10, 1) == 3
        assert server.call("fake_drop_count") == 7
        server.call("stop")

        # Then
        traced = read_alone(path, server)
        assert traced.timeline.dispatches.count == 3
        assert traced.losses() == [(DROPPED, 7)]


def test_kernels_that_got_lost_without_a_word_are_missed(rocm, spool):
    with recording(rocm, spool) as (server, session):
        server.call("fake_run_kernels", 10, 1)
        server.call("fake_lose", 4)
        server.call("fake_run_kernels", 10, 1)
        session.stop()

    assert session.traced.losses() == [(UNSEEN, 4)]


def test_a_kernel_that_ends_just_after_the_end_still_comes(rocm, spool):
    with recording(rocm, spool) as (server, session):
        server.call("fake_run_kernels", 1, 1)
        server.call("fake_end_after_flush")
        session.stop()

    assert len(session.of_kind(KERNEL)[0]) == 2


def test_records_that_nobody_fetches_do_not_fill_the_memory(rocm, spool):
    path = str(spool / "alone.spool")
    options = {"kernel_buffer_bytes": 4096, "max_waiting_bytes": 20_000}
    with traced_server(rocm, spool) as server:
        server.call("trace", path, options)
        assert server.call("fake_run_kernels", 1000, 1) == 1000
        server.call("stop")

        assert Path(path).stat().st_blocks * 512 <= 20_000 + 4096  # and a few words
        traced = read_alone(path, server)
        count = traced.timeline.dispatches.count
        assert 0 < count < 1000
        assert traced.losses() == [(UNWRITTEN, 1000 - count)]


def test_records_in_disorder_all_come(rocm, spool):
    with recording(rocm, spool) as (server, session):
        for swapped, spread in ((1, 0), (1, 1)):
            server.call("fake_disorder", swapped, spread)
            server.call("fake_run_kernels", 300, 2)
        session.stop()

    kernels, _ = session.of_kind(KERNEL)
    assert sorted(kernels.correlation.tolist()) == list(range(1, 601))
    assert session.traced.losses() == []


def test_buffers_come_on_a_thread_of_the_library(rocm, spool):
    with recording(rocm, spool) as (server, session):
        server.call("fake_run_kernels", 1, 1)
        session.stop()
        tid = server.call("fake_delivery_tid")

    assert tid not in (0, server.pid)
    assert session.traced.detail()["delivery_count"] == 1
    assert session.traced.detail()["longest_gil_held_ns"] > 0


def test_a_callback_after_the_end_is_harmless(rocm, spool):
    path = str(spool / "alone.spool")
    with traced_server(rocm, spool) as server:
        server.call("trace", path, {})
        server.call("stop")
        server.call("fake_deliver_late")
        server.call("close")
        size_bytes = Path(path).stat().st_size

        server.call("fake_deliver_late")
        server.call("fake_load_kernel", 9, "late", 0)

        assert Path(path).stat().st_size == size_bytes
        assert server.call("fake_finalise_count") == 1
        assert server.end() == (0, "")


def test_a_kernel_nobody_named_is_told_by_its_number(rocm, spool):
    with recording(rocm, spool) as (server, session):
        server.call("fake_load_kernel", 1, "unloaded.kd", 1)
        server.call("fake_run_kernels", 1, 1)
        session.stop()

    assert session.of_kind(KERNEL)[1] == ["(kernel 1)"]


def read_alone(path: str, server: TracedServer) -> TracedProcess:
    """Read a spool that was written without the hook."""
    own = Path(path).with_name(f"{server.inner_pid}.spool")
    Path(path).rename(own)
    traced = TracedProcess(own.parent, server.inner_pid, server.pid, Procfs())
    traced.read()
    return traced


def kernels_in(path: str, server: TracedServer) -> int:
    return read_alone(path, server).timeline.dispatches.count


def test_the_hook_brings_nothing_into_the_server_but_itself(rocm, spool):
    """Its own packages are called otherwise than ours, which may be names of the server's."""
    code = "import torch, sys; print(*sys.modules)"
    environ = {"ROCM_PATH": str(rocm), "PYTHONPATH": str(SOURCES / "packages")}
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60,
        env={**environ, **hook_environment(spool, environ)},
    )  # fmt: skip

    loaded = {name.partition(".")[0] for name in ended.stdout.split()}
    assert "_cputax_rocprof" in loaded
    assert not loaded & {"probes", "collectors", "profiler", "analyzers", "pyarrow", "numpy"}
    assert ended.stderr == ""
