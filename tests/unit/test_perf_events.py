"""Events open, count and close; what cannot be opened says why."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator

import pytest

from probes.perf.attributes import ATTR_BYTES, Flag, PerfEventAttr, Software, Type, attributes
from probes.perf.errors import (
    EventUnknown,
    NoDescriptorsLeft,
    PerfError,
    PerfForbidden,
    PerfTargetGone,
)
from probes.perf.events import COUNTING, COUNTING_GROUP, Count, Event, open_event

OURSELVES, ANY_CPU = 0, -1
NOBODY = 65534
NO_TID = 2**30  # beyond any that Linux gives


def clock(**more: int) -> PerfEventAttr:
    """Return a counter of a thread's CPU time, in user space so that anybody may."""
    flags = Flag(more.pop("flags", 0)) | Flag.EXCLUDE_KERNEL
    return attributes(Type.SOFTWARE, Software.TASK_CLOCK, flags=flags, **more)


@pytest.fixture(autouse=True)
def allowed() -> None:
    try:
        open_event(clock(), OURSELVES, ANY_CPU).close()
    except PerfError as error:
        pytest.skip(error.message)


@pytest.fixture
def opened() -> Iterator[list[Event]]:
    events: list[Event] = []
    yield events
    for event in events:
        event.close()


def compute() -> None:
    sum(range(200_000))


def test_the_structure_lies_as_in_the_kernels_header():
    offsets = {name: getattr(PerfEventAttr, name).offset for name, *_ in PerfEventAttr._fields_}

    # offsetof() in linux/perf_event.h
    assert ATTR_BYTES == 112
    assert offsets["config"] == 8
    assert offsets["sample_period"] == 16
    assert offsets["flags"] == 40
    assert offsets["wakeup"] == 48
    assert offsets["sample_regs_user"] == 80
    assert offsets["clockid"] == 92
    assert offsets["sample_max_stack"] == 108


def test_an_event_counts_what_this_thread_does(opened):
    opened.append(open_event(clock(read_format=COUNTING), OURSELVES, ANY_CPU))

    before = opened[0].count()
    compute()
    after = opened[0].count()

    assert after.value > before.value
    assert after.enabled_ns >= after.running_ns > before.running_ns
    assert after.scaled == pytest.approx(after.value * after.enabled_ns / after.running_ns)


def test_a_disabled_event_stands_still_until_it_is_enabled(opened):
    opened.append(open_event(clock(read_format=COUNTING, flags=Flag.DISABLED), OURSELVES, ANY_CPU))
    compute()
    assert opened[0].count() == Count(0, 0, 0)
    assert opened[0].count().scaled is None

    opened[0].enable()
    compute()
    opened[0].disable()
    counted = opened[0].count()
    compute()

    assert opened[0].count() == counted
    assert counted.value > 0
    opened[0].reset()
    assert opened[0].count().value == 0


def test_a_group_is_read_at_once_in_the_order_of_its_opening(opened):
    leader = open_event(clock(read_format=COUNTING_GROUP), OURSELVES, ANY_CPU)
    opened.append(leader)
    faults = attributes(
        Type.SOFTWARE, Software.PAGE_FAULTS, read_format=COUNTING_GROUP,
        flags=Flag.EXCLUDE_KERNEL,
    )  # fmt: skip
    opened.append(open_event(faults, OURSELVES, ANY_CPU, group_fd=leader.fd))

    compute()
    clocked, faulted = leader.counts()

    assert clocked.value > 0
    assert clocked.running_ns == faulted.running_ns
    assert opened[0].id != opened[1].id


def test_a_pmu_that_is_not_there_is_an_unknown_event():
    with pytest.raises(EventUnknown, match="the moon's phase"):
        open_event(attributes(9999, 0), OURSELVES, ANY_CPU, what="the moon's phase")


def test_a_thread_that_is_not_there_is_gone():
    with pytest.raises(PerfTargetGone):
        open_event(clock(), NO_TID, ANY_CPU)


def test_no_descriptor_left_says_how_to_get_more(opened):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(NoDescriptorsLeft, match="more files"):
            open_event(clock(), OURSELVES, ANY_CPU)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_another_users_process_is_forbidden():
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        try:
            open_event(clock(), os.getppid(), ANY_CPU).close()
        except PerfForbidden as error:
            os.write(write, error.slug.encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)

    with os.fdopen(read, "rb") as said:
        assert said.read() == b"perf-forbidden"
