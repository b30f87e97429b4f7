"""What one look at a process's Python stacks costs: the memory reader beside py-spy.

The target has threads that sleep thirty calls deep and one that works. CPU time is that of the
reader alone; "after a pause" is what a sampler pays, whose caches are cold when it wakes.

    python tests/bench/bench_stacks.py --threads 10 --seconds 5
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from probes.pyspy import find_pyspy
from probes.stacks.finder import find_stacks
from probes.stacks.reader import StackReader
from probes.stacks.table import Interned

RATE_HZ = 100
TARGET = """
import sys, threading
def sleep(depth):
    threading.Event().wait() if not depth else sleep(depth - 1)
def work(depth):
    return sum(range(depth)) if depth < 3 else work(depth - 1) + work(depth - 3)
for _ in range(int(sys.argv[1])):
    threading.Thread(target=sleep, args=(30,), daemon=True).start()
print('up', flush=True)
while True: work(20)
"""


@contextlib.contextmanager
def target(thread_count: int) -> Iterator[int]:
    """Run the target and yield its PID."""
    command = [sys.executable, "-c", TARGET, str(thread_count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


def reader_us(pid: int, seconds: float, pause_s: float) -> float:
    """Return the memory reader's CPU time for a look, us."""
    with StackReader(find_stacks(pid), Interned()) as reader:
        reader.read(time.monotonic_ns())
        count, began_s, cpu_s = 0, time.monotonic(), time.process_time()
        while time.monotonic() - began_s < seconds:
            reader.read(time.monotonic_ns())
            count += 1
            if pause_s:
                time.sleep(pause_s)
        return (time.process_time() - cpu_s) / count * 1e6


def pyspy_us(pid: int, seconds: float) -> float:
    """Return py-spy's CPU time for a look at the rate asked, us; its start is left out."""
    with tempfile.TemporaryDirectory() as place:
        command = [
            str(find_pyspy()), "record", "--nonblocking", "--idle", "--threads",
            "--rate", str(RATE_HZ), "--duration", str(int(seconds) + 5), "--format", "raw",
            "--pid", str(pid), "--output", str(Path(place) / "out"),
        ]  # fmt: skip
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as one:
            time.sleep(2.0)  # its start
            recorder = psutil.Process(one.pid)
            before, began_s = recorder.cpu_times(), time.monotonic()
            time.sleep(seconds)
            after, wall_s = recorder.cpu_times(), time.monotonic() - began_s
            one.kill()
    cpu_s = after.user + after.system - before.user - before.system
    return cpu_s / (wall_s * RATE_HZ) * 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    with target(options.threads) as pid:
        rows = [
            ("memory reader, at once", reader_us(pid, options.seconds, 0.0)),
            ("memory reader, after a pause", reader_us(pid, options.seconds, 1 / RATE_HZ)),
            ("py-spy record, non-blocking", pyspy_us(pid, options.seconds)),
        ]
    print(f"{options.threads} sleeping threads and one at work; {os.cpu_count()} CPUs")
    print(f"{'':30} {'CPU us a look':>14} {'of a core at 100 Hz':>20}")
    for name, cost_us in rows:
        print(f"{name:30} {cost_us:14.0f} {cost_us * RATE_HZ / 1e6:20.2%}")


if __name__ == "__main__":
    main()
