"""Counters of single threads, against a fake of perf_event_open: no PMU is here to count with."""

from __future__ import annotations

import errno
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from collectors import host_counters as names
from collectors.capture import open_capture
from probes.base import Context, Level
from probes.cpu_counters import probe as cpu_counters
from probes.cpu_counters.events import (
    AMD,
    INTEL,
    SOFTWARE,
    CpuIdentity,
    hardware_events,
    read_cpu_identity,
)
from probes.cpu_counters.groups import EventGroup, may_count_kernel, open_group
from probes.cpu_counters.probe import CHOOSE_TICKS, CpuCounterProbe
from probes.perf.attributes import Flag, Type
from probes.perf.errors import PerfError, open_error
from probes.perf.events import Count
from tests import hosts
from tests.hosts import FakeHost
from tests.recordings import make_recorder

CORE = hosts.CORE
HARDWARE = hardware_events(CpuIdentity(INTEL, 6, 0x8F), has_one_node=False)


@dataclass
class FakePmu:
    """Stands in for `open_event`: counts what a test sets, and refuses what a test says."""

    refused: dict[int, int] = field(default_factory=dict)  # event's config: errno
    forbids_kernel: bool = False
    has_pmu: bool = True
    foreign: set[int] = field(default_factory=set)
    opened: list[FakeEvent] = field(default_factory=list)

    def __call__(self, attr: Any, tid: int, cpu: int, group_fd: int = -1, what: str = "") -> Any:
        code = self.refused.get(attr.config) if attr.type != Type.SOFTWARE else None
        if attr.type != Type.SOFTWARE and not self.has_pmu:
            code = errno.ENOENT
        if tid in self.foreign or (self.forbids_kernel and not attr.flags & Flag.EXCLUDE_KERNEL):
            code = errno.EACCES
        if code is not None:
            raise open_error(code, what, cpu)
        event = FakeEvent(len(self.opened) + 3, tid, what, group_fd, self)
        self.opened.append(event)
        return event

    def of(self, tid: int, what: str) -> FakeEvent:
        return next(one for one in self.opened if (one.tid, one.what) == (tid, what))

    @property
    def open_count(self) -> int:
        return sum(not one.is_closed for one in self.opened)


@dataclass
class FakeEvent:
    fd: int
    tid: int
    what: str
    group_fd: int
    pmu: FakePmu
    value: int = 0
    enabled_ns: int = 0
    running_ns: int = 0
    is_closed: bool = False

    def counts(self) -> list[Count]:
        members = [one for one in self.pmu.opened if self.fd in (one.fd, one.group_fd)]
        return [Count(one.value, self.enabled_ns, self.running_ns) for one in members]

    def close(self) -> None:
        assert not self.is_closed
        self.is_closed = True


def group_of(pmu: FakePmu, events: Any = HARDWARE[:2]) -> EventGroup:
    group = open_group(events, 9, counts_kernel=True, opener=pmu)
    assert group is not None
    return group


def advance(pmu: FakePmu, tid: int = 9, *, enabled_ns: int, running_ns: int, **values: int) -> None:
    """Let a thread's group run on and count on."""
    for event in pmu.opened:
        if event.tid == tid and not event.is_closed:
            event.enabled_ns += enabled_ns
            event.running_ns += running_ns
            event.value += values.get(event.what, 0)


def test_each_cpu_offers_only_what_means_the_same_on_it():
    def offered(vendor: str, family: int, model: int, *, one: bool = False) -> set[str]:
        return {
            event.name
            for event in hardware_events(CpuIdentity(vendor, family, model), has_one_node=one)
        }

    basic = {names.CYCLES, names.INSTRUCTIONS}
    dram = {names.DRAM_LOCAL, names.DRAM_REMOTE}
    assert offered(AMD, 0x19, 0x11) == basic | dram  # Zen 4: its "cache misses" are not the L3's
    assert offered(AMD, 0x17, 0x31) == basic | dram  # Zen 2
    assert offered(AMD, 0x17, 0x01) == basic  # Zen
    assert offered(INTEL, 6, 0x8F) == basic | dram | {names.LLC_MISSES}
    assert offered(INTEL, 6, 0x9A) == basic | {names.LLC_MISSES}  # no server
    assert offered(INTEL, 6, 0x8F, one=True) == basic | {names.LLC_MISSES}
    assert offered("", 0, 0) == basic  # Arm


def test_the_cpu_says_what_it_is(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(
        "vendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC 9654\n"
        "\nvendor_id\t: AuthenticAMD\ncpu family\t: 26\nmodel\t\t: 2\n"
    )

    assert read_cpu_identity(tmp_path) == CpuIdentity(AMD, 25, 17)
    assert read_cpu_identity(tmp_path / "nowhere") == CpuIdentity("")


def test_what_was_counted_half_of_the_time_stands_for_all_of_it():
    pmu = FakePmu()
    group = group_of(pmu)

    advance(pmu, enabled_ns=100, running_ns=50, cycles=40, instructions=60)
    first = group.read()
    advance(pmu, enabled_ns=100, running_ns=100, cycles=10, instructions=20)

    assert first == [80.0, 120.0]
    assert group.read() == [90.0, 140.0]


def test_what_was_never_counted_is_unknown_and_not_zero():
    pmu = FakePmu()
    group = group_of(pmu)

    advance(pmu, enabled_ns=100, running_ns=0)

    assert group.read() is None


def test_a_turn_that_has_not_come_is_made_up_for_by_the_next():
    pmu = FakePmu()
    group = group_of(pmu)
    advance(pmu, enabled_ns=100, running_ns=100, cycles=100)
    group.read()

    advance(pmu, enabled_ns=100, running_ns=0)
    still = group.read()
    advance(pmu, enabled_ns=100, running_ns=100, cycles=100)

    assert still == [100.0, 0.0]
    assert group.read() == [300.0, 0.0]


def test_totals_never_fall_however_the_turns_go():
    pmu = FakePmu()
    group = group_of(pmu)
    totals = []
    for enabled_ns, running_ns, cycles in ((100, 1, 9), (100, 100, 1), (100, 30, 0), (1, 1, 1)):
        advance(pmu, enabled_ns=enabled_ns, running_ns=running_ns, cycles=cycles)
        read = group.read()
        assert read is not None
        totals.append(read[0])

    assert totals == sorted(totals)


def test_an_event_that_there_is_not_leaves_the_others_in_one_group():
    pmu = FakePmu(refused={0x02D3: errno.ENOENT, 0x01D3: errno.EINVAL})

    group = group_of(pmu, HARDWARE)

    assert [one.name for one in group.events] == [
        names.CYCLES, names.INSTRUCTIONS, names.LLC_MISSES,
    ]  # fmt: skip
    leader = pmu.opened[0].fd
    assert [one.group_fd for one in pmu.opened] == [-1, leader, leader]


def test_a_refusal_half_way_leaves_nothing_open():
    pmu = FakePmu(refused={HARDWARE[1].config: errno.EMFILE})

    with pytest.raises(type(open_error(errno.EMFILE, "", -1))):
        group_of(pmu, HARDWARE)

    assert pmu.open_count == 0


def test_migrations_are_not_counted_without_the_kernel():
    # Given that the kernel would count none, silently
    group = open_group(SOFTWARE, 9, counts_kernel=False, opener=FakePmu())

    assert group is not None
    assert names.MIGRATIONS not in {one.name for one in group.events}


@pytest.fixture
def host(tmp_path) -> FakeHost:
    host = hosts.healthy(tmp_path / "host")
    host.write("proc/cpuinfo", "vendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 143")
    return host


def test_without_a_pmu_it_says_so_and_what_to_do(host):
    pmu = FakePmu(has_pmu=False)

    alone = CpuCounterProbe(opener=pmu).check(host.target())
    with_software = CpuCounterProbe(opener=pmu, counts_software=True).check(host.target())

    assert alone.level is Level.UNAVAILABLE
    assert "not in this VM" in str(alone.reason)
    assert with_software.level is Level.DEGRADED
    assert pmu.open_count == 0


def test_without_the_right_to_look_into_the_kernel_it_counts_the_rest(host):
    capability = CpuCounterProbe(opener=FakePmu(forbids_kernel=True)).check(host.target())

    assert capability.level is Level.DEGRADED
    assert "perf_event_paranoid" in str(capability.remedy)


def test_a_process_that_is_not_ours_makes_it_unavailable(host):
    pmu = FakePmu(foreign={hosts.API})

    capability = CpuCounterProbe(opener=pmu).check(host.target())

    assert capability.level is Level.UNAVAILABLE
    assert pmu.open_count == 0


class Bench:
    """A probe on the fake server, ticked by hand."""

    def __init__(self, host: FakeHost, directory: Path, pmu: FakePmu | None = None) -> None:
        self.host, self.directory, self.pmu = host, directory, pmu or FakePmu()
        self.recorder = make_recorder(directory)
        target = host.target()
        self.probe = CpuCounterProbe(opener=self.pmu)
        assert self.probe.check(target).level.is_usable
        self.probe._pacer.start = self.probe._pacer.stop = lambda: None  # type: ignore[method-assign]
        tracks = dict.fromkeys(target.processes, 7)
        self.probe.start(Context(target, self.recorder, None, tracks))  # type: ignore[arg-type]
        self.now_ns = 0

    def choose(self, **run_ms: int) -> None:
        """Let a second pass in which threads (``t101=5``) ran, up to the next choice."""
        for name, ran_ms in run_ms.items():
            tid = int(name[1:])
            pid = tid if tid in self.probe._context.target.processes else CORE
            path = self.host.root / f"proc/{pid}/task/{tid}/schedstat"
            run_ns, *rest = path.read_text().split()
            path.write_text(f"{int(run_ns) + ran_ms * 1_000_000} {' '.join(rest)}\n")
        self.now_ns += 1_000_000_000
        for _ in range(CHOOSE_TICKS):
            self.probe._tick(self.now_ns)

    def watched(self) -> set[int]:
        return {tid for _, tid in self.probe._watched}

    def finish(self) -> tuple[Any, list[dict[str, Any]]]:
        record = self.probe.stop()
        self.recorder.close()
        capture = open_capture(self.directory)
        kinds = {one["counter"]: one for one in capture.table("counter_types").to_pylist()}
        rows = capture.table("counters").to_pylist()
        return record, [kinds[row["counter"]] | row for row in rows]


@pytest.fixture
def bench(host, tmp_path) -> Bench:
    return Bench(host, tmp_path / "c")


def test_a_busy_thread_is_counted_and_an_idle_one_is_not(bench):
    bench.choose()
    bench.choose(t101=500, t102=1)
    advance(bench.pmu, CORE, enabled_ns=500, running_ns=500, cycles=1000, instructions=700)

    record, rows = bench.finish()

    totals = {row["name"]: row["value"] for row in rows}
    assert (totals[names.CYCLES], totals[names.INSTRUCTIONS]) == (1000, 700)
    assert record.detail["thread_count"] == 1
    assert record.detail["counted_ratio"] == 1.0
    assert bench.pmu.open_count == 0


def test_a_thread_that_appears_and_works_is_taken_up(bench):
    bench.choose()
    bench.host.add_thread(CORE, 555, comm="OMP")
    bench.choose()

    bench.choose(t555=400)

    assert bench.watched() == {555}
    bench.finish()


def test_a_thread_that_ends_is_let_go_of(bench):
    bench.choose()
    bench.choose(t101=500)
    (bench.host.root / f"proc/{CORE}/task/{CORE}/schedstat").unlink()

    bench.choose()

    assert bench.watched() == set()
    record, _ = bench.finish()
    assert record.detail["thread_count"] == 1


def test_the_busiest_come_first_and_idle_ones_make_room(bench, monkeypatch):
    # Given room for one thread
    monkeypatch.setattr(cpu_counters, "THREAD_LIMIT", 1)
    bench.choose()
    bench.choose(t101=500, t102=900)
    first = bench.watched()

    # When that one goes idle and another does not
    bench.choose(t101=500)

    assert (first, bench.watched()) == ({hosts.WORKER}, {CORE})
    record, _ = bench.finish()
    assert record.detail["left_out_count"] == 1


def test_a_thread_that_ends_while_it_is_opened_is_no_trouble(bench):
    bench.choose()
    bench.pmu.refused = {event.config: errno.ESRCH for event in HARDWARE}

    bench.choose(t101=500)

    assert bench.watched() == set()
    record, _ = bench.finish()
    assert record.level == Level.WORKS


def test_what_was_not_counted_stands_in_the_record(host, tmp_path):
    bench = Bench(host, tmp_path / "c", FakePmu(forbids_kernel=True))

    record, _ = bench.finish()

    assert (record.level, record.detail["counts_kernel"]) == ("degraded", False)
    assert "kernel" in record.reason


def test_running_out_of_descriptors_is_said(bench):
    bench.choose()
    bench.pmu.refused = {event.config: errno.EMFILE for event in HARDWARE}

    bench.choose(t101=500)

    record, _ = bench.finish()
    assert record.level == Level.DEGRADED
    assert "ulimit" in record.remedy


def test_the_real_kernel_counts_what_a_thread_s_own_clock_says():
    # Given the kernel's own counters on this thread
    try:
        group = open_group(SOFTWARE, 0, counts_kernel=may_count_kernel())
    except PerfError as error:
        pytest.skip(error.message)
    assert group is not None
    begin_ns = time.thread_time_ns()
    before = group.read()

    # When it works for 50 ms
    while time.thread_time_ns() - begin_ns < 50_000_000:
        pass
    after = group.read()
    end_ns = time.thread_time_ns()
    group.close()

    # Then that is what was counted
    assert before is not None
    assert after is not None
    assert after[0] - before[0] == pytest.approx((end_ns - begin_ns) / 1e9, abs=0.002)
