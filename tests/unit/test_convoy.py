"""The replay of a line against its definition, its closed forms and the laws it must keep."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyzers.convoy import (
    VLLM_GATHER_NS,
    Convoys,
    Replay,
    batch_mean_sojourn_ns,
    convoys,
    fifo_mean_sojourn_ns,
    fifo_mean_wait_ns,
    predict_waits,
    replay,
    utilisation,
    what_if,
)
from analyzers.intervals import Times, intervals

# (arrival, service) of each request, in any order.
loads = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 30)), min_size=1, max_size=25)
counts = st.integers(1, 80)
services = st.integers(1, 10_000_000)
limits = st.integers(1, 6)


def columns(load: list[tuple[int, int]]) -> tuple[Times, Times]:
    pairs = np.array(load, np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def together(count: int, service_ns: int) -> tuple[Times, Times]:
    return np.zeros(count, np.int64), np.full(count, service_ns, np.int64)


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
    assert predict_waits(*columns(load), servers).tolist() == stepped(load, servers)


@given(loads, st.integers(1, 4))
def test_requests_begin_in_the_order_in_which_they_came(
    load: list[tuple[int, int]], servers: int
) -> None:
    played = replay(*columns(load), servers)
    assert (np.diff(played.start_ns[in_order(played)]) >= 0).all()
    assert (played.start_ns >= played.arrival_ns).all()
    assert (played.leave_ns - played.start_ns == played.service_ns).all()


@given(loads, st.integers(2, 5))
def test_one_more_server_makes_nobody_wait_longer(
    load: list[tuple[int, int]], servers: int
) -> None:
    fewer = predict_waits(*columns(load), servers - 1)
    assert (predict_waits(*columns(load), servers) <= fewer).all()


@given(loads)
def test_one_server_never_rests_while_somebody_waits(load: list[tuple[int, int]]) -> None:
    played = replay(*columns(load))
    working = intervals(played.start_ns, played.leave_ns)
    there = intervals(played.arrival_ns, played.leave_ns)
    assert working.total() == int(played.service_ns.sum())
    assert working.pairs() == there.pairs()


@given(counts, services)
def test_simultaneous_arrivals_wait_as_the_closed_form_says(count: int, service: int) -> None:
    played = replay(*together(count, service))
    assert played.wait_ns.tolist() == [behind * service for behind in range(count)]
    assert played.wait_ns.mean() == pytest.approx(fifo_mean_wait_ns(count, service))
    assert played.sojourn_ns.mean() == pytest.approx(fifo_mean_sojourn_ns(count, service))


# -- in batches


@given(loads, st.integers(1, 3), limits, st.integers(0, 20))
def test_a_batch_is_worked_one_after_another_and_let_go_together(
    load: list[tuple[int, int]], servers: int, limit: int, gather: int
) -> None:
    played = replay(*columns(load), servers, "batch", limit, gather)
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
    one_by_one, batched = replay(*columns(load)), replay(*columns(load), 1, "batch", limit)
    assert batched.start_ns.tolist() == one_by_one.start_ns.tolist()
    assert (batched.leave_ns >= one_by_one.leave_ns).all()


@given(loads, st.integers(1, 3))
def test_batches_of_one_are_fifo(load: list[tuple[int, int]], servers: int) -> None:
    batched = predict_waits(*columns(load), servers, "batch", batch_limit=1)
    assert batched.tolist() == predict_waits(*columns(load), servers).tolist()


@given(counts, services, st.integers(1, 40))
def test_batches_of_simultaneous_arrivals_leave_as_the_closed_form_says(
    count: int, service: int, limit: int
) -> None:
    sojourn = replay(*together(count, service), 1, "batch", limit).sojourn_ns
    assert sojourn.mean() == pytest.approx(batch_mean_sojourn_ns(count, service, limit))
    if count <= limit:
        assert set(sojourn.tolist()) == {count * service}


def test_the_server_takes_those_that_wait_and_no_more_than_the_limit() -> None:
    # given one request at work when four more come, and batches of three
    arrival = np.array([0, 1, 2, 3, 4], np.int64)
    service = np.full(5, 10, np.int64)
    # when they are batched
    played = replay(arrival, service, 1, "batch", batch_limit=3)
    # then three leave together, and the fourth by itself
    assert played.leave_ns.tolist() == [10, 40, 40, 40, 50]


def test_a_server_that_waits_for_company_makes_a_single_request_wait() -> None:
    alone = predict_waits(*together(1, 5_000_000), 1, "batch", gather_ns=VLLM_GATHER_NS)
    assert alone.tolist() == [VLLM_GATHER_NS]


def test_a_batch_that_is_full_waits_for_no_more_company() -> None:
    arrival = np.array([0, 1, 3], np.int64)
    service = np.full(3, 10, np.int64)
    played = replay(arrival, service, 1, "batch", batch_limit=2, gather_ns=100)
    assert played.leave_ns.tolist() == [21, 21, 131]  # begun at 1 when full; at 21 + 100 when not


# -- what it says about the line


def test_a_burst_is_one_convoy_behind_one_request() -> None:
    arrival = np.array([0, 0, 0, 0, 100], np.int64)
    service = np.full(5, 10, np.int64)
    assert convoys(replay(arrival, service)) == Convoys(
        count=2, longest_ns=40, most_request_count=4, most_behind_count=3
    )


def test_requests_that_never_meet_stand_behind_nobody() -> None:
    arrival, service = np.arange(0, 100, 20, dtype=np.int64), np.full(5, 10, np.int64)
    assert convoys(replay(arrival, service)).most_behind_count == 0
    assert utilisation(arrival, service) == pytest.approx(50 / 90)


@given(loads, st.integers(1, 4))
def test_convoys_hold_every_request_that_lasted(load: list[tuple[int, int]], servers: int) -> None:
    played = replay(*columns(load), servers)
    found = convoys(played)
    lasting = int((played.sojourn_ns > 0).sum())
    assert found.count <= lasting <= found.count * max(found.most_request_count, 1)
    assert found.longest_ns >= played.sojourn_ns.max()
    assert found.most_behind_count <= int((played.wait_ns > 0).sum())


@given(loads, st.integers(1, 4))
def test_utilisation_is_a_share_or_unknown(load: list[tuple[int, int]], servers: int) -> None:
    share = utilisation(*columns(load), servers)
    assert share is None or 0 <= share <= 1


def test_servers_that_are_never_idle_are_used_in_full() -> None:
    assert utilisation(*together(6, 10), servers=3) == 1.0


def test_no_requests_make_no_line() -> None:
    none = np.empty(0, np.int64)
    for servers in (1, 2):
        assert predict_waits(none, none, servers).tolist() == []
    assert predict_waits(none, none, discipline="batch").tolist() == []
    assert utilisation(none, none) is None
    assert convoys(replay(none, none)) == Convoys(0, 0, 0, 0)
    assert what_if(none, none) == []


# -- what would lift it


def test_a_burst_over_k_servers_waits_a_kth() -> None:
    gains = {(one.name, one.amount): one for one in what_if(*together(32, 1000), factors=(2, 4))}
    for name in ("api_servers", "tokenizer_workers"):
        for factor in (2, 4):
            one = gains[name, factor]
            assert one.mean_wait_before_ns == fifo_mean_wait_ns(32, 1000)
            assert one.mean_wait_after_ns == fifo_mean_wait_ns(32 // factor, 1000)
            assert one.saved_ns == one.mean_wait_before_ns - one.mean_wait_after_ns


def test_batched_api_servers_each_let_their_own_share_go() -> None:
    gain = what_if(*together(32, 1000), discipline="batch", factors=(4,))[0]
    assert gain.name == "api_servers"
    assert gain.mean_sojourn_before_ns == 32_000
    assert gain.mean_sojourn_after_ns == 8_000


def test_reused_prefixes_shorten_the_own_service_too() -> None:
    gain = what_if(*together(10, 1000), factors=(), hit_ratio=0.75)[0]
    assert (gain.name, gain.amount) == ("prefix_reuse", 0.75)
    assert gain.mean_wait_after_ns == fifo_mean_wait_ns(10, 250)
    assert gain.saved_ns == fifo_mean_sojourn_ns(10, 1000) - fifo_mean_sojourn_ns(10, 250)


def test_no_gain_is_claimed_for_a_hit_ratio_that_is_unknown() -> None:
    assert {one.name for one in what_if(*together(2, 10))} == {"api_servers", "tokenizer_workers"}


@given(loads, st.integers(2, 4))
def test_one_line_before_all_servers_saves_no_less_than_separate_lines_when_equal(
    load: list[tuple[int, int]], factor: int
) -> None:
    arrival, _ = columns(load)
    equal = np.full(len(load), 7, np.int64)
    separate, shared = what_if(arrival, equal, factors=(factor,))
    assert shared.saved_ns >= separate.saved_ns - 1e-6
    assert separate.saved_ns >= 0


@pytest.mark.parametrize(
    ("arrival", "service", "servers"), [([0], [1, 2], 1), ([0], [-1], 1), ([0], [1], 0)]
)
def test_a_line_that_cannot_be_is_refused(
    arrival: list[int], service: list[int], servers: int
) -> None:
    with pytest.raises(ValueError, match=r"arrivals but|negative|at least 1"):
        replay(np.array(arrival, np.int64), np.array(service, np.int64), servers)
