"""The oracle's books: stages exclude each other, released time is not held time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from profiler.oracle.stages import Stage
from profiler.oracle.truth import ledger as ledger_module
from profiler.oracle.truth.ledger import Ledger, released, staged


@dataclass
class Clocks:
    """Stands in for the time module: moves only when a test says so."""

    wall_ns: int = 1_000
    cpu_ns: int = 0

    def run(self, duration_ns: int) -> None:
        self.wall_ns += duration_ns
        self.cpu_ns += duration_ns

    def wait(self, duration_ns: int) -> None:
        self.wall_ns += duration_ns

    def monotonic_ns(self) -> int:
        return self.wall_ns

    def thread_time_ns(self) -> int:
        return self.cpu_ns

    def clock_gettime_ns(self, _clock_id: int) -> int:
        return self.cpu_ns

    def pthread_getcpuclockid(self, _ident: int) -> int:
        return 0


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    clocks = Clocks()
    monkeypatch.setattr(ledger_module, "time", clocks)
    return clocks


@pytest.fixture
def ledger(clocks: Clocks, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    ledger = Ledger("under test")
    monkeypatch.setattr(ledger_module._current, "ledger", ledger)
    yield ledger
    monkeypatch.undo()


def test_a_nested_stage_is_subtracted_from_its_parent(clocks: Clocks, ledger: Ledger) -> None:
    @staged(Stage.PREFIX_CACHE)
    def inner() -> None:
        clocks.run(5)

    @staged(Stage.SCHEDULE)
    def outer() -> None:
        clocks.run(2)
        inner()
        clocks.run(3)

    clocks.run(7)
    outer()
    cut = ledger.cut(clocks.wall_ns)

    assert cut.stages[Stage.SCHEDULE].cpu_ns == 5
    assert cut.stages[Stage.PREFIX_CACHE].cpu_ns == 5
    assert cut.stages[Stage.DISPATCH].cpu_ns == 7
    assert cut.cpu_ns == sum(stage.cpu_ns for stage in cut.stages.values())


def test_a_stage_ends_when_its_function_raises(clocks: Clocks, ledger: Ledger) -> None:
    @staged(Stage.VALIDATION)
    def fail() -> None:
        clocks.run(4)
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - nothing to tell apart
        fail()
    clocks.run(6)

    cut = ledger.cut(clocks.wall_ns)
    assert (cut.stages[Stage.VALIDATION].cpu_ns, cut.stages[Stage.DISPATCH].cpu_ns) == (4, 6)


def test_waiting_counts_as_wall_time_only(clocks: Clocks, ledger: Ledger) -> None:
    @staged(Stage.IDLE)
    def wait() -> None:
        clocks.wait(50)
        clocks.run(1)

    wait()

    idle = ledger.cut(clocks.wall_ns).stages[Stage.IDLE]
    assert (idle.cpu_ns, idle.wall_ns, idle.call_count) == (1, 51, 1)


def test_held_time_is_wall_time_without_released_calls(clocks: Clocks, ledger: Ledger) -> None:
    clocks.run(10)
    released(clocks.wait, 30)
    clocks.wait(5)  # preempted with the GIL held

    cut = ledger.cut(clocks.wall_ns)
    assert (cut.held_ns, cut.release_count) == (15, 1)


def test_what_is_in_progress_is_cut_at_the_instant(clocks: Clocks, ledger: Ledger) -> None:
    cuts = []

    @staged(Stage.TOKENIZE)
    def encode() -> None:
        clocks.run(20)
        cuts.append(ledger.cut(clocks.wall_ns))  # as another thread would, meanwhile
        clocks.run(80)

    clocks.run(1)
    released(encode)

    assert cuts[0].stages[Stage.TOKENIZE].cpu_ns == 20
    assert cuts[0].held_ns == 1
    assert ledger.cut(clocks.wall_ns).stages[Stage.TOKENIZE].cpu_ns == 100
