"""The host probe's readers, its rows, and how it spares the machine it looks at."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from collectors import host_counters as names
from collectors.capture import open_capture
from probes.base import Context, Level
from probes.host import probe as host_probe
from probes.host.groups import PLACE_LOOKS, GroupReader
from probes.host.probe import HostProbe
from probes.host.readers import (
    read_cpu_times,
    read_frequencies,
    read_interrupts,
    read_pressures,
)
from probes.host.rows import LEVEL, TOTAL, CounterRows, Reading
from probes.target import find_target
from tests import hosts
from tests.hosts import FakeHost
from tests.recordings import make_recorder
from tests.waiting import wait_until

READERS = (read_cpu_times, read_frequencies, read_interrupts, read_pressures)
HALF = hosts.THROTTLED_GROUP


@pytest.fixture
def host(tmp_path) -> FakeHost:
    return hosts.throttled(tmp_path / "host")


def values(readings: list[Reading]) -> dict[tuple[str, str], float]:
    return {(one.name, one.labels): one.value for one in readings}


def rows_of(directory: Path) -> list[dict[str, Any]]:
    """The rows of ``counters``, each with its counter's name and labels."""
    capture = open_capture(directory)
    kinds = {one["counter"]: one for one in capture.table("counter_types").to_pylist()}
    return [kinds[row["counter"]] | row for row in capture.table("counters").to_pylist()]


def test_cpu_times_of_each_cpu_and_of_all(host):
    host.write(
        "proc/stat",
        "cpu  800 0 0 1600 0 0 0 40 7 7\ncpu0 500 1 2 700 4 5 6 39 7 7\ncpu12 1 2\nintr 9",
    )

    found = values(read_cpu_times(host.root, 0))

    assert found[names.CPU_TIME, "mode=idle"] == 16.0
    assert found[names.CPU_TIME, "cpu=0,mode=steal"] == 0.39
    assert found[names.CPU_TIME, "cpu=0,mode=softirq"] == 0.06
    # a kernel that counts less says less
    assert [key[1] for key in found if "cpu=12" in key[1]] == [
        "cpu=12,mode=user",
        "cpu=12,mode=nice",
    ]


def test_pressure_leaves_out_what_means_nothing_for_the_whole_system(host):
    found = values(read_pressures(host.root, 0))

    assert found[names.PRESSURE, "kind=some,resource=cpu"] > 0
    assert set(found) == {
        (names.PRESSURE, f"kind={kind},resource={resource}")
        for resource, kind in (
            ("cpu", "some"), ("memory", "some"), ("memory", "full"), ("io", "some"), ("io", "full"),
        )
    }  # fmt: skip


def test_interrupts_are_added_up_per_cpu(host):
    host.write(
        "proc/interrupts",
        "           CPU0       CPU2\n"
        "  0:         92          1   IO-APIC   2-edge      timer\n"
        "  9:          3          4   7 8 a device with numbers in its name\n"
        "LOC:        100        200   Local timer interrupts\n"
        "ERR:          5\n"
        "MIS:          6\n"
        "XYZ:          x          7\n",
    )

    found = values(read_interrupts(host.root, 0))

    assert found == {(names.INTERRUPTS, "cpu=0"): 195.0, (names.INTERRUPTS, "cpu=2"): 205.0}


def test_interrupts_of_the_captured_machine(host):
    assert len(read_interrupts(host.root, 0)) == 8


def test_frequency_in_hertz_and_none_where_there_is_no_cpufreq(host, tmp_path):
    assert values(read_frequencies(host.root, 0))[names.CPU_FREQUENCY, "cpu=7"] == 2.4e9
    assert read_frequencies(FakeHost(tmp_path / "bare").root, 0) == []


@pytest.mark.parametrize("reader", READERS)
def test_a_reader_of_nothing_has_nothing_to_say(reader, tmp_path):
    assert reader(tmp_path, 0) == []


@pytest.mark.parametrize("reader", READERS)
def test_a_reader_of_garbage_has_nothing_to_say(reader, host):
    garbage = "cpu garbage\n\udcff total=x\nsome avg10=x total=\n:::"
    for path in ("proc/stat", "proc/interrupts", "proc/pressure/cpu", "proc/pressure/memory",
                 "proc/pressure/io"):  # fmt: skip
        (host.root / path).write_text(garbage, errors="surrogateescape")
    for cpu in range(8):
        host.write(f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq", "<unknown>")

    assert reader(host.root, 0) == []


def test_throttling_stands_on_every_process_of_the_group(host):
    found = GroupReader(host.root).read({hosts.API: 5, hosts.CORE: 6})

    on_core = values([one for one in found if one.track == 6])
    assert on_core[names.CGROUP_QUOTA, f"cgroup={HALF}"] == 0.5
    assert on_core[names.CGROUP_THROTTLED_PERIODS, f"cgroup={HALF}"] == 89
    assert on_core == values([one for one in found if one.track == 5])
    # the group above has no quota, so nothing is said of it
    assert {labels for name, labels in on_core if name != names.PRESSURE} == {f"cgroup={HALF}"}
    assert on_core[names.PRESSURE, f"kind=some,resource=cpu,cgroup={HALF}"] > 0


def test_a_process_that_moves_to_another_group_is_found_there(host):
    groups = GroupReader(host.root)
    groups.read({hosts.CORE: 6})
    host.write(f"proc/{hosts.CORE}/cgroup", f"0::{hosts.FREE_GROUP}")

    looks = [groups.read({hosts.CORE: 6}) for _ in range(PLACE_LOOKS)]

    assert [any(one.name == names.CGROUP_QUOTA for one in look) for look in looks] == (
        [True] * (PLACE_LOOKS - 1) + [False]
    )


def test_a_process_that_ends_takes_its_rows_along(host):
    groups = GroupReader(host.root)
    (host.root / f"proc/{hosts.CORE}/cgroup").unlink()

    assert {one.track for one in groups.read({hosts.API: 5, hosts.CORE: 6})} == {5}


def test_a_group_that_was_removed_has_nothing_more_to_say(host):
    groups = GroupReader(host.root)
    groups.read({hosts.CORE: 6})
    directory = host.root / f"sys/fs/cgroup{HALF}"
    for path in directory.iterdir():
        path.unlink()

    assert groups.read({hosts.CORE: 6}) == []


def reading(kind: str, value: float) -> Reading:
    return Reading(0, "n", "", "count", kind, value)


def test_totals_are_written_when_they_change_and_when_they_began_to(tmp_path):
    # Given a total that stands still, moves, and stands still again
    recorder = make_recorder(tmp_path / "c")
    rows = CounterRows(recorder)

    # When
    for time_ns, value in ((10, 1.0), (20, 1.0), (30, 1.0), (40, 5.0), (50, 6.0), (60, 6.0)):
        rows.add(time_ns, [reading(TOTAL, value)])
    rows.close()
    recorder.close()

    # Then no change is spread over a time in which there was none
    written = [(row["time_ns"], row["value"]) for row in rows_of(tmp_path / "c")]
    assert written == [(10, 1.0), (30, 1.0), (40, 5.0), (50, 6.0), (60, 6.0)]


def test_levels_are_written_at_every_look(tmp_path):
    recorder = make_recorder(tmp_path / "c")
    rows = CounterRows(recorder)

    for time_ns in (10, 20):
        rows.add(time_ns, [reading(LEVEL, 3.0)])
    rows.close()
    recorder.close()

    assert [row["time_ns"] for row in rows_of(tmp_path / "c")] == [10, 20]


def started(host: FakeHost, directory: Path, rate_hz: float = 1.0) -> HostProbe:
    target = host.target()
    recorder = make_recorder(directory)
    probe = HostProbe(rate_hz)
    assert probe.check(target).level is Level.WORKS
    probe.start(Context(target, recorder, None, dict.fromkeys(target.processes, 0)))  # type: ignore[arg-type]
    return probe


def test_a_process_that_appears_is_described_and_followed(host, tmp_path):
    probe = started(host, tmp_path / "c")
    host.add(300, ["VLLM::Worker_TP1"], parent=hosts.CORE, cpus="2-3", group=HALF)
    (process,) = probe._context.target.refresh()
    probe._context.tracks[300] = 1

    probe.add(process)
    record = probe.stop()
    probe._context.recorder.close()

    assert record.detail["processes"]["300"]["cpus"] == (2, 3)
    late = [row for row in rows_of(tmp_path / "c") if row["track"] == 1]
    assert names.CGROUP_QUOTA in {row["name"] for row in late}


def test_a_process_that_appears_and_ends_at_once_is_no_trouble(host, tmp_path):
    probe = started(host, tmp_path / "c")
    process = probe._context.target.processes[hosts.API]

    probe.add(type(process)(999, 1, 1, "worker", "vllm", "VLLM::Worker", ()))
    record = probe.stop()
    probe._context.recorder.close()

    assert "999" not in record.detail["processes"]


def test_what_a_machine_does_not_show_is_said_with_its_reason(tmp_path):
    # Given a machine without pressure counters, frequencies or quotas
    host = hosts.healthy(tmp_path / "host")
    for path in host.root.glob("proc/pressure/*"):
        path.unlink()
    for path in host.root.glob("sys/devices/system/cpu/cpu*/cpufreq/scaling_cur_freq"):
        path.unlink()
    probe = started(host, tmp_path / "c")

    record = probe.stop()
    probe._context.recorder.close()

    sources = record.detail["sources"]
    assert "psi=0" in sources["pressure"]["absent"]
    assert "cpufreq" in sources["frequency"]["absent"]
    assert "absent" not in sources["cpu_times"]
    assert sources["cpu_times"]["look_count"] >= 1


def test_without_cpu_times_it_cannot_work(host):
    (host.root / "proc/stat").unlink()

    capability = HostProbe(root=host.root).check(host.target())

    assert capability.level is Level.UNAVAILABLE
    assert "stat" in str(capability.reason)


def test_a_dear_file_is_read_less_often():
    # Given a reader that costs 10 ms of CPU time a look
    source = host_probe._Source("interrupts", list, period_ns=1_000_000_000)
    source.look_count, source.cpu_ns = 3, 30_000_000

    source.settle(0)

    # Then it rests until that is 0.2 % of a core
    assert source.due_ns == 5_000_000_000


def test_a_cheap_file_is_read_at_every_tick():
    source = host_probe._Source("cpu_times", list, period_ns=1_000_000_000)
    source.look_count, source.cpu_ns = 3, 300_000

    source.settle(7)

    assert source.due_ns == 1_000_000_007


def test_the_real_machine_is_recorded(program, tmp_path):
    # Given a real program
    target = find_target(program.pid)
    recorder = make_recorder(tmp_path / "c")
    probe = HostProbe(rate_hz=50.0)
    assert probe.check(target).level is Level.WORKS

    # When
    probe.start(Context(target, recorder, None, {program.pid: 0}))  # type: ignore[arg-type]
    wait_until(lambda: probe._pacer.tick_count > 5, "a few looks")
    now_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    record = probe.stop()
    recorder.close()

    # Then all CPUs together were up for as long as the machine
    rows = rows_of(tmp_path / "c")
    last = {row["labels"]: row["value"] for row in rows if row["name"] == names.CPU_TIME}
    total_s = sum(value for labels, value in last.items() if "cpu=" not in labels)
    cpus = record.detail["host"]["topology"]["cpus"]
    assert 0 < total_s < now_s * len(cpus) * 1.1
    assert record.detail["processes"][str(program.pid)]["cpus"]
    assert record.cpu_seconds is not None
    assert record.cpu_seconds > 0


def test_what_the_system_refuses_becomes_a_gap(host, tmp_path):
    probe = started(host, tmp_path / "c")

    probe._miss(OSError(24, ""))
    probe.stop()
    probe._context.recorder.close()

    gaps = open_capture(tmp_path / "c").table("gaps").to_pylist()
    assert [os.strerror(24) in gap["reason"] for gap in gaps if gap["probe"] == "host"] == [True]
