"""Masks are changed and put back by identity, and nobody else's change is undone."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from profiler.pin.affinity import (
    Held,
    HeldProcess,
    LinuxKernel,
    Mask,
    Outcome,
    common_mask,
    hold,
    impose,
    read_masks,
    restore,
)

ALL = frozenset(range(8))
PINNED = frozenset({2, 3})
ELSEWHERE = frozenset({7})
SERVER, CHILD, STRANGER = 100, 200, 300


class FakeKernel:
    """Processes and threads in memory; ``on_set`` runs at each change of a mask."""

    def __init__(self) -> None:
        self._ticks = itertools.count(1000)
        self.starts: dict[int, int] = {}
        self.makers: dict[int, int] = {}
        self.threads: dict[int, dict[int, tuple[int, Mask]]] = {}
        self.cpusets: dict[int, Mask] = {}
        self.on_set: Callable[[int, Mask], None] = lambda _tid, _mask: None

    def add_process(self, pid: int, mask: Mask = ALL, *, maker: int = 1) -> None:
        self.starts[pid] = next(self._ticks)
        self.makers[pid] = maker
        self.threads[pid] = {}
        self.add_thread(pid, pid, mask)

    def add_thread(self, pid: int, tid: int, mask: Mask) -> None:
        self.threads[pid][tid] = next(self._ticks), mask

    def end_process(self, pid: int) -> None:
        del self.starts[pid], self.threads[pid]

    def end_thread(self, pid: int, tid: int) -> None:
        del self.threads[pid][tid]

    def tids(self, pid: int) -> list[int]:
        return sorted(self._of(pid))

    def start_ticks(self, pid: int, tid: int | None = None) -> int:
        threads = self._of(pid)
        if tid is None:
            return self.starts[pid]
        if tid not in threads:
            raise ProcessLookupError
        return threads[tid][0]

    def children(self, pid: int) -> list[int]:
        return [child for child in self.starts if self.makers[child] == pid]

    def mask(self, tid: int) -> Mask:
        return self._holder(tid)[tid][1]

    def set_mask(self, tid: int, mask: Mask) -> None:
        threads = self._holder(tid)
        threads[tid] = threads[tid][0], mask & self.cpusets.get(tid, ALL)
        self.on_set(tid, mask)

    def _of(self, pid: int) -> dict[int, tuple[int, Mask]]:
        if pid not in self.threads:
            raise ProcessLookupError
        return self.threads[pid]

    def _holder(self, tid: int) -> dict[int, tuple[int, Mask]]:
        for threads in self.threads.values():
            if tid in threads:
                return threads
        raise ProcessLookupError


@pytest.fixture
def kernel() -> FakeKernel:
    """A server of two threads that may run anywhere and one that was bound on purpose."""
    made = FakeKernel()
    made.add_process(SERVER)
    made.add_thread(SERVER, 101, ALL)
    made.add_thread(SERVER, 102, ELSEWHERE)
    return made


def masks(kernel: FakeKernel, pid: int = SERVER) -> dict[int, Mask]:
    return {tid: kernel.mask(tid) for tid in kernel.tids(pid)}


def put_back(kernel: FakeKernel, held: Held) -> Outcome:
    return restore(kernel, held, sleep=lambda _seconds: None)


def test_a_plan_moves_all_threads_but_those_bound_on_purpose(kernel):
    before = masks(kernel)
    held = hold(kernel, {SERVER: PINNED})

    assert impose(kernel, held).changed_count == 2
    assert masks(kernel) == {100: PINNED, 101: PINNED, 102: ELSEWHERE}

    outcome = put_back(kernel, held)
    assert masks(kernel) == before
    assert (outcome.changed_count, outcome.newborn, outcome.foreign) == (2, [], [])


def test_imposing_twice_and_restoring_twice_is_the_same_as_once(kernel):
    before = masks(kernel)
    held = hold(kernel, {SERVER: PINNED})
    impose(kernel, held)
    assert impose(kernel, held).changed_count == 0
    put_back(kernel, held)
    assert put_back(kernel, held).changed_count == 0
    assert masks(kernel) == before


def test_a_newborn_thread_gets_what_its_process_had(kernel):
    held = hold(kernel, {SERVER: PINNED})
    impose(kernel, held)
    kernel.add_thread(SERVER, 103, PINNED)  # as it inherits it
    kernel.add_thread(SERVER, 104, frozenset({5}))  # and one that has bound itself since

    outcome = put_back(kernel, held)

    assert kernel.mask(103) == ALL
    assert kernel.mask(104) == {5}
    assert outcome.newborn == [(SERVER, 103)]
    assert outcome.foreign == []


def test_a_newborn_thread_of_a_window_without_the_plan_is_moved_in_the_next(kernel):
    held = hold(kernel, {SERVER: PINNED})
    kernel.add_thread(SERVER, 103, ALL)
    impose(kernel, held)
    assert kernel.mask(103) == PINNED
    put_back(kernel, held)
    assert kernel.mask(103) == ALL


def test_a_thread_whose_id_was_used_again_is_a_newborn_one(kernel):
    # Given that the id belonged to the thread that was bound on purpose
    held = hold(kernel, {SERVER: PINNED})
    impose(kernel, held)
    kernel.end_thread(SERVER, 102)
    kernel.add_thread(SERVER, 102, PINNED)

    put_back(kernel, held)

    assert kernel.mask(102) == ALL, "what its process had, not what the dead thread had"


def test_what_somebody_else_has_moved_is_left_and_told(kernel):
    held = hold(kernel, {SERVER: PINNED})
    impose(kernel, held)
    kernel.set_mask(101, frozenset({5}))

    outcome = put_back(kernel, held)

    assert masks(kernel) == {100: ALL, 101: {5}, 102: ELSEWHERE}
    assert outcome.foreign == [(SERVER, 101)]
    # and it is not moved again
    assert impose(kernel, held).foreign == [(SERVER, 101)]
    assert kernel.mask(101) == {5}


def test_a_process_that_was_started_meanwhile_is_put_back_too(kernel):
    # Given a child that had the plan's mask before, by chance
    kernel.add_process(CHILD, PINNED, maker=SERVER)
    held = hold(kernel, {SERVER: PINNED})
    impose(kernel, held)

    # When the server starts a process, and that one another
    kernel.add_process(201, PINNED, maker=SERVER)
    kernel.add_process(202, PINNED, maker=201)
    outcome = put_back(kernel, held)

    assert kernel.mask(201) == kernel.mask(202) == ALL
    assert kernel.mask(CHILD) == PINNED
    assert outcome.newborn == [(201, 201), (202, 202)]


def test_another_process_under_the_same_pid_is_not_touched(kernel):
    held = hold(kernel, {SERVER: PINNED})
    impose(kernel, held)
    kernel.end_process(SERVER)
    kernel.add_process(SERVER, PINNED)

    assert put_back(kernel, held).changed_count == 0
    assert masks(kernel) == {SERVER: PINNED}


def test_a_process_that_has_ended_is_no_error(kernel):
    kernel.add_process(STRANGER)
    held = hold(kernel, {SERVER: PINNED, STRANGER: PINNED, 999: PINNED})
    assert [process.pid for process in held.processes] == [SERVER, STRANGER]
    impose(kernel, held)
    kernel.end_process(SERVER)

    outcome = put_back(kernel, held)

    assert outcome.changed_count == 1
    assert masks(kernel, STRANGER) == {STRANGER: ALL}


def test_a_thread_that_is_being_made_while_its_maker_is_put_back_is_found(kernel):
    # Given a clone that has copied its maker's mask and shows only after the maker was put back
    held = hold(kernel, {SERVER: PINNED})
    impose(kernel, held)

    def make_one_more(tid: int, mask: Mask) -> None:
        if mask == ALL and tid < 110:
            kernel.add_thread(SERVER, tid + 10, PINNED)

    kernel.on_set = make_one_more
    put_back(kernel, held)

    assert set(masks(kernel).values()) == {ALL, ELSEWHERE}
    assert len(masks(kernel)) == 5


def test_a_late_clone_is_waited_for(kernel):
    held = hold(kernel, {SERVER: PINNED})
    impose(kernel, held)
    pauses = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 4:
            kernel.add_thread(SERVER, 120, PINNED)

    restore(kernel, held, sleep)

    assert kernel.mask(120) == ALL
    assert sum(pauses) > 0


def test_a_thread_that_we_may_not_move_is_told(kernel):
    def refuse(_tid: int, _mask: Mask) -> None:
        raise PermissionError

    held = hold(kernel, {SERVER: PINNED})
    kernel.on_set = refuse
    assert impose(kernel, held).refused == [(SERVER, 100), (SERVER, 101)]


def test_a_mask_that_the_kernel_cuts_is_taken_back_and_told(kernel):
    # Given a process whose cpuset holds a part of the plan's CPUs
    usable = frozenset({3, 4})
    kernel.add_process(CHILD, usable)
    kernel.cpusets[CHILD] = usable

    outcome = impose(kernel, hold(kernel, {CHILD: PINNED}))

    assert outcome.refused == [(CHILD, CHILD)]
    assert kernel.mask(CHILD) == usable


def test_a_process_that_is_where_it_should_be_is_not_held(kernel):
    assert hold(kernel, {SERVER: ALL}).processes == []


def test_what_is_held_survives_the_way_to_the_guardian(kernel):
    kernel.add_process(CHILD, maker=SERVER)
    held = hold(kernel, {SERVER: PINNED})
    assert Held.from_json(held.to_json()) == held
    outcome = Outcome(3, [(5, 6)], [(1, 2)], [(3, 4)])
    assert Outcome.from_json(outcome.to_json()) == outcome


def test_the_common_mask_is_that_of_most_threads_and_of_two_the_wider(kernel):
    threads = read_masks(kernel, SERVER)
    assert common_mask(threads.values()) == ALL
    del threads[101]
    assert common_mask(threads.values()) == ALL


def test_the_real_kernel_tells_what_the_program_tells_of_itself(program):
    kernel = LinuxKernel()
    tids = set(program.hello["tids"].values())

    threads = read_masks(kernel, program.pid)

    assert set(threads) == tids
    assert {thread.mask for thread in threads.values()} == {kernel.mask(program.pid)}
    process = HeldProcess(program.pid, kernel.start_ticks(program.pid), ALL, PINNED, threads)
    assert process.moving_count == len(threads) * (kernel.mask(program.pid) == ALL)


def test_a_process_that_is_gone_has_no_threads(kernel):
    assert read_masks(kernel, 4711) == {}
