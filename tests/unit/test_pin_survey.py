"""A server on the captured machine of four nodes: what is seen of it, and the plan made of that."""

from __future__ import annotations

from pathlib import Path

import pytest

from collectors.cpu_lists import format_list, parse_list
from collectors.errors import TargetNotFound
from probes.gpu_counters.devices import Gpu, Search
from probes.procfs import Procfs
from profiler.pin.affinity import Mask
from profiler.pin.plan import TOOL, Plan, propose
from profiler.pin.survey import Survey, survey
from tests.hosts import (
    ALL_CPUS,
    API,
    CORE,
    GPU,
    GPU_FILE,
    GPU_NODE,
    NVME,
    WORKER,
    FakeHost,
    affinity_off_node,
    healthy,
)

TOOL_PID = 300


class TreeKernel:
    """Tells the masks that the tree's ``status`` files tell."""

    def __init__(self, root: Path) -> None:
        self._root = root / "proc"
        procfs = Procfs(self._root)
        self.tids = procfs.tids
        self.children = procfs.children
        self._procfs = procfs

    def start_ticks(self, pid: int, tid: int | None = None) -> int:
        return self._procfs.stat(pid, tid).start_ticks

    def mask(self, tid: int) -> Mask:
        (status,) = self._root.glob(f"*/task/{tid}/status")
        rows = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return frozenset(parse_list(rows["Cpus_allowed_list"]))

    def set_mask(self, tid: int, mask: Mask) -> None:
        raise AssertionError("a survey changes nothing")


def seen(host: FakeHost, tools: tuple[int, ...] = (), gpus: tuple[Gpu, ...] = ()) -> Survey:
    kernel = TreeKernel(host.root)
    return survey(host.target(), kernel, tools, root=host.root, find=lambda: [Search(gpus)])


def planned(found: Survey) -> Plan:
    return propose(found.topology, found.members, found.allowed)


def gpu(index: int, bus: str) -> Gpu:
    return Gpu(index, "amd", "MI300", bus, "test", ())


@pytest.fixture
def free_host(tmp_path: Path) -> FakeHost:
    """The server may run anywhere, and has run on the wrong socket."""
    host = FakeHost(tmp_path)
    host.add(API, ["/usr/bin/python3", "-m", "vllm.entrypoints.openai.api_server"])
    host.add(CORE, ["VLLM::EngineCore"], comm="VLLM::EngineCor", parent=API)
    host.add(WORKER, ["VLLM::Worker"], comm="VLLM::Worker", parent=CORE, open_files=[GPU_FILE])
    return host


def test_each_process_is_seen_with_its_role_mask_and_gpu(free_host):
    found = seen(free_host)

    assert [(one.pid, one.role) for one in found.members] == [
        (API, "api_server"), (CORE, "engine_core"), (WORKER, "worker"),
    ]  # fmt: skip
    assert {format_list(one.mask) for one in found.members} == {ALL_CPUS}
    worker = found.members[2]
    assert (worker.device, worker.device_node) == (GPU, GPU_NODE)
    assert found.members[0].device is None


def test_the_worker_goes_to_its_gpu_and_the_engine_core_beside_it(free_host):
    plan = planned(seen(free_host))

    proposed = {one.member.pid: format_list(one.proposed or ()) for one in plan.placements}
    # Node N has CPUs 2N and 2N+1, nodes 2 and 3 are the GPU's socket; node 0 is left to the rest.
    assert proposed == {WORKER: "4-5", CORE: "6-7", API: "2-3"}


def test_a_plan_never_goes_beyond_what_the_server_may_use(tmp_path):
    found = seen(healthy(tmp_path))
    assert format_list(found.allowed) == "4-7"
    assert planned(found).moves == []  # two cores are too few for three busy processes


def test_a_worker_on_the_wrong_side_is_sent_to_its_gpu(tmp_path):
    wrong = seen(affinity_off_node(tmp_path))
    moves = {one.member.pid: one.proposed for one in planned(wrong).moves}
    assert moves[WORKER] == {4, 5}


def test_threads_that_were_bound_on_purpose_are_told_from_the_rest(free_host):
    free_host.add_thread(WORKER, 110)
    free_host.add_thread(WORKER, 111, cpus="2")
    free_host.add_thread(WORKER, 112, cpus="3")
    free_host.add_thread(WORKER, 113)

    worker = seen(free_host).members[2]

    assert worker.tids == (WORKER, 110, 113)
    assert (worker.bound_count, sorted(worker.bound)) == (2, [2, 3])


def test_of_several_gpus_opened_the_rank_tells(tmp_path):
    # Given two GPUs that both workers have opened, as CUDA and HIP do
    host = FakeHost(tmp_path)
    other = "sys/bus/pci/devices/0000:41:00.0"
    host.write(f"{other}/class", "0x120000")
    host.write(f"{other}/drm/renderD129/dev", "226:129")
    files = [GPU_FILE, "/dev/dri/renderD129"]
    host.add(API, ["/usr/bin/python3", "-m", "vllm.entrypoints.openai.api_server"])
    host.add(CORE, ["VLLM::EngineCore"], parent=API)
    for rank in (0, 1):
        host.add(WORKER + rank, [f"VLLM::Worker_TP{rank}"], parent=CORE, open_files=files)

    # When the driver counts them the other way round than PCI does
    by_driver = seen(host, gpus=(gpu(0, GPU), gpu(1, NVME)))
    by_address = seen(host)

    assert [one.device for one in by_driver.members[2:]] == [GPU, NVME]
    assert [one.device for one in by_address.members[2:]] == [NVME, GPU]


def test_an_engine_core_without_workers_is_near_its_own_gpu(tmp_path):
    host = FakeHost(tmp_path)
    host.add(API, ["/usr/bin/python3", "-m", "vllm.entrypoints.openai.api_server"])
    host.add(CORE, ["VLLM::EngineCore"], parent=API, open_files=[GPU_FILE])

    found = seen(host)

    assert found.members[1].device_node == GPU_NODE
    core = next(one for one in planned(found).placements if one.member.pid == CORE)
    assert core.proposed == {4, 5}


def test_tools_are_named_or_found_below_the_server(free_host):
    free_host.add(301, ["/usr/bin/sandbox"], comm="sandbox", parent=API)
    free_host.fake_proc.add(301, ["/usr/bin/sandbox"], parent=API, program="/usr/bin/sandbox")
    free_host.write("proc/301/task/301/status", "Cpus_allowed_list:\t0-7")
    free_host.add(TOOL_PID, ["/usr/bin/search"], comm="search")

    found = seen(free_host, tools=(TOOL_PID,))

    roles = {one.pid: one.role for one in found.members}
    assert roles[301] == roles[TOOL_PID] == TOOL
    proposed = {one.member.pid: one.proposed for one in planned(found).placements}
    assert proposed[301] == proposed[TOOL_PID] == {0, 1}


def test_a_tool_that_is_not_there_is_an_error(free_host):
    with pytest.raises(TargetNotFound, match="4711"):
        seen(free_host, tools=(4711,))
