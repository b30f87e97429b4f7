"""The GPU counter probe: reads each GPU's sensors ten times a second, each on a thread of its own.

A driver may take its time: on AMD a reading asks the firmware, on NVIDIA the kernel's driver, and a
GPU in trouble answers neither. So nothing here waits for one without a limit, and one that hangs
leaves the others alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from collectors.manifest import ProbeRecord
from collectors.recorder import Recorder
from probes.base import Capability, Context, Level
from probes.gpu_counters import amd_smi, amd_sysfs, nvml
from probes.gpu_counters.devices import CONSTANT, DeviceGone, Gpu, Metric, Search
from probes.gpu_counters.visible import Choice, choose
from probes.pacer import Pacer
from probes.target import Process, Target

RATE_HZ: Final = 10.0
FLUSH_TICKS: Final = 10
# A GPU that is gone may come back after a reset.
GONE_DIVISOR: Final = 10
# Silence longer than this is a gap and no longer a long reading.
GAP_NS: Final = 1_000_000_000
# NVML wakes a GPU that sleeps, which takes seconds without its persistence daemon.
SEARCH_LIMIT_S: Final = 10.0
STOP_LIMIT_S: Final = 2.0

NO_GPU: Final = "docker run --gpus all (NVIDIA) or --device /dev/kfd --device /dev/dri (AMD)"
SILENT: Final = "no reading came back from the driver"

ResultT = TypeVar("ResultT")


class GpuCounterProbe:
    """Writes into ``counters``, on the device tracks."""

    name = "gpu_counters"

    def __init__(
        self, rate_hz: float = RATE_HZ, find: Callable[[], Sequence[Search]] | None = None
    ) -> None:
        """``find`` looks for GPUs; by default with all drivers."""
        self._rate_hz = rate_hz
        self._find = find or find_gpus
        self._choice = Choice((), "")
        self._samplers: list[_Sampler] = []
        self._context: Context

    def check(self, target: Target) -> Capability:
        """Look for GPUs, and for those among them that the target uses."""
        searches = within(SEARCH_LIMIT_S, lambda: list(self._find()))
        if searches is None:
            return self._unavailable(
                f"a GPU driver did not answer within {SEARCH_LIMIT_S:.0f} s",
                "see whether nvidia-smi or amd-smi answers",
            )
        gpus = [gpu for search in searches for gpu in search.gpus]
        remedy = next((search.remedy for search in searches if search.remedy), None)
        if not gpus:
            reasons = "; ".join(search.reason for search in searches if search.reason)
            level = Level.NOT_APPLICABLE if remedy is None else Level.UNAVAILABLE
            remedy = remedy or f"if there is one, in a container: {NO_GPU}"
            return Capability(self.name, level, f"no GPU: {reasons}", remedy)
        self._choice = choose(target, gpus)
        if not self._choice.gpus:
            return self._unavailable(
                f"the server is shown none of the {len(gpus)} GPUs ({self._choice.told_by})",
                f"start it without {self._choice.told_by}, if it is to use a GPU",
            )
        if remedy is not None:
            reason = "; ".join(search.reason for search in searches if search.remedy)
            return Capability(self.name, Level.DEGRADED, reason, remedy)
        return Capability(self.name, Level.WORKS)

    def start(self, context: Context) -> None:
        """Begin to read every GPU that the target uses."""
        self._context = context
        self._samplers = [
            _Sampler(self.name, gpu, context.recorder, self._rate_hz, self._say)
            for gpu in self._choice.gpus
        ]
        for sampler in self._samplers:
            sampler.start()

    def add(self, process: Process) -> None:
        """Nothing to do: the GPUs were chosen by what the server was shown at its start."""

    def stop(self) -> ProbeRecord:
        """Stop reading, and say what was read at which cost."""
        for sampler in self._samplers:
            sampler.begin_stop()
        limit_s = time.monotonic() + STOP_LIMIT_S
        for sampler in self._samplers:
            sampler.end(limit_s)
        record = Capability(self.name, Level.WORKS).record(self._rate_hz)
        rates = [one.achieved_hz for one in self._samplers if one.achieved_hz is not None]
        record.achieved_hz = min(rates, default=None)
        record.largest_gap_ns = max((one.largest_gap_ns for one in self._samplers), default=None)
        record.detail = {
            "chosen_by": self._choice.told_by or "nothing tells: all GPUs",
            "devices": {str(one.gpu.index): one.account() for one in self._samplers},
        }
        unseen = [one for one in self._samplers if one.trouble]
        if unseen:
            record.level = Level.DEGRADED.value
            record.reason = "; ".join(f"GPU {one.gpu.index}: {one.trouble}" for one in unseen)
        return record

    def _say(self, text: str) -> None:
        self._context.on_status(self.name, text)

    def _unavailable(self, reason: str, remedy: str) -> Capability:
        return Capability(self.name, Level.UNAVAILABLE, reason, remedy)


@dataclass(slots=True)
class _Cost:
    """What the readings of one GPU took; the last one may still be under way."""

    count: int = 0
    total_ns: int = 0
    longest_ns: int = 0
    cpu_ns: int = 0
    failed_counts: dict[str, int] = field(default_factory=dict)


class _Sampler:
    """Reads one GPU on its own thread."""

    def __init__(
        self, probe: str, gpu: Gpu, recorder: Recorder, rate_hz: float,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.gpu = gpu
        self.trouble = ""  # why the last readings gave nothing; empty when they gave something
        self.largest_gap_ns = 0
        self._probe = probe
        self._recorder = recorder
        self._say = say
        self._track = recorder.device_track(gpu.index, name=f"{gpu.name} {gpu.bus}")
        self._counters = {
            metric: recorder.counter(metric.name, "", unit=metric.unit, kind="level")
            for sensor in gpu.sensors
            for metric in sensor.metrics
        }
        self._pacer = Pacer(f"gpu {gpu.index}", rate_hz, self._tick, self._refused)
        self._stopper = threading.Thread(target=self._pacer.stop, daemon=True)
        self._constants: dict[Metric, float] = {}
        self._rows: list[tuple[int, int, int, float]] = []
        self._seen_ns = time.monotonic_ns()
        self._cost = _Cost()

    @property
    def achieved_hz(self) -> float | None:
        """Readings per second."""
        return self._pacer.achieved_hz

    def start(self) -> None:
        """Begin."""
        self._pacer.start()

    def begin_stop(self) -> None:
        """Read no more once the reading under way is over."""
        self._stopper.start()

    def end(self, limit_s: float) -> None:
        """Wait for the last reading until ``limit_s`` (monotonic), and hand over the rest."""
        self._stopper.join(max(0.0, limit_s - time.monotonic()))
        if self._stopper.is_alive():
            self.trouble = SILENT
        self._flush()
        if self.trouble:
            self._gap(time.monotonic_ns())

    def account(self) -> dict[str, object]:
        """Return what was read and what that cost, for the probe's record."""
        cost = self._cost
        return {
            "name": self.gpu.name,
            "bus": self.gpu.bus,
            "source": self.gpu.source,
            "metrics": [metric.name for metric in self._counters],
            "reading_count": cost.count,
            "mean_reading_s": cost.total_ns / 1e9 / cost.count if cost.count else None,
            "longest_reading_s": cost.longest_ns / 1e9 if cost.count else None,
            "cpu_s": cost.cpu_ns / 1e9,
            "failed_counts": cost.failed_counts,
        }

    def _tick(self, before_ns: int) -> None:
        cpu_before_ns = time.thread_time_ns()
        try:
            reading = self.gpu.read()
        except DeviceGone as error:
            self._miss(str(error))
            self._pacer.slow_down(GONE_DIVISOR)
            return
        after_ns = time.monotonic_ns()
        self._count(after_ns - before_ns, time.thread_time_ns() - cpu_before_ns)
        for metric in reading.failed:
            counts = self._cost.failed_counts
            counts[metric.name] = counts.get(metric.name, 0) + 1
        if not reading.values:
            self._miss("; ".join(dict.fromkeys(reading.failed.values())))
            return
        self._pacer.slow_down(1)
        if after_ns - self._seen_ns > GAP_NS:
            self._gap(after_ns)
        self.trouble = ""
        self.largest_gap_ns = max(self.largest_gap_ns, after_ns - self._seen_ns)
        self._seen_ns = after_ns
        self._keep((before_ns + after_ns) // 2, reading.values)
        if self._cost.count % FLUSH_TICKS == 0:
            self._flush()

    def _keep(self, time_ns: int, values: dict[Metric, float]) -> None:
        """Add rows; what cannot change is written when it does all the same."""
        for metric, value in values.items():
            if metric in CONSTANT:
                if self._constants.get(metric) == value:
                    continue
                self._constants[metric] = value
            self._rows.append((time_ns, self._track, self._counters[metric], value))

    def _flush(self) -> None:
        rows, self._rows = self._rows, []
        if rows:
            times, tracks, counters, values = map(list, zip(*rows, strict=True))
            columns = {"time_ns": times, "track": tracks, "counter": counters, "value": values}
            self._recorder.append("counters", columns)

    def _count(self, wall_ns: int, cpu_ns: int) -> None:
        self._cost.count += 1
        self._cost.total_ns += wall_ns
        self._cost.longest_ns = max(self._cost.longest_ns, wall_ns)
        self._cost.cpu_ns += cpu_ns

    def _miss(self, reason: str) -> None:
        if not self.trouble:
            self._say(f"GPU {self.gpu.index}: {reason}")
        self.trouble = reason

    def _refused(self, error: OSError) -> None:
        self._miss(f"the system refused: {error.strerror}")

    def _gap(self, now_ns: int) -> None:
        reason = self.trouble or SILENT
        self.largest_gap_ns = max(self.largest_gap_ns, now_ns - self._seen_ns)
        self._recorder.gap(self._probe, self._seen_ns, now_ns, reason, track=self._track)


def find_gpus() -> list[Search]:
    """Look with every driver; amdsmi only where the files of its driver show nothing."""
    amd = amd_sysfs.find_gpus()
    return [amd if amd.gpus else _better(amd, amd_smi.find_gpus()), nvml.find_gpus()]


def _better(first: Search, second: Search) -> Search:
    return second if second.gpus else first


def within(limit_s: float, work: Callable[[], ResultT]) -> ResultT | None:
    """Return what ``work`` returns, or None when it takes longer; it then goes on alone."""
    results: list[ResultT] = []
    worker = threading.Thread(target=lambda: results.append(work()), daemon=True)
    worker.start()
    worker.join(limit_s)
    return results[0] if results else None
