"""Boots a machine of four memory nodes in QEMU and keeps what its /proc and /sys say.

    apt-get install qemu-system-x86 busybox-static
    apt-get download linux-image-6.1.0-50-amd64 && dpkg-deb -x linux-image-*.deb image
    python tests/data/hosts/capture_four_nodes.py image tests/data/hosts/four_nodes.json

The machine: two sockets of two nodes each, each node one core of two threads and 256 MiB; a GPU
near node 2, an NVMe near node 1, a network card near node 3, and a management console whose node
the firmware does not say. One process ("serving"), held to the CPUs of node 0, burns CPU in a
control group with a quota of half a CPU, below a group without one. QEMU translates the code (TCG),
so no virtualisation is needed.

The guest's init is the shell script below: it writes "@PATH", then the file, to the second serial
port. Not part of the tests: they use the kept file.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

TIME_LIMIT_S: Final = 180
NODE_COUNT: Final = 4
MODULES: Final = ("nvme", "e1000e")
BUSYBOX: Final = Path("/bin/busybox")
# ACPI's relative distances: 10 is local, 12 the other half of the socket, 32 the other socket.
DISTANCES: Final = {(0, 1): 12, (2, 3): 12}
OTHER_SOCKET: Final = 32

INIT: Final = r"""#!/busybox sh
/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t cgroup2 cgroup /sys/fs/cgroup
for module in $(cat /modules/order); do insmod /modules/$module; done
cd /sys/fs/cgroup
echo '+cpu +cpuset' > cgroup.subtree_control
mkdir -p pod.slice
echo '+cpu +cpuset' > pod.slice/cgroup.subtree_control
mkdir pod.slice/serving
echo '50000 100000' > pod.slice/serving/cpu.max
(
  echo 0 > pod.slice/serving/cgroup.procs
  exec taskset 3 sh -c 'while :; do :; done'
) &
serving=$!
sleep 6
stty -F /dev/ttyS1 raw
keep() {
  for file in "$@"; do
    [ -f "$file" ] && text=$(cat "$file" 2>/dev/null) && printf '@%s\n%s\n' "${file#/}" "$text"
  done
}
link() {
  for file in "$@"; do
    [ -h "$file" ] && printf '>%s\n%s\n' "${file#/}" "$(readlink "$file")"
  done
}
node=/sys/devices/system/node cpu=/sys/devices/system/cpu pci=/sys/bus/pci/devices
{
  keep $node/online $node/possible $node/has_cpu $node/has_memory
  keep $node/node*/cpulist $node/node*/distance $node/node*/meminfo $node/node*/numastat
  keep $cpu/online $cpu/possible $cpu/present $cpu/isolated $cpu/nohz_full $cpu/smt/active
  keep $cpu/cpu[0-9]*/topology/physical_package_id $cpu/cpu[0-9]*/topology/core_id
  keep $cpu/cpu[0-9]*/topology/thread_siblings_list
  keep $cpu/cpu[0-9]*/cache/index*/level $cpu/cpu[0-9]*/cache/index*/shared_cpu_list
  for name in class vendor device numa_node local_cpulist; do keep $pci/*/$name; done
  keep $pci/*/net/*/operstate $pci/*/nvme/*/model $pci/*/nvme/*/numa_node
  link $pci/*/driver
  keep /proc/stat /proc/interrupts /proc/pressure/* /proc/meminfo /proc/cpuinfo
  keep /proc/sys/kernel/numa_balancing /proc/sys/vm/swappiness /proc/self/mountinfo
  keep /sys/kernel/mm/transparent_hugepage/enabled /sys/kernel/mm/transparent_hugepage/defrag
  for group in /sys/fs/cgroup /sys/fs/cgroup/pod.slice /sys/fs/cgroup/pod.slice/serving; do
    keep $group/cgroup.type $group/cpu.max $group/cpu.stat $group/cpu.pressure
    keep $group/cpuset.cpus.effective $group/cpuset.mems.effective
  done
  for name in cgroup status stat maps numa_maps; do keep /proc/$serving/$name; done
  printf '@end\n%s\n' $serving
} > /dev/ttyS1
sync
poweroff -f
"""


def machine(kernel: Path, initramfs: Path, disk: Path, output: Path) -> list[str]:
    """Return QEMU's command line."""
    command = [
        "qemu-system-x86_64", "-machine", "q35", "-accel", "tcg", "-cpu", "max,vendor=GenuineIntel",
        "-m", "1024",
        "-smp", "8,sockets=2,cores=2,threads=2", "-vga", "none", "-display", "none",
        "-no-reboot", "-nic", "none", "-monitor", "none",
        "-serial", "stdio", "-serial", f"file:{output}",
        "-kernel", str(kernel), "-initrd", str(initramfs),
        "-append", "console=ttyS0 quiet panic=-1 psi=1 rdinit=/init",
        "-device", "VGA", "-drive", f"file={disk},format=raw,if=none,id=disk",
    ]  # fmt: skip
    for node in range(NODE_COUNT):
        command += [
            "-object", f"memory-backend-ram,id=memory{node},size=256M",
            "-numa", f"node,nodeid={node},cpus={2 * node}-{2 * node + 1},memdev=memory{node}",
        ]  # fmt: skip
        if node:  # the root bus itself belongs to no node
            bus = f"pxb-pcie,id=bus{node},bus=pcie.0,bus_nr={0x40 * node},numa_node={node}"
            port = f"pcie-root-port,id=port{node},bus=bus{node},chassis={node},slot=0"
            command += ["-device", bus, "-device", port]
    for first, second in itertools.combinations(range(NODE_COUNT), 2):
        distance = DISTANCES.get((first, second), OTHER_SOCKET)
        command += ["-numa", f"dist,src={first},dst={second},val={distance}"]
    return [
        *command,
        "-device", "nvme,serial=1,drive=disk,bus=port1",
        "-device", "ati-vga,bus=port2,romfile=",
        "-device", "e1000e,bus=port3,romfile=",
    ]  # fmt: skip


def needed_modules(directory: Path) -> list[Path]:
    """Return the modules and what they depend on, in the order to load them."""
    paths = {path.stem.replace("-", "_"): path for path in directory.rglob("*.ko")}
    ordered: list[str] = []

    def load(name: str) -> None:
        if name not in ordered and name in paths:
            found = re.search(rb"\0depends=([^\0]*)\0", paths[name].read_bytes())
            for needed in (found[1].decode() if found else "").split(","):
                load(needed.replace("-", "_"))
            ordered.append(name)

    for module in MODULES:
        load(module)
    return [paths[name] for name in ordered]


def archive(files: dict[str, tuple[int, bytes]]) -> bytes:
    """Return a cpio archive (newc) of (mode, content) by path.

    Format: Documentation/driver-api/early-userspace/buffer-format.rst of the kernel.
    """

    def entries() -> Iterator[bytes]:
        for inode, (path, (mode, content)) in enumerate(files.items(), start=1):
            name = path.encode() + b"\0"
            fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0)
            head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
            yield head + b"\0" * (-len(head) % 4) + content + b"\0" * (-len(content) % 4)

    return b"".join(entries())


def initramfs(modules: list[Path]) -> bytes:
    """Return the guest's first and only file system."""
    directories = ("bin", "dev", "proc", "sys", "modules")
    files: dict[str, tuple[int, bytes]] = dict.fromkeys(directories, (0o040755, b""))
    files["init"] = (0o100755, INIT.encode())
    files["busybox"] = (0o100755, BUSYBOX.read_bytes())
    files["modules/order"] = (0o100644, "\n".join(path.name for path in modules).encode())
    files |= {f"modules/{path.name}": (0o100644, path.read_bytes()) for path in modules}
    files["TRAILER!!!"] = (0, b"")
    return archive(files)


def parse(text: str) -> dict[str, dict[str, str]]:
    """Return what the guest wrote, as files and links by path, without the kernel's log lines."""
    found: dict[str, dict[str, str]] = {"files": {}, "links": {}}
    for mark, path, content in re.findall(r"^([@>])(\S+)\n(.*?)\n?(?=^[@>]|\Z)", text, re.M | re.S):
        found["files" if mark == "@" else "links"][path] = content
    serving = found["files"].pop("end")
    # Its PID says nothing; the tests know it by name. Most features of a CPU are of no use here.
    files = {
        path.replace(f"proc/{serving}/", "proc/serving/"): content
        for path, content in found["files"].items()
    }
    files["proc/cpuinfo"] = files["proc/cpuinfo"].partition("flags")[0]
    return {"files": files, "links": found["links"]}


def main() -> None:
    image, kept = Path(sys.argv[1]), Path(sys.argv[2])
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        initrd, disk, output = (directory / name for name in ("initrd", "disk", "output"))
        initrd.write_bytes(initramfs(needed_modules(image / "lib/modules")))
        disk.write_bytes(b"\0" * (1 << 20))
        kernel = next(image.glob("boot/vmlinuz-*"))
        command = machine(kernel, initrd, disk, output)
        subprocess.run(command, check=True, timeout=TIME_LIMIT_S, stdin=subprocess.DEVNULL)
        tree = parse(output.read_text("utf-8", "replace").replace("\r\n", "\n"))
    kept.write_text(json.dumps(tree, indent=1, sort_keys=True) + "\n")
    print(f"{len(tree['files'])} files, {kept.stat().st_size} bytes")


if __name__ == "__main__":
    main()
