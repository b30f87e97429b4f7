"""What one look at a GIL costs, and what the sampler takes: ``python tests/bench/bench_gil.py``.

The targets are three programs that are busy half of the time. Figures depend on the machine; run
it on a quiet one.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from probes.gil.layout import GIL_BYTES, GilLayout
from probes.gil.link import SamplerLink
from probes.gil.reader import GilReader
from probes.gil.runtime import find_gil
from probes.keeper import Keeper
from probes.pyspy import find_pyspy

HALF_BUSY = """
import time
print("up", flush=True)
end = time.monotonic() + 300  # should whoever started it be killed
while time.monotonic() < end:
    until = time.monotonic() + 0.003
    while time.monotonic() < until: pass
    time.sleep(0.003)
"""
PROCESS_COUNT = 3
ROUND_COUNT = 51
SECONDS = 4.0
RATES_HZ = (200, 1000, 5000, 10_000)


class Vector(ctypes.Structure):
    """struct iovec, see process_vm_readv(2)."""

    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


@contextmanager
def programs(count: int) -> Iterator[list[GilLayout]]:
    """Run the targets and yield where their GILs are."""
    started = [
        subprocess.Popen([sys.executable, "-c", HALF_BUSY], stdout=subprocess.PIPE)
        for _ in range(count)
    ]
    try:
        for program in started:
            assert program.stdout is not None
            program.stdout.readline()
        yield [find_gil(program.pid) for program in started]
    finally:
        for program in started:
            program.kill()
            program.communicate()


def cost_us(look: Callable[[], object], looks: int = 200) -> float:
    """Return the median over short rounds: other programs' work then hits only some of them."""
    rounds = []
    for _ in range(ROUND_COUNT):
        begin_ns = time.perf_counter_ns()
        for _ in range(looks):
            look()
        rounds.append((time.perf_counter_ns() - begin_ns) / looks / 1e3)
    return statistics.median(rounds)


def by_process_vm_readv(layout: GilLayout) -> Callable[[], object]:
    """Return a look by the other system call that reads foreign memory."""
    buffer = ctypes.create_string_buffer(GIL_BYTES)
    ours = Vector(ctypes.addressof(buffer), GIL_BYTES)
    theirs = Vector(layout.gil_address, GIL_BYTES)
    read = ctypes.CDLL(None).process_vm_readv
    arguments = (layout.pid, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0)

    def look() -> object:
        read(*arguments)
        return buffer  # and so keep it: the kernel writes to where it lies

    return look


def by_pyspy(layout: GilLayout) -> Callable[[], object]:
    """Return a look by a whole run of py-spy."""
    program = str(find_pyspy() or shutil.which("py-spy"))
    command = [program, "dump", "--nonblocking", "--pid", str(layout.pid)]
    return lambda: subprocess.run(command, capture_output=True, check=True)


def print_looks(layout: GilLayout) -> None:
    """Print the cost of one look by each method."""
    memory = os.open(f"/proc/{layout.pid}/mem", os.O_RDONLY)
    buffers = [bytearray(GIL_BYTES)]
    print(f"{'one look at one process':44}  us")
    print(f"{'preadv on /proc/PID/mem':44}  "
          f"{cost_us(lambda: os.preadv(memory, buffers, layout.gil_address)):.2f}")  # fmt: skip
    print(f"{'process_vm_readv through ctypes':44}  {cost_us(by_process_vm_readv(layout)):.2f}")
    with GilReader(layout) as reader:

        def look() -> int:
            return reader.holder_tid(reader.read(), time.monotonic_ns())

        print(f"{'GilReader: state, holder, waiter count':44}  {cost_us(look):.2f}")
        print(
            f"{'GilReader.waiters: who, one thread':44}  {cost_us(lambda: reader.waiters(1)):.2f}"
        )
    print(f"{'py-spy dump':44}  {cost_us(by_pyspy(layout), 1):.0f}")
    os.close(memory)


def print_sampler(layouts: list[GilLayout], *, is_realtime: bool) -> None:
    """Print what the sampler child takes and achieves at several rates."""
    priority = "real-time" if is_realtime else "normal"
    print(f"\n{PROCESS_COUNT} processes, {priority} priority")
    print("asked Hz  got Hz  CPU % of a core  largest gap ms")
    for rate_hz in RATES_HZ:
        keeper = Keeper()
        stopping = threading.Event()
        link = SamplerLink(
            keeper, layouts, rate_hz=rate_hz, look_hz=rate_hz / 5, is_realtime=is_realtime
        )
        timer = threading.Timer(SECONDS, stopping.set)
        timer.start()
        batches = [batch for batch in link.batches(stopping) if batch is not None]
        link.close()
        keeper.close()
        # The first batch's CPU time holds the interpreter's start.
        times_ns = np.concatenate([batch.samples["time_ns"] for batch in batches[1:]])
        span_ns = int(times_ns[-1] - times_ns[0])
        got_hz = len(times_ns) / len(layouts) * 1e9 / span_ns
        cpu = 100 * (batches[-1].cpu_ns - batches[0].cpu_ns) / span_ns
        gap_ms = max(batch.largest_gap_ns for batch in batches[1:]) / 1e6
        print(f"{rate_hz:8}  {got_hz:6.0f}  {cpu:15.2f}  {gap_ms:14.2f}")


def main() -> None:
    """Print all tables."""
    with programs(PROCESS_COUNT) as layouts:
        print_looks(layouts[0])
        print_sampler(layouts, is_realtime=False)
        print_sampler(layouts, is_realtime=True)


if __name__ == "__main__":
    main()
