"""The best source that the kernel allows is found, and its rings shrink to what it grants."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from probes.base import Level
from probes.perf.attributes import Flag
from probes.perf.errors import (
    CpuOffline,
    PerfForbidden,
    PerfTargetGone,
    RingRefused,
    open_error,
    ring_error,
)
from probes.switches import plans, sources
from probes.switches import probe as switches
from probes.switches.plans import Mode, Plan, choose_plan, online_cpus
from probes.switches.probe import SwitchProbe
from probes.switches.sources import LEAST_RING_BYTES, RING_BYTES, Source, ring_bytes
from probes.target import find_target
from tests.fakeproc import PYTHON, FakeProc
from tests.recordings import PID

FORBIDDEN = open_error(errno.EACCES, "context switches", -1)


class FakeEvent:
    """An event that remembers what it was opened for and told to do."""

    def __init__(self, pid: int, cpu: int) -> None:
        self.pid, self.cpu = pid, cpu
        self.fd = 100 + cpu
        self.output: FakeEvent | None = None
        self.is_enabled = self.is_closed = False

    def enable(self) -> None:
        self.is_enabled = True

    def disable(self) -> None:
        self.is_enabled = False

    def set_output(self, other: FakeEvent) -> None:
        self.output = other

    def set_filter(self, expression: str) -> None:
        assert expression == plans.RUNNABLE

    def close(self) -> None:
        self.is_closed = True


class Kernel:
    """Opens events unless told otherwise."""

    def __init__(self) -> None:
        self.events: list[FakeEvent] = []
        self.refused: dict[tuple[str, int], Exception] = {}  # ("pid" or "cpu", number)
        self.locked_bytes = 1 << 30
        self.mapped_bytes = 0

    def open(self, attr: object, pid: int, cpu: int, what: str) -> FakeEvent:
        for key in (("pid", pid), ("cpu", cpu)):
            if key in self.refused:
                raise self.refused[key]
        self.events.append(FakeEvent(pid, cpu))
        return self.events[-1]

    def ring(self, event: FakeEvent, size_bytes: int) -> FakeRing:
        if self.mapped_bytes + size_bytes > self.locked_bytes:
            raise ring_error(errno.EPERM, size_bytes)
        self.mapped_bytes += size_bytes
        return FakeRing(self, size_bytes)


class FakeRing:
    def __init__(self, kernel: Kernel, size_bytes: int) -> None:
        self._kernel, self.size_bytes = kernel, size_bytes
        self.fill_bytes = 0

    def close(self) -> None:
        self._kernel.mapped_bytes -= self.size_bytes


@pytest.fixture
def kernel(monkeypatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(sources, "open_event", made.open)
    monkeypatch.setattr(plans, "open_event", made.open)
    monkeypatch.setattr(sources, "Ring", made.ring)
    return made


def everyones() -> Plan:
    return plans.recorded()


def test_rings_are_large_on_a_small_host_and_share_on_a_large_one():
    assert ring_bytes(2) == RING_BYTES
    assert ring_bytes(200) == 512 << 10
    assert ring_bytes(100_000) == LEAST_RING_BYTES


def test_a_ring_that_is_refused_is_asked_for_smaller(kernel):
    kernel.locked_bytes = 3 << 20

    source = Source(everyones(), [0, 1], RING_BYTES, lambda: [PID])

    assert source.ring_bytes == 1 << 20
    assert kernel.mapped_bytes == 2 << 20


def test_when_no_ring_is_granted_nothing_stays_open(kernel):
    kernel.locked_bytes = LEAST_RING_BYTES // 2

    with pytest.raises(RingRefused):
        Source(everyones(), [0, 1], RING_BYTES, lambda: [PID])

    assert all(event.is_closed for event in kernel.events)
    assert kernel.mapped_bytes == 0


def test_a_cpu_that_is_offline_is_left_out(kernel):
    kernel.refused["cpu", 1] = CpuOffline("CPU 1 is not online", "", errno.ENODEV)

    source = Source(everyones(), [0, 1, 2], RING_BYTES, lambda: [PID])

    assert source.cpus == [0, 2]
    assert len(source.rings) == 2


def test_each_thread_gets_events_that_write_into_the_cpus_rings(kernel):
    # Given a thread that starts while the events of the others are opened, and one that ends
    rounds = iter([[10], [10, 11, 12], [10, 11, 12, 13], [10, 11, 12, 13]])
    kernel.refused["pid", 12] = PerfTargetGone("gone", "", errno.ESRCH)

    source = Source(plans.per_task_of_user(), [0, 1], RING_BYTES, lambda: next(rounds))

    opened = [(event.pid, event.cpu) for event in kernel.events]
    assert opened == [(tid, cpu) for tid in (10, 11, 13) for cpu in (0, 1)]
    assert len(source.rings) == 2
    owners = kernel.events[:2]
    assert [event.output for event in kernel.events] == [None, None, *owners, *owners]
    assert plans.per_task_of_user().attr.flags & Flag.INHERIT


def test_a_target_without_threads_is_gone(kernel):
    with pytest.raises(PerfTargetGone):
        Source(plans.per_task_of_user(), [0, 1], RING_BYTES, lambda: [])


def test_everything_is_enabled_disabled_and_closed_together(kernel):
    source = Source(plans.per_task_of_user(), [0, 1], RING_BYTES, lambda: [10, 11])
    source.enable()
    assert all(event.is_enabled for event in kernel.events)

    source.follow([10, 11, 12])
    assert all(event.is_enabled for event in kernel.events)
    source.disable()
    assert not any(event.is_enabled for event in kernel.events)

    source.close()
    assert all(event.is_closed for event in kernel.events)


def test_the_first_plan_that_opens_is_taken_and_the_others_refusals_are_kept(kernel):
    kernel.refused["pid", plans.EVERY_THREAD] = FORBIDDEN

    plan, refusals = choose_plan(PID, 0, (plans.recorded, plans.per_task))

    assert plan.mode == Mode.PER_TASK
    assert refusals == [FORBIDDEN]
    assert all(event.is_closed for event in kernel.events)


def test_when_no_plan_opens_the_last_refusal_is_told(kernel):
    kernel.refused["pid", plans.EVERY_THREAD] = open_error(errno.EPERM, "x", 0)
    kernel.refused["pid", PID] = FORBIDDEN

    with pytest.raises(PerfForbidden):
        choose_plan(PID, 0, (plans.recorded, plans.per_task, plans.per_task_of_user))


@pytest.mark.parametrize(
    ("text", "cpus"), [("0-3,8\n", [0, 1, 2, 3, 8]), ("0\n", [0]), ("1,3-4\n", [1, 3, 4])]
)
def test_lists_of_cpus_are_read(text: str, cpus: list[int], tmp_path):
    (tmp_path / "online").write_text(text)

    assert online_cpus(tmp_path / "online") == cpus


@pytest.fixture
def target(tmp_path):
    proc = FakeProc(tmp_path / "proc")
    proc.add(PID, [PYTHON, "x.py"])
    (proc.root / "self" / "ns").mkdir(parents=True)
    (proc.root / "self" / "ns" / "pid").symlink_to(switches._INITIAL_NAMESPACE)
    return find_target(PID, proc.procfs)


def test_the_check_says_what_a_lesser_mode_does_not_see(kernel, target):
    kernel.refused["pid", plans.EVERY_THREAD] = FORBIDDEN

    capability = SwitchProbe().check(target)

    assert capability.level == Level.DEGRADED
    assert "who gets the CPU next" in (capability.reason or "")
    assert "CAP_PERFMON" in (capability.reason or "")
    assert capability.remedy == FORBIDDEN.remedy


def test_the_check_says_why_nothing_is_seen(kernel, target):
    kernel.refused["pid", plans.EVERY_THREAD] = kernel.refused["pid", PID] = FORBIDDEN

    capability = SwitchProbe().check(target)

    assert capability.level == Level.UNAVAILABLE
    assert capability.reason == FORBIDDEN.message


def test_inside_a_pid_namespace_wake_ups_are_not_used(kernel, target):
    # Given tracepoints, whose fields hold ids of another namespace
    place = Path(target.procfs.root) / "self" / "ns" / "pid"
    place.unlink()
    place.symlink_to("pid:[4026532000]")
    probe = SwitchProbe()

    capability = probe.check(target)

    assert probe._plan is not None
    assert probe._plan.mode == Mode.PER_CPU_RECORDS
    assert "other ids outside" in (capability.reason or "")


def test_an_old_kernel_is_told(monkeypatch, target):
    old = os.uname_result(("Linux", "host", "4.14.0", "", "x86_64"))
    monkeypatch.setattr(os, "uname", lambda: old)

    assert SwitchProbe().check(target).level == Level.UNAVAILABLE
