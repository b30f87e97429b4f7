"""What one reading of each GPU sensor here costs: ``python tests/bench/bench_gpu_counters.py``.

Wall time is how long the driver keeps the reading thread, CPU time what it takes from the server
(the driver's own part within the call included). Says so when there is no GPU.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from probes.gpu_counters.devices import Gpu, Sensor, SensorFailed
from probes.gpu_counters.probe import RATE_HZ, find_gpus

READING_COUNT = 50


def measure(sensor: Sensor) -> tuple[list[float], float, int]:
    """Return each reading's wall time and the mean CPU time in ms, and how many failed."""
    walls_ms, failed_count = [], 0
    cpu_before_ns = time.thread_time_ns()
    for _ in range(READING_COUNT):
        before_ns = time.monotonic_ns()
        try:
            sensor.read()
        except SensorFailed:
            failed_count += 1
        walls_ms.append((time.monotonic_ns() - before_ns) / 1e6)
    return walls_ms, (time.thread_time_ns() - cpu_before_ns) / 1e6 / READING_COUNT, failed_count


def show(gpu: Gpu) -> None:
    """Print one row per sensor, and what all of them cost at the probe's rate."""
    print(f"\nGPU {gpu.index}: {gpu.name} {gpu.bus} through {gpu.source}, {READING_COUNT} readings")
    print(f"{'sensor':50}{'median ms':>10}{'longest':>10}{'CPU ms':>10}{'failed':>8}")
    total_cpu_ms = total_wall_ms = 0.0
    for sensor in gpu.sensors:
        walls_ms, cpu_ms, failed_count = measure(sensor)
        name = ", ".join(metric.name for metric in sensor.metrics)
        median_ms, longest_ms = statistics.median(walls_ms), max(walls_ms)
        print(f"{name:50}{median_ms:10.3f}{longest_ms:10.3f}{cpu_ms:10.3f}{failed_count:8}")
        total_wall_ms += median_ms
        total_cpu_ms += cpu_ms
    print(
        f"one look: {total_wall_ms:.2f} ms, {total_cpu_ms:.2f} ms of CPU; "
        f"at {RATE_HZ:g} Hz {total_cpu_ms * RATE_HZ / 10:.2f} % of a core"
    )
    reading = gpu.read()
    print("now:", ", ".join(f"{one.name}={value:g}" for one, value in reading.values.items()))


def main() -> None:
    searches = find_gpus()
    gpus = [gpu for search in searches for gpu in search.gpus]
    if not gpus:
        print("no GPU to measure:", "; ".join(search.reason for search in searches))
    for gpu in gpus:
        show(gpu)


if __name__ == "__main__":
    main()
