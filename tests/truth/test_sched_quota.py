"""A group that a CPU quota stops: throttled time is told apart from contention with a rival."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from analyzers.sched.quota import measure_quotas
from analyzers.timeline import Timeline
from collectors.cpu_slices import PREEMPTED
from probes.host.probe import HostProbe
from probes.switches.probe import SwitchProbe
from probes.threads import ThreadProbe
from tests.truth.sched.ledger import ThreadLedger, build, running
from tests.truth.sched.quota import Quota, limited_group
from tests.truth.sched.recording import recorded, target_of
from tests.truth.sched.seen import Seen, cpu_slices, look

SECONDS = 4.0
QUOTA_CPUS = 0.3
WAIT_TOLERANCE = 0.05
SCATTER_RATIO = 0.002
CPU_TOLERANCE = 0.01
# Beside a rival a thread waits for some milliseconds at a time. A group that has used its 30 ms of
# a period of 100 stands still for much longer.
LONG_NS = 15_000_000
CPU = max(os.sched_getaffinity(0))

pytestmark = pytest.mark.truth


@dataclass(frozen=True)
class Run:
    """The limited thread: what it says, what was seen, and for how long its group was stopped."""

    truth: ThreadLedger
    throttled_ns: int  # by the kernel's account, read by the test itself
    seen: Seen
    said_throttled_ns: float  # by the analysis
    said_contention_ns: float

    @property
    def long_ns(self) -> int:
        """Its long gaps."""
        length_ns = self.truth.rows["end_ns"] - self.truth.rows["begin_ns"]
        return int(length_ns[length_ns >= LONG_NS].sum())


@pytest.fixture
def quota() -> Iterator[Quota]:
    with contextlib.ExitStack() as stack:
        try:
            quota = stack.enter_context(limited_group(QUOTA_CPUS))
        except OSError as error:
            pytest.skip(f"no group with a quota can be made here: {error}")
        yield quota


def measure(directory: Path, quota: Quota, *, has_rival: bool) -> Run:
    program = build(directory)
    if program is None:
        pytest.skip("no C compiler here")
    rival = f"rival,spin,{CPU}" if has_rival else "rival,burst,-1,0,1000000"
    with (
        running(program, SECONDS, f"limited,spin,{CPU}") as workload,
        running(program, SECONDS, rival) as outsider,
    ):
        quota.add(workload.pid)

        def live() -> tuple[ThreadLedger, int]:
            before_ns = quota.throttled_ns()
            outsider.begin()
            workload.begin()
            ledger = workload.ledgers()["limited"]
            return ledger, quota.throttled_ns() - before_ns

        probes = [SwitchProbe(), ThreadProbe(), HostProbe()]
        target = target_of(workload.pid)
        capture, (truth, throttled_ns) = recorded(target, probes, directory / "capture", live)
    (said,) = [one for one in measure_quotas(Timeline(capture)) if one.throttled_seconds]
    assert said.contention_seconds is not None
    return Run(
        truth,
        throttled_ns,
        look(cpu_slices(capture, truth.tid), truth.begin_ns, truth.end_ns),
        said.throttled_seconds * 1e9,
        said.contention_seconds * 1e9,
    )


@pytest.mark.parametrize("has_rival", [False, True], ids=["alone", "with a rival"])
def test_throttling_and_contention_are_told_apart(
    has_rival: bool, quota: Quota, tmp_path: Path
) -> None:
    run = measure(tmp_path, quota, has_rival=has_rival)
    truth, life_ns = run.truth, run.truth.life_ns
    waited_ns = truth.off_ns[PREEMPTED]
    print(
        f"\nof {life_ns / 1e9:.1f} s without a CPU {waited_ns / 1e9:.3f} s, seen "
        f"{run.seen.off_ns[PREEMPTED] / 1e9:.3f} s; throttled {run.throttled_ns / 1e9:.3f} s, said "
        f"{run.said_throttled_ns / 1e9:.3f} s, in long gaps {run.long_ns / 1e9:.3f} s; contention "
        f"{(waited_ns - run.throttled_ns) / 1e9:.3f} s, said {run.said_contention_ns / 1e9:.3f} s"
    )

    def near(true_ns: float) -> object:
        return pytest.approx(true_ns, rel=WAIT_TOLERANCE, abs=SCATTER_RATIO * life_ns)

    # Given that the kernel and the thread itself tell the same story
    if run.throttled_ns < 0.1 * life_ns:
        pytest.skip("other programs had the CPU, so that the quota was hardly ever used up")
    assert run.long_ns >= run.throttled_ns * (1 - WAIT_TOLERANCE)
    # Then
    assert run.seen.on_ns == pytest.approx(truth.cpu_ns, rel=CPU_TOLERANCE)
    assert run.seen.off_ns[PREEMPTED] == near(waited_ns)
    assert run.said_throttled_ns == near(run.throttled_ns)
    assert run.said_contention_ns == near(waited_ns - run.throttled_ns)
