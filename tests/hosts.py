"""A machine of four memory nodes, captured in a virtual one, with a server of one's own on it.

Nodes 0 and 1 are one socket, 2 and 3 the other; node N has CPUs 2N and 2N+1, threads of one core.
`GPU` is near node 2, `NVME` near node 1, `NETWORK` near node 3. The tree is made by
tests/data/hosts/capture_four_nodes.py; processes are added to it here.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from collectors.recorder import Recorder
from probes.base import Context
from probes.host.probe import HostProbe
from probes.numa.probe import NumaProbe
from probes.target import Target, find_target
from tests.fakeproc import FakeProc
from tests.recordings import make_manifest

TREE: Final = Path(__file__).parent / "data/hosts/four_nodes.json"
GPU: Final = "0000:81:00.0"
NVME: Final = "0000:41:00.0"
NETWORK: Final = "0000:c1:00.0"
GPU_FILE: Final = "/dev/dri/renderD128"
GPU_NODE: Final = 2
FAR_NODE: Final = 0  # in the other socket
ALL_CPUS: Final = "0-7"
FREE_GROUP: Final = "/pod.slice"  # no quota
THROTTLED_GROUP: Final = "/pod.slice/serving"  # half a CPU, used up in 89 of 90 periods

API, CORE, WORKER = 100, 101, 102
_ENOENT: Final = 2
# Field 39 of /proc/PID/stat is the 36th after the parenthesis.
_LAST_CPU: Final = 36


class FakeHost:
    """The machine below ``root``: ``root/proc`` and ``root/sys``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.fake_proc = FakeProc(root / "proc")
        self.procfs = self.fake_proc.procfs
        self._page_shares: dict[int, Mapping[int, float]] = {}
        tree = json.loads(TREE.read_text())
        for path, text in tree["files"].items():
            self.write(path, text)
        for path, link in tree["links"].items():
            (root / path).symlink_to(link)
        # As with its driver, which the virtual machine had none of.
        self.write(f"sys/bus/pci/devices/{GPU}/drm/renderD128/dev", "226:128")
        (root / f"sys/bus/pci/devices/{GPU}/driver").symlink_to("../../bus/pci/drivers/amdgpu")

    def write(self, path: str, text: str) -> None:
        """Write a file of the tree, with the line's end that sysfs gives."""
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text + "\n")

    def add(
        self, pid: int, cmdline: Sequence[str], *, comm: str = "python", parent: int = 1,
        cpus: str = ALL_CPUS, last_cpu: int = 0, nodes: str = "0-3",
        open_files: Sequence[str] = (), group: str = FREE_GROUP, policy: str = "default",
    ) -> None:  # fmt: skip
        """Add a process that may run on ``cpus`` and last ran on ``last_cpu``."""
        self.fake_proc.add(pid, list(cmdline), parent=parent, comm=comm)
        self._place(pid, pid, cpus, last_cpu, nodes)
        self.write(f"proc/{pid}/cgroup", f"0::{group}")
        line = f"{policy} file=/usr/bin/python3.11 mapped=2 N0=2 kernelpagesize_kB=4"
        self.write(f"proc/{pid}/numa_maps", f"55d0c0000000 {line}")
        self.write(f"proc/{pid}/maps", "55d0c0000000-55d1c0000000 rw-p 00000000 00:00 0 [heap]")
        (self.root / f"proc/{pid}/fd").mkdir()
        for number, path in enumerate(("/dev/null", *open_files)):
            (self.root / f"proc/{pid}/fd/{number}").symlink_to(path)

    def add_thread(
        self, pid: int, tid: int, *, comm: str = "python", cpus: str = ALL_CPUS, last_cpu: int = 0,
        nodes: str = "0-3",
    ) -> None:  # fmt: skip
        """Add another thread to a process."""
        main = self.root / f"proc/{pid}/task/{pid}"
        for name in ("stat", "status", "schedstat"):
            text = (main / name).read_text().replace("(python)", f"({comm})", 1).rstrip("\n")
            self.write(f"proc/{pid}/task/{tid}/{name}", text)
        self._place(pid, tid, cpus, last_cpu, nodes)

    def govern(self, governor: str, frequency_khz: int = 2_400_000) -> None:
        """Give every CPU a frequency governor, which a virtual machine has none of."""
        for cpu in range(8):
            directory = f"sys/devices/system/cpu/cpu{cpu}/cpufreq"
            self.write(f"{directory}/scaling_governor", governor)
            self.write(f"{directory}/scaling_cur_freq", str(frequency_khz))

    def put_pages(self, pid: int, shares: Mapping[int, float]) -> None:
        """Let shares of a process's pages lie on nodes; the rest is not present."""
        self._page_shares[pid] = shares

    def find_nodes(self, pid: int, addresses: NDArray[np.uint64]) -> NDArray[np.int32]:
        """Stand in for move_pages(2) on the processes of this machine."""
        shares = self._page_shares.get(pid, {})
        edges = np.cumsum(list(shares.values()))
        nodes = np.array([*shares, -_ENOENT], np.int32)
        hashes = [zlib.crc32(page.tobytes()) / 2**32 for page in addresses]
        return nodes[np.searchsorted(edges, hashes, side="right")]

    def target(self, pid: int = API) -> Target:
        """Return the server's tree."""
        return find_target(pid, self.procfs)

    def _place(self, pid: int, tid: int, cpus: str, last_cpu: int, nodes: str) -> None:
        allowed = f"Cpus_allowed_list:\t{cpus}\nMems_allowed_list:\t{nodes}\nVmSwap:\t       0 kB\n"
        places = [f"proc/{pid}/task/{tid}", *([f"proc/{pid}"] if tid == pid else [])]
        for place in places:
            head, _, tail = (self.root / place / "stat").read_text().rpartition(")")
            fields = tail.split()
            fields[_LAST_CPU] = str(last_cpu)
            self.write(f"{place}/stat", f"{head}) {' '.join(fields)}")
            rows = (self.root / place / "status").read_text().splitlines()
            rows = [row for row in rows if row.split(":")[0] not in allowed]
            # The switches stand last, as in the kernel's file.
            self.write(f"{place}/status", "\n".join([*rows[:-2], allowed.rstrip("\n"), *rows[-2:]]))


def serving_host(
    root: Path, *, core_cpus: str = "4-7", core_last: int = 4, worker_cpus: str = "4-7",
    worker_last: int = 5, worker_pages: Mapping[int, float] | None = None,
    group: str = FREE_GROUP,
) -> FakeHost:  # fmt: skip
    """Return the machine with a vLLM server; by default all of it is on the GPU's socket."""
    host = FakeHost(root)
    everything = {"group": group}
    host.add(
        API, ["/usr/bin/python3", "-m", "vllm.entrypoints.openai.api_server", "--model", "tiny"],
        cpus="4-7", last_cpu=6, **everything,
    )  # fmt: skip
    host.add(
        CORE, ["VLLM::EngineCore"], comm="VLLM::EngineCor", parent=API,
        cpus=core_cpus, last_cpu=core_last, **everything,
    )  # fmt: skip
    host.add(
        WORKER, ["VLLM::Worker"], comm="VLLM::Worker", parent=CORE,
        cpus=worker_cpus, last_cpu=worker_last, open_files=[GPU_FILE], **everything,
    )  # fmt: skip
    near = {GPU_NODE: 0.3}
    host.put_pages(API, near)
    host.put_pages(CORE, near)
    host.put_pages(WORKER, worker_pages or near)
    host.govern("performance")
    return host


def healthy(root: Path) -> FakeHost:
    """Everything runs near the GPU, and its memory lies there."""
    return serving_host(root)


def scheduler_off_node(root: Path) -> FakeHost:
    """EngineCore may run anywhere, and runs in the other socket."""
    return serving_host(root, core_cpus=ALL_CPUS, core_last=0)


def memory_off_node(root: Path) -> FakeHost:
    """The worker runs near its GPU; most of its memory lies in the other socket."""
    return serving_host(root, worker_pages={FAR_NODE: 0.25, GPU_NODE: 0.05})


def affinity_off_node(root: Path) -> FakeHost:
    """The worker may not run near its GPU at all."""
    return serving_host(root, worker_cpus="0-3", worker_last=1)


def throttled(root: Path) -> FakeHost:
    """A healthy server in a group that has used up its quota in nearly every period."""
    return serving_host(root, group=THROTTLED_GROUP)


CASES: Final[dict[str, Callable[[Path], FakeHost]]] = {
    case.__name__: case
    for case in (healthy, scheduler_off_node, memory_off_node, affinity_off_node, throttled)
}


def record_host(host: FakeHost, directory: Path) -> tuple[Recorder, dict[int, int]]:
    """Return a recording that the host and NUMA probes have looked into, and the processes' tracks.

    It is still open: add rows of other tables, then close it. Threads have no tracks yet.
    """
    target = host.target()
    recorder = Recorder(directory, make_manifest())
    context = Context(target, recorder, keeper=None)  # type: ignore[arg-type]
    for process in target.processes.values():
        context.tracks[process.pid] = recorder.process_track(
            process.pid, process.start_ticks, name=process.name, role=process.role,
            rank=process.rank, parent=context.tracks.get(process.parent_pid),
        )  # fmt: skip
    recorder.manifest.target.root_pid, recorder.manifest.target.kind = API, target.kind
    recorder.manifest.target.processes = [one.record() for one in target.processes.values()]
    probes = [HostProbe(), NumaProbe(find=host.find_nodes, seed=1)]
    for probe in probes:
        probe.check(target)
        probe.start(context)
    recorder.manifest.probes = [probe.stop() for probe in probes]
    recorder.manifest.write(directory)
    return recorder, context.tracks
