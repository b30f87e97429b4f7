"""The host's counters: quotas apart from contention, steal, interrupts, pressure, frequency."""

from __future__ import annotations

import pytest
from sched_captures import BLOCKED, SchedBuilder

from analyzers.sched.counter_series import read_series
from analyzers.sched.host_load import run
from analyzers.sched.quota import finding, measure_quotas
from analyzers.scheduling import ANALYZER as RUN_QUEUE
from analyzers.timeline import Timeline
from collectors import host_counters as names


def made_throttled(*, throttled_count: float = 60.0) -> SchedBuilder:
    """Threads waited 4 s in 10, of which a quota of half a CPU counted 3 s."""
    made = SchedBuilder()
    for pid in (1, 2):
        process = made.process("worker", pid=pid)
        thread = made.thread(process, tid=pid)
        made.look(thread, 0, run=0, wait=0)
        made.look(thread, 10_000, run=2_500, wait=2_000)
        labels = "cgroup=/docker/abc"
        made.level(process, 0, names.CGROUP_QUOTA, labels, 0.5)
        made.total(process, names.CGROUP_THROTTLED, labels, 100.0, 103.0)
        made.total(process, names.CGROUP_PERIODS, labels, 1000, 1100)
        made.total(process, names.CGROUP_THROTTLED_PERIODS, labels, 10, 10 + throttled_count)
    return made


def test_a_group_counts_once_however_many_processes_it_has() -> None:
    (quota,) = measure_quotas(Timeline(made_throttled().build()))

    assert (quota.path, len(quota.processes), quota.cpus) == ("/docker/abc", 2, 0.5)
    assert quota.throttled_seconds == pytest.approx(3.0)
    assert quota.throttled_ratio == pytest.approx(0.6)
    assert quota.wait_seconds == pytest.approx(4.0)
    assert quota.contention_seconds == pytest.approx(1.0)


def test_a_quota_that_stops_the_server_is_a_finding_with_the_way_out() -> None:
    claim = finding(Timeline(made_throttled().build()))

    assert claim is not None
    assert "(0.5 CPUs) stopped the server in 60% of its periods, 3.00 s" in claim.statement
    assert "at most 1.00 s was contention" in claim.statement
    assert "docker update --cpus" in str(claim.remedy)


def test_waits_that_switches_tell_stand_before_the_kernel_s_totals() -> None:
    made = made_throttled()
    first = 1  # its track
    made.stay(first, 0, 100, BLOCKED)
    made.stay(first, 1_500, 1_600, BLOCKED, woken=1_000)

    (quota,) = measure_quotas(Timeline(made.build()))

    assert quota.wait_seconds == pytest.approx(0.5 + 2.0)  # of the other one run_delay is all


def test_a_quota_that_is_hardly_met_is_none() -> None:
    assert finding(Timeline(made_throttled(throttled_count=2).build())) is None


def test_the_run_queue_says_how_much_of_its_waits_a_quota_made() -> None:
    (claim,) = RUN_QUEUE.run(Timeline(made_throttled().build())).findings

    assert "3.00 s or more was a CPU quota that stopped them" in claim.statement
    assert not any("quota" in caveat for caveat in claim.caveats)


def made_host(*, steal: float = 0.0, softirq: float = 0.0) -> SchedBuilder:
    """Two CPUs over 10 s: the first busy, the second idle; seconds of steal and of softirq."""
    made = SchedBuilder()
    host = made.host()
    for mode, first, second in (
        ("user", 10 - steal - softirq, 0.0),
        ("idle", 0.0, 10.0),
        ("steal", steal, 0.0),
        ("softirq", softirq, 0.0),
    ):
        made.total(host, names.CPU_TIME, f"cpu=0,mode={mode}", 5, 5 + first)
        made.total(host, names.CPU_TIME, f"cpu=1,mode={mode}", 5, 5 + second)
        made.total(host, names.CPU_TIME, f"mode={mode}", 10, 10 + first + second)
    made.total(host, names.PRESSURE, "kind=some,resource=cpu", 1, 3)
    made.total(host, names.PRESSURE, "kind=some,resource=cpu,cgroup=/a", 1, 9)
    made.total(host, names.INTERRUPTS, "cpu=0", 0, 50_000)
    made.level(host, 0, names.CPU_FREQUENCY, "cpu=0", 2e9)
    made.level(host, 0, names.CPU_FREQUENCY, "cpu=1", 3e9)
    return made


def test_the_hosts_rows() -> None:
    outcome = run(Timeline(made_host().build()))

    host = outcome.sections["host"]
    assert outcome.findings == []
    assert host["busy_ratio"] == pytest.approx(0.5)
    assert host["steal_ratio"] == 0
    assert [one["busy_ratio"] for one in host["cpus"]] == [pytest.approx(1.0), pytest.approx(0.0)]
    assert host["cpus"][0]["interrupt_rate_hz"] == pytest.approx(5000)
    assert host["cpus"][1]["interrupt_rate_hz"] is None
    assert host["pressure"] == [
        {"resource": "cpu", "kind": "some", "seconds": 2.0, "ratio": pytest.approx(0.2)}
    ]
    assert host["frequency"] == {"min_hz": 2e9, "mean_hz": 2.5e9, "max_hz": 3e9}


def test_stolen_time_is_a_finding() -> None:
    (claim,) = run(Timeline(made_host(steal=2.0).build())).findings

    assert claim.slug == "host-steal"
    assert claim.quantity is not None
    assert claim.quantity.value == pytest.approx(0.1)  # 2 s of 2 CPUs times 10 s


def test_interrupts_that_take_much_of_one_cpu_are_a_finding() -> None:
    (claim,) = run(Timeline(made_host(softirq=3.0).build())).findings

    assert claim.slug == "host-interrupts"
    assert "30% of CPU 0:" in claim.statement


def test_a_host_that_was_not_looked_at_is_not_described() -> None:
    outcome = run(Timeline(SchedBuilder().build()))

    assert outcome.sections == {"host": None, "quotas": []}
    assert outcome.findings == []


def test_a_groups_path_may_hold_what_separates_labels() -> None:
    made = SchedBuilder()
    host = made.host()
    made.total(host, names.PRESSURE, "kind=some,resource=cpu,cgroup=/a,b=c/d", 0, 1)

    (series,) = read_series(Timeline(made.build()), names.PRESSURE)

    assert series.labels == {"kind": "some", "resource": "cpu", "cgroup": "/a,b=c/d"}
