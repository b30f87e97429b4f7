"""Context switches of a real vLLM under load, against what the kernel itself counted meanwhile.

Two sources that share nothing: the switches as they happened, from perf events, and the
scheduler's running totals per thread (schedstat, status) at the first and the last look.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from serve import Server

from analyzers.sched.agreement import measure_agreement
from analyzers.timeline import Timeline
from collectors.capture import Capture, open_capture
from collectors.cpu_slices import BLOCKED, PREEMPTED, YIELDED
from probes.host.probe import HostProbe
from probes.perf.errors import PerfError
from probes.switches.probe import SwitchProbe
from probes.target import find_target
from probes.threads import ThreadProbe
from profiler.session import Session, StopReason
from tests.live.driving import chat_load
from tests.live.yield_calls import YieldCalls
from tests.truth.sched.seen import cpu_slices, look

RECORDED_S = 15.0
YIELDS_S = 5.0  # of records of every call: some hundred thousand a second
READY = (PREEMPTED, YIELDED)
ROLES = ("api_server", "engine_core", "worker")
WAIT_TOLERANCE = 0.05
CPU_TOLERANCE = 0.02
COUNT_TOLERANCE = 0.02
# The kernel's account of a woken thread often begins at its wake-up and not at the switch to it,
# that much earlier at most (docs/switches.md): a role that hardly runs but often shows it.
WAKE_NS = 10_000


@dataclass
class Account:
    """Sums over the threads of one role: by the kernel's totals, and by the switches seen."""

    run_ns: int = 0
    wait_ns: int = 0
    voluntary_count: int = 0
    involuntary_count: int = 0
    on_ns: int = 0
    waited_ns: int = 0
    blocked_count: int = 0
    preempted_count: int = 0
    yielded_count: int = 0


@pytest.fixture(scope="module")
def capture(vllm: Server, tmp_path_factory: pytest.TempPathFactory) -> Capture:
    """Record the server's switches and counters for 15 s under the load of the convoy."""
    directory = tmp_path_factory.mktemp("switches") / "capture"
    session = Session(find_target(vllm.pid), directory, [SwitchProbe(), ThreadProbe(), HostProbe()])
    with chat_load(vllm.url, seconds=60.0):
        session.start()
        reason = session.run(RECORDED_S, lambda: None)
        problem = session.finish(reason)
    assert reason is StopReason.DURATION
    assert problem is None, problem
    return open_capture(directory)


@pytest.fixture(scope="module")
def accounts(capture: Capture) -> dict[str, Account]:
    """Add up each role's threads, each over the time between its first and its last look."""
    found = {role: Account() for role in ROLES}
    tracks = {row["track"]: row for row in capture.table("tracks").to_pylist()}
    for track, rows in _counters(capture):
        role, tid = tracks[track]["role"], tracks[track]["tid"]
        if role in found:
            _add(found[role], capture, tid, rows)
    return found


def _counters(capture: Capture) -> Iterator[tuple[int, list[dict[str, int | None]]]]:
    by_track: dict[int, list[dict[str, int | None]]] = {}
    for row in capture.table("thread_counters").to_pylist():
        if row["voluntary_count"] is not None:  # read together with the switches
            by_track.setdefault(row["track"], []).append(row)
    return ((track, rows) for track, rows in by_track.items() if len(rows) > 1)


def _add(account: Account, capture: Capture, tid: int, rows: list[dict[str, int | None]]) -> None:
    def grown(name: str) -> int:
        first, last = rows[0][name], rows[-1][name]
        assert first is not None
        assert last is not None
        return last - first

    account.run_ns += grown("run_ns")
    account.wait_ns += grown("wait_ns")
    account.voluntary_count += grown("voluntary_count")
    account.involuntary_count += grown("involuntary_count")
    slices = cpu_slices(capture, tid)
    if not len(slices):
        return
    first_ns, last_ns = rows[0]["time_ns"], rows[-1]["time_ns"]
    assert first_ns is not None
    assert last_ns is not None
    seen = look(slices, first_ns, last_ns)
    account.on_ns += seen.on_ns
    account.waited_ns += seen.off_ns[PREEMPTED] + seen.off_ns[YIELDED] + seen.woken_ns
    account.blocked_count += seen.leave_count[BLOCKED]
    account.preempted_count += seen.leave_count[PREEMPTED]
    account.yielded_count += seen.leave_count[YIELDED]


def test_nothing_was_lost(capture: Capture) -> None:
    (record,) = [one for one in capture.manifest.probes if one.name == SwitchProbe.name]
    assert record.level == "works", record
    gaps = capture.table("gaps").to_pylist()
    assert [gap for gap in gaps if gap["probe"] == SwitchProbe.name] == []


@pytest.fixture(scope="module")
def stolen_ratios(capture: Capture) -> dict[str, float]:
    """How much of each role's stays the hypervisor stole: the kernel's totals leave that out."""
    timeline = Timeline(capture)
    slices_ns, stolen_ns = dict.fromkeys(ROLES, 0), dict.fromkeys(ROLES, 0)
    for track, one in measure_agreement(timeline).items():
        role = timeline.threads[track].process.role
        if role in slices_ns:
            slices_ns[role] += one.slice_ns
            stolen_ns[role] += one.stolen_ns
    return {role: stolen_ns[role] / slices_ns[role] for role in ROLES}


@pytest.mark.parametrize("role", ROLES)
def test_cpu_time_is_what_the_kernel_counted(
    role: str, accounts: dict[str, Account], stolen_ratios: dict[str, float]
) -> None:
    account, stolen = accounts[role], stolen_ratios[role]
    seen_ns, run_ns = account.on_ns * (1 - stolen), account.run_ns
    print(f"{role}: ran {run_ns / 1e9:.3f} s, seen {seen_ns / 1e9:.3f} s, stolen {stolen:.2%}")
    assert run_ns > 0
    early_ns = WAKE_NS * account.blocked_count
    assert run_ns * (1 - CPU_TOLERANCE) - early_ns < seen_ns < run_ns * (1 + CPU_TOLERANCE)


@pytest.mark.parametrize("role", ROLES)
def test_run_queue_wait_is_what_the_kernel_counted(role: str, accounts: dict[str, Account]) -> None:
    account = accounts[role]
    print(f"{role}: waited {account.wait_ns / 1e9:.3f} s, seen {account.waited_ns / 1e9:.3f} s")
    assert account.wait_ns > 0
    assert account.waited_ns == pytest.approx(account.wait_ns, rel=WAIT_TOLERANCE)


@pytest.mark.parametrize("role", ROLES)
def test_every_switch_is_counted_once(role: str, accounts: dict[str, Account]) -> None:
    account = accounts[role]
    ready_count = account.preempted_count + account.yielded_count
    print(
        f"{role}: blocked {account.blocked_count} of {account.voluntary_count}; preempted "
        f"{account.preempted_count} and gave way {account.yielded_count} of "
        f"{account.involuntary_count}"
    )
    assert account.blocked_count == pytest.approx(account.voluntary_count, rel=COUNT_TOLERANCE)
    assert ready_count == pytest.approx(account.involuntary_count, rel=COUNT_TOLERANCE)


def test_a_yield_is_no_preemption(vllm: Server, tmp_path: Path) -> None:
    """The kernel says of each thread when it went into sched_yield(2) and when it came back."""
    try:
        calls = YieldCalls()
    except PerfError as error:
        pytest.skip(f"the calls cannot be traced here: {error.message}")
    session = Session(find_target(vllm.pid), tmp_path / "capture", [SwitchProbe()])
    with chat_load(vllm.url, seconds=60.0), calls.recording():
        session.start()
        reason = session.run(YIELDS_S, lambda: None)
        session.finish(reason)
    capture = open_capture(tmp_path / "capture")
    counts = {(is_inside, leave): 0 for is_inside in (True, False) for leave in READY}
    for row in capture.table("tracks").to_pylist():
        if row["kind"] != "thread":
            continue
        slices = cpu_slices(capture, row["tid"])
        for leave in READY:
            inside = calls.is_inside(row["tid"], slices.end_ns[slices.leave == leave])
            counts[True, leave] += int(inside.sum())
            counts[False, leave] += int((~inside).sum())
    print(f"(inside the call, why it left): {counts}")
    yields = counts[True, YIELDED] + counts[True, PREEMPTED]
    others = counts[False, YIELDED] + counts[False, PREEMPTED]
    assert yields > 100
    assert counts[True, YIELDED] == pytest.approx(yields, rel=COUNT_TOLERANCE)
    assert counts[False, PREEMPTED] == pytest.approx(others, rel=COUNT_TOLERANCE)
