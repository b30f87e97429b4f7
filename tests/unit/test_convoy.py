"""The replay of a line against its definition, its closed forms and the laws it must keep."""

from __future__ import annotations

import numpy as np
import pytest
from demands import as_they_came, together
from hypothesis import given
from hypothesis import strategies as st

from analyzers.convoy import (
    NOBODY,
    VLLM_BATCHES,
    VLLM_GATHER_NS,
    Convoys,
    Demand,
    Replay,
    Serving,
    batch_mean_sojourn_ns,
    convoys,
    replay,
)
from analyzers.intervals import Times, intervals

# (arrival, service) of each request, in any order.
loads = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 30)), min_size=1, max_size=25)
counts = st.integers(1, 80)
services = st.integers(1, 10_000_000)
limits = st.integers(1, 6)


def demand(load: list[tuple[int, int]]) -> Demand:
    pairs = np.array(load, np.int64).reshape(-1, 2)
    return as_they_came(pairs[:, 0], pairs[:, 1])


def users(count: int, requests: int, service_ns: int, away_ns: int) -> Demand:
    """Each of ``count`` users asks ``requests`` times, all for the first time at 0."""
    size = count * requests
    previous = np.arange(size) - count
    return Demand(
        np.zeros(size, np.int64),
        np.full(size, service_ns, np.int64),
        np.where(previous < 0, NOBODY, previous),
        np.full(size, away_ns, np.int64),
    )


def in_order(played: Replay) -> Times:
    """Rows in the order of arrival, those of one instant as they were given."""
    return np.argsort(played.arrival_ns, kind="stable")


def stepped(load: list[tuple[int, int]], servers: int) -> list[int]:
    """The waits by the definition: each request takes the server that is free first."""
    free = [0] * servers
    waits = [0] * len(load)
    for row in sorted(range(len(load)), key=lambda row: load[row][0]):
        arrival, service = load[row]
        server = min(range(servers), key=free.__getitem__)
        begin = max(arrival, free[server])
        free[server] = begin + service
        waits[row] = begin - arrival
    return waits


# -- one by one


@given(loads, st.integers(1, 4))
def test_waits_are_those_of_the_definition(load: list[tuple[int, int]], servers: int) -> None:
    assert replay(demand(load), Serving(servers)).wait_ns.tolist() == stepped(load, servers)


@given(loads, st.integers(1, 4))
def test_requests_begin_in_the_order_in_which_they_came(
    load: list[tuple[int, int]], servers: int
) -> None:
    played = replay(demand(load), Serving(servers))
    assert (np.diff(played.start_ns[in_order(played)]) >= 0).all()
    assert (played.start_ns >= played.arrival_ns).all()
    assert (played.leave_ns - played.start_ns == played.service_ns).all()


@given(loads, st.integers(2, 5))
def test_one_more_server_makes_nobody_wait_longer(
    load: list[tuple[int, int]], servers: int
) -> None:
    fewer = replay(demand(load), Serving(servers - 1)).wait_ns
    assert (replay(demand(load), Serving(servers)).wait_ns <= fewer).all()


@given(loads)
def test_one_server_never_rests_while_somebody_waits(load: list[tuple[int, int]]) -> None:
    played = replay(demand(load))
    working = intervals(played.start_ns, played.leave_ns)
    there = intervals(played.arrival_ns, played.leave_ns)
    assert working.total() == int(played.service_ns.sum())
    assert working.pairs() == there.pairs()


@given(counts, services)
def test_simultaneous_arrivals_wait_as_the_closed_form_says(count: int, service: int) -> None:
    played = replay(together(count, service))
    assert played.wait_ns.tolist() == [behind * service for behind in range(count)]
    assert played.wait_ns.sum() == count * (count - 1) // 2 * service


# -- in batches


@given(loads, st.integers(1, 3), limits, st.integers(0, 20))
def test_a_batch_is_worked_one_after_another_and_let_go_together(
    load: list[tuple[int, int]], servers: int, limit: int, gather: int
) -> None:
    played = replay(demand(load), Serving(servers, limit, gather))
    assert (played.wait_ns >= 0).all()
    order = in_order(played)
    # Batches are runs of the arrival order: a new one begins where the work is not continued.
    first = 0
    while first < len(order):
        rows = [order[first]]
        for row in order[first + 1 :]:
            before = rows[-1]
            continues = played.start_ns[row] == played.start_ns[before] + played.service_ns[before]
            if not continues or played.leave_ns[row] != played.leave_ns[before]:
                break
            rows.append(row)
        begin, end = played.start_ns[rows[0]], played.leave_ns[rows[0]]
        assert end - begin == played.service_ns[rows].sum()
        assert (played.leave_ns[rows] == end).all()
        first += len(rows)


@given(loads, limits)
def test_a_batching_server_does_the_same_work_and_lets_nobody_go_earlier(
    load: list[tuple[int, int]], limit: int
) -> None:
    one_by_one, batched = replay(demand(load)), replay(demand(load), Serving(1, limit))
    assert batched.start_ns.tolist() == one_by_one.start_ns.tolist()
    assert (batched.leave_ns >= one_by_one.leave_ns).all()


@given(counts, services, st.integers(1, 40))
def test_batches_of_simultaneous_arrivals_leave_as_the_closed_form_says(
    count: int, service: int, limit: int
) -> None:
    sojourn = replay(together(count, service), Serving(1, limit)).sojourn_ns
    assert sojourn.mean() == pytest.approx(batch_mean_sojourn_ns(count, service, limit))
    if count <= limit:
        assert set(sojourn.tolist()) == {count * service}


def test_the_server_takes_those_that_wait_and_no_more_than_the_limit() -> None:
    # given one request at work when four more come, and batches of three
    arrival = np.array([0, 1, 2, 3, 4], np.int64)
    service = np.full(5, 10, np.int64)
    # when they are batched
    played = replay(as_they_came(arrival, service), Serving(1, batch_limit=3))
    # then three leave together, and the fourth by itself
    assert played.leave_ns.tolist() == [10, 40, 40, 40, 50]


def test_a_server_that_waits_for_company_makes_a_single_request_wait() -> None:
    alone = replay(together(1, 5_000_000), VLLM_BATCHES)
    assert alone.wait_ns.tolist() == [VLLM_GATHER_NS]


def test_a_batch_that_is_full_waits_for_no_more_company() -> None:
    arrival = np.array([0, 1, 3], np.int64)
    service = np.full(3, 10, np.int64)
    played = replay(as_they_came(arrival, service), Serving(1, batch_limit=2, gather_ns=100))
    assert played.leave_ns.tolist() == [21, 21, 131]  # begun at 1 when full; at 21 + 100 when not


# -- what it says about the line


def test_a_burst_is_one_convoy_behind_one_request() -> None:
    arrival = np.array([0, 0, 0, 0, 100], np.int64)
    service = np.full(5, 10, np.int64)
    assert convoys(replay(as_they_came(arrival, service))) == Convoys(
        count=2, longest_ns=40, most_request_count=4, most_behind_count=3
    )


def test_requests_that_never_meet_stand_behind_nobody() -> None:
    arrival, service = np.arange(0, 100, 20, dtype=np.int64), np.full(5, 10, np.int64)
    assert convoys(replay(as_they_came(arrival, service))).most_behind_count == 0


@given(loads, st.integers(1, 4))
def test_convoys_hold_every_request_that_lasted(load: list[tuple[int, int]], servers: int) -> None:
    played = replay(demand(load), Serving(servers))
    found = convoys(played)
    lasting = int((played.sojourn_ns > 0).sum())
    assert found.count <= lasting <= found.count * max(found.most_request_count, 1)
    assert found.longest_ns >= played.sojourn_ns.max()
    assert found.most_behind_count <= int((played.wait_ns > 0).sum())


def test_no_requests_make_no_line() -> None:
    none = np.empty(0, np.int64)
    for serving in (Serving(1), Serving(2), VLLM_BATCHES):
        played = replay(as_they_came(none, none), serving)
        assert played.wait_ns.tolist() == []
        assert convoys(played) == Convoys(0, 0, 0, 0)


# -- in a loop


@given(st.integers(1, 12), st.integers(1, 9), st.integers(0, 200))
def test_users_in_a_loop_wait_for_all_others_less_their_time_away(
    count: int, service: int, away: int
) -> None:
    played = replay(users(count, 6, service, away))
    # Once all have been served, the server is theirs in turn: it works without a pause, or nobody
    # waits at all.
    later = played.wait_ns[count:]
    assert set(later.tolist()) == {max(0, (count - 1) * service - away)}


def test_in_a_loop_who_leaves_sooner_comes_sooner() -> None:
    once = users(2, 2, service_ns=10, away_ns=3)
    assert replay(once).arrival_ns.tolist() == [0, 0, 13, 23]
    assert replay(once, Serving(2)).arrival_ns.tolist() == [0, 0, 13, 13]


def test_a_batch_in_a_loop_comes_back_together() -> None:
    played = replay(users(3, 2, service_ns=10, away_ns=5), Serving(1, batch_limit=8))
    assert played.leave_ns.tolist() == [30, 30, 30, 65, 65, 65]


@given(loads, st.integers(1, 3), limits)
def test_a_loop_of_requests_without_a_previous_one_is_as_they_came(
    load: list[tuple[int, int]], servers: int, limit: int
) -> None:
    played = replay(demand(load), Serving(servers, limit))
    assert played.arrival_ns.tolist() == [arrival for arrival, _ in load]


def test_some_requests_of_a_loop_keep_their_previous_ones() -> None:
    every = users(3, 3, service_ns=10, away_ns=5)
    of_one = every.of(np.array([1, 4, 7]))
    assert replay(of_one).leave_ns.tolist() == [10, 25, 40]


# -- by chance


def test_random_arrivals_wait_as_pollaczek_and_khinchine_say() -> None:
    # M/D/1: the mean wait is u s / (2 (1 - u)) at utilisation u and service time s.
    service_ns, utilisation = 1_000_000, 0.6
    gaps = np.random.default_rng(1).exponential(service_ns / utilisation, 100_000)
    arrival = np.cumsum(gaps).astype(np.int64)
    played = replay(as_they_came(arrival, np.full(len(arrival), service_ns, np.int64)))
    expected_ns = utilisation * service_ns / (2 * (1 - utilisation))
    assert played.wait_ns.mean() == pytest.approx(expected_ns, rel=0.03)


# -- what is refused


@pytest.mark.parametrize("wrong", [{"server_count": 0}, {"batch_limit": 0}, {"gather_ns": -1}])
def test_a_server_that_serves_nobody_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="serves nobody"):
        Serving(**wrong)


def test_requests_that_lack_a_service_time_or_have_a_negative_one_are_refused() -> None:
    two, one = np.zeros(2, np.int64), np.ones(1, np.int64)
    with pytest.raises(ValueError, match="needs an arrival"):
        as_they_came(two, one)
    with pytest.raises(ValueError, match="negative"):
        as_they_came(one, -one)
