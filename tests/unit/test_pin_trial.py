"""What a trial refuses before it changes anything, and a guardian that does not start."""

from __future__ import annotations

import os
import random
import sys
import threading

import pytest

from collectors.errors import TargetExited
from probes import roles
from probes.target import Process, Target
from profiler.pin.affinity import Held, LinuxKernel, Mask
from profiler.pin.guardian import Guardian, GuardianFailed
from profiler.pin.plan import Member, Placement, Plan
from profiler.pin.trial import NothingToTry, PinForbidden, Schedule, Trial
from tests.fakeproc import FakeProc

PID = 10
EVERYWHERE = frozenset({0, 1})
ONE = frozenset({0})


class RefusingKernel(LinuxKernel):
    """A kernel that answers each change with ``error``."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self._error = error

    def mask(self, tid: int) -> Mask:
        return EVERYWHERE

    def set_mask(self, tid: int, mask: Mask) -> None:
        assert mask == EVERYWHERE, "asking the kernel must not move anything"
        raise self._error


def trial(tmp_path, error: OSError, proposed: Mask | None) -> Trial:
    process = Process(PID, 500, 1, roles.API_SERVER, "vllm", "api", ())
    target = Target(PID, "vllm", {PID: process}, FakeProc(tmp_path).procfs)
    member = Member(PID, 1, roles.API_SERVER, "api", EVERYWHERE, (PID,))
    return Trial(
        target, Plan((Placement(member, proposed, "why"),)), "http://127.0.0.1:1",
        Schedule(6, 1.0, 0.1), RefusingKernel(error), threading.Event(), random.Random(0),
    )  # fmt: skip


def test_a_plan_that_moves_nothing_is_nothing_to_try(tmp_path):
    with pytest.raises(NothingToTry, match="moves nothing"):
        trial(tmp_path, PermissionError(), None).check()


def test_a_server_of_another_user_is_refused_with_what_is_missing(tmp_path):
    with pytest.raises(PinForbidden, match="process 10") as caught:
        trial(tmp_path, PermissionError(), ONE).check()
    assert "SYS_NICE" in caught.value.remedy


def test_a_process_that_ended_since_is_told(tmp_path):
    with pytest.raises(TargetExited):
        trial(tmp_path, ProcessLookupError(), ONE).check()


@pytest.mark.parametrize("program", ["/bin/false", "/nowhere/python"])
def test_a_guardian_that_does_not_start_is_an_error_before_anything_changes(monkeypatch, program):
    monkeypatch.setattr(sys, "executable", program)
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(GuardianFailed, match="did not start"):
        Guardian(Held([], {}), LinuxKernel())
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_schedule_says_how_long_it_takes():
    assert Schedule(6, 10.0, 2.0).seconds == 144.0
