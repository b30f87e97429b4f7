"""What the switch probe takes: ``python tests/bench/bench_switches.py [SECONDS]``.

Three figures, each beside what a user would reach for instead:

* how fast drained records become switches: ours, and one `struct.unpack` per record;
* the recorder's share of a core at 40 thousand switches a second: ours, and ``perf record``, which
  only writes what it reads into a file;
* what a switch costs the target, in every mode, with nobody reading.

Run it on a quiet machine; what a switch costs is the least of many rounds.
"""

from __future__ import annotations

import os
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from collectors.manifest import Manifest, TargetRecord
from collectors.recorder import Recorder
from probes.base import Context
from probes.perf.errors import PerfError
from probes.switches import plans
from probes.switches.layout import SWITCH_CPU_WIDE
from probes.switches.plans import Plan
from probes.switches.probe import SwitchProbe
from probes.switches.records import Drained, find_records
from probes.switches.sources import Source
from probes.switches.stays import Pairing
from probes.switches.switching import SwitchReader
from probes.target import find_target

SWITCHES_HZ = 40_000
RING_BYTES = 8 << 20
ROUNDS = 60
TRIPS = 500  # there and back, of one round: two switches each
# Two processes on one CPU hand a byte to and fro, or yield to one another; RATE switches a second.
LOAD = f"""
import os, sys, time
os.sched_setaffinity(0, {{max(os.sched_getaffinity(0))}})
there, back = os.pipe(), os.pipe()
end = time.monotonic() + 120  # should whoever started it be killed
if os.fork() == 0:
    os.close(there[1])  # so that it reads the end of the other
    while os.read(there[0], 1) == b"x":
        os.write(back[1], b"x")
    os._exit(0)
print("up", flush=True)
turn = time.monotonic()
while time.monotonic() < end:
    for _ in range({SWITCHES_HZ} // 100):
        os.write(there[1], b"x")
        os.read(back[0], 1)
    turn += 0.02
    time.sleep(max(0.0, turn - time.monotonic()))
"""


@contextmanager
def load() -> Iterator[subprocess.Popen[bytes]]:
    """Start the two processes; they end with the block."""
    with subprocess.Popen([sys.executable, "-c", LOAD], stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        running.stdout.readline()
        yield running
        running.kill()


def drain_some(plan: Plan, seconds: float) -> Drained:
    """Return what a second of the load writes."""
    source = Source(plan, plans.online_cpus(), 4 * RING_BYTES, lambda: [os.getpid()])
    source.enable()
    time.sleep(seconds)
    source.disable()
    drained = source.drain()
    source.close()
    return drained


def parse_ours(plan: Plan, drained: Drained) -> int:
    records = find_records(drained)
    switches = SwitchReader(plan.layout).read(drained, records)
    Pairing(len(drained.starts) - 1, 0).pair(switches, [])
    return len(records.kind)


def parse_one_by_one(drained: Drained) -> int:
    raw = drained.words.tobytes()
    position = count = 0
    coming: dict[int, int] = {}
    stays = []
    while position < len(raw):
        kind, misc, size = struct.unpack_from("<IHH", raw, position)
        if kind == SWITCH_CPU_WIDE:
            _, _, pid, tid, time_ns = struct.unpack_from("<IIIIQ", raw, position + 8)
            if not misc & 1 << 13:
                coming[tid] = time_ns
            elif tid in coming:
                stays.append((pid, tid, coming.pop(tid), time_ns))
        position += size
        count += 1
    return count


def bench_parsing() -> None:
    plan = plans.traced()
    with load():
        drained = drain_some(plan, 1.0)
    for name, parse in (
        ("ours", lambda: parse_ours(plan, drained)),
        ("one by one", lambda: parse_one_by_one(drained)),
    ):
        times = []
        for _ in range(5):
            began = time.thread_time()
            count = parse()
            times.append(time.thread_time() - began)
        print(f"  {name:12} {count / min(times) / 1e6:6.2f} million records/s")


def bench_recording(seconds: float) -> None:
    with load() as target, tempfile.TemporaryDirectory() as directory:
        found = find_target(target.pid)
        recorder = Recorder(Path(directory) / "c", Manifest(TargetRecord(1, "python"), 0, "bench"))
        context = Context(found, recorder, None)  # type: ignore[arg-type]
        for one in found.processes.values():
            context.tracks[one.pid] = recorder.process_track(
                one.pid, one.start_ticks, name=one.name, role=one.role
            )
        probe = SwitchProbe()
        probe.check(found)
        probe.start(context)
        before = time.process_time()
        time.sleep(seconds)
        detail = probe.stop().detail
        spent = time.process_time() - before
        recorder.close()
        print(
            f"  ours         {100 * detail['cpu_seconds'] / seconds:5.2f} % of a core"
            f" ({100 * spent / seconds:.2f} % with writing to disk),"
            f" {detail['slice_count'] / seconds:,.0f} slices/s,"
            f" {detail['record_count'] / seconds:,.0f} records/s, {detail['lost_count']} lost"
        )
        perf = shutil.which("perf")
        if perf is None:
            print("  perf record  not installed")
            return
        events = "sched:sched_switch,sched:sched_waking"
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        before_system = resource.getrusage(resource.RUSAGE_CHILDREN).ru_stime
        subprocess.run(
            [perf, "record", "-q", "-a", "-e", events, "-o", f"{directory}/perf.data",
             "sleep", str(seconds)],
            check=False, capture_output=True,
        )  # fmt: skip
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = usage.ru_utime - before + usage.ru_stime - before_system
        print(f"  perf record  {100 * spent / seconds:5.2f} % of a core, with its start and end")


def round_trip_ns(name: str) -> float:
    """Return the time of one switch between two processes on one CPU, by pipe or by yield."""
    there, back = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        for _ in range(TRIPS):
            if name == "pipe":
                os.read(there[0], 1)
                os.write(back[1], b"x")
            else:
                os.sched_yield()
        os._exit(0)
    began = time.perf_counter_ns()
    for _ in range(TRIPS):
        if name == "pipe":
            os.write(there[1], b"x")
            os.read(back[0], 1)
        else:
            os.sched_yield()
    spent = time.perf_counter_ns() - began
    os.waitpid(pid, 0)
    for end in (*there, *back):
        os.close(end)
    return spent / (2 * TRIPS)


def bench_switch_cost() -> None:
    modes = [None, *plans.PLANS]
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    for name in ("pipe", "yield"):
        least = dict.fromkeys(modes, float("inf"))
        for _ in range(ROUNDS):
            for mode in modes:
                source = None
                if mode is not None:
                    source = Source(
                        mode(), plans.online_cpus(), RING_BYTES >> 2, lambda: [os.getpid()]
                    )
                    source.enable()
                least[mode] = min(least[mode], round_trip_ns(name))
                if source is not None:
                    source.close()
        print(f"  {name}: {least[None]:.0f} ns a switch without the probe")
        for mode in plans.PLANS:
            print(f"    {mode.__name__:18} {least[mode] - least[None]:+6.0f} ns")
    os.sched_setaffinity(0, allowed)


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 5.0
    np.seterr(all="raise")
    try:
        print("parsing:")
        bench_parsing()
        print(f"recording at {SWITCHES_HZ:,} switches/s:")
        bench_recording(seconds)
        print("what a switch costs the target more:")
        bench_switch_cost()
    except PerfError as error:
        sys.exit(f"{error.message}; {error.remedy}")


if __name__ == "__main__":
    main()
