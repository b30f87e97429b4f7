"""The keeper: no recorder outlives its session, its time or its keeper."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Iterator

import pytest

from probes.keeper import Child, Keeper, KeeperGone, devnull
from tests.programs import is_gone
from tests.waiting import wait_until

# Says its state on stdout and waits; STUBBORN does not mind being told to stop.
WAITING = "import signal, sys; print('ready', flush=True); signal.pause()"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + WAITING


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    running = Keeper()
    yield running
    running.close()


def spawn(keeper: Keeper, code: str, *, max_seconds: float = 60.0, **options) -> tuple[Child, str]:
    """Start ``python -c code``; return it and the first line it printed."""
    reader, writer = os.pipe()
    with os.fdopen(reader) as output:
        try:
            child = keeper.spawn(
                [sys.executable, "-c", code],
                stdout=writer, stderr=writer, max_seconds=max_seconds, **options,
            )  # fmt: skip
        finally:
            os.close(writer)
        return child, output.readline().strip()


def test_a_child_runs_and_its_end_is_told(keeper):
    child, said = spawn(keeper, "import sys; print('hello'); sys.exit(3)")

    assert said == "hello"
    assert child.exited.wait(20)
    assert child.exit_code == 3
    assert child.exit_ns is not None
    assert child.exit_ns >= child.spawn_ns > 0
    assert child.cpu_seconds > 0
    assert not child.is_alive


def test_a_child_has_what_it_was_given(keeper):
    _, said = spawn(keeper, "import os; print(os.environ['X_TEST'])", env={"X_TEST": "given"})

    assert said == "given"


def test_a_child_holds_none_of_the_keepers_files(keeper):
    # Given one that runs already
    spawn(keeper, WAITING)

    # When another says what it has open, leaving out the directory it reads
    _, said = spawn(keeper, "import os; print(len(os.listdir('/proc/self/fd')) - 1)")

    assert said == "3"


def test_a_child_is_stopped_in_the_way_it_asked_for(keeper):
    child, _ = spawn(keeper, WAITING, stop_signal=signal.SIGUSR1)

    keeper.stop(child)

    assert child.exited.wait(20)
    assert child.exit_code == -signal.SIGUSR1


def test_a_child_that_does_not_stop_is_killed(keeper):
    child, said = spawn(keeper, STUBBORN)

    keeper.stop(child)

    assert said == "ready"
    assert child.exited.wait(20)
    assert child.exit_code == -signal.SIGKILL


def test_a_childs_time_is_bounded(keeper):
    child, _ = spawn(keeper, WAITING, max_seconds=0.2)

    assert child.exited.wait(20)
    assert child.exit_code == -signal.SIGTERM


def test_a_program_that_is_not_there_ends_at_once(keeper):
    null = devnull()
    child = keeper.spawn(["/no/such/program"], stdout=null, stderr=null, max_seconds=5)
    os.close(null)

    assert child.exited.wait(20)
    assert child.exit_code == 127


def test_closing_ends_every_child_and_the_keeper():
    keeper = Keeper()
    polite, stubborn = spawn(keeper, WAITING)[0], spawn(keeper, STUBBORN)[0]

    keeper.close()

    assert (polite.exit_code, stubborn.exit_code) == (-signal.SIGTERM, -signal.SIGKILL)
    assert all(map(is_gone, [keeper.pid, polite.pid, stubborn.pid]))


def test_a_killed_keeper_takes_its_children_along_and_nothing_is_spawned_any_more():
    # Given
    keeper = Keeper()
    child, _ = spawn(keeper, WAITING)

    # When
    os.kill(keeper.pid, signal.SIGKILL)

    # Then
    wait_until(lambda: is_gone(child.pid), "the kernel ends the child")
    wait_until(lambda: keeper.is_gone, "we hear of it")
    assert not child.is_alive
    assert child.exit_code is None, "nobody knows"
    with pytest.raises(KeeperGone) as gone:
        spawn(keeper, WAITING)
    assert gone.value.exit_code == 1
    keeper.stop(child)
    keeper.close()


def test_nothing_of_a_closed_keeper_is_left_open():
    before = set(os.listdir("/proc/self/fd"))

    for _ in range(3):
        keeper = Keeper()
        spawn(keeper, "pass")
        keeper.close()

    assert set(os.listdir("/proc/self/fd")) <= before
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime > 0, "and it was waited for"
