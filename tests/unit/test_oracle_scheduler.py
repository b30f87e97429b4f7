"""Continuous batching and prefix reuse of the oracle's engine."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.oracle.block_pool import BLOCK_TOKENS, BlockPool, hash_blocks
from profiler.oracle.scheduler import EngineRequest, Limits, Scheduler


def make_request(request_id: int, tokens: list[int], max_tokens: int = 2) -> EngineRequest:
    prompt = array("I", tokens)
    return EngineRequest(request_id, prompt, hash_blocks(prompt), max_tokens)


def step(scheduler: Scheduler) -> tuple[list[tuple[int, int, int]], list[tuple[int, bool]]]:
    """Run one step; returns its chunks and its outputs."""
    chunks = scheduler.schedule()
    outputs = scheduler.update(chunks, [7] * sum(chunk.samples for chunk in chunks))
    return (
        [(chunk.request.request_id, chunk.start, chunk.token_count) for chunk in chunks],
        [(output["id"], output["finished"]) for output in outputs],
    )


def test_a_block_hash_covers_everything_before_it() -> None:
    shared, other = list(range(BLOCK_TOKENS)), [1] * BLOCK_TOKENS

    first = hash_blocks(array("I", shared + other))
    second = hash_blocks(array("I", other + other))

    assert first[0] == hash_blocks(array("I", [*shared, 5, 6]))[0]
    assert first[1] != second[1]


def test_long_prompts_are_computed_in_chunks_beside_running_requests() -> None:
    scheduler = Scheduler(Limits(step_tokens=10, running_requests=8, block_count=100))
    scheduler.add(make_request(1, [1] * 4))
    scheduler.add(make_request(2, [2] * 15))

    assert step(scheduler) == ([(1, 0, 4), (2, 0, 6)], [(1, False)])
    assert step(scheduler) == ([(1, 4, 1), (2, 6, 9)], [(1, True), (2, False)])
    assert step(scheduler) == ([(2, 15, 1)], [(2, True)])
    assert not scheduler.has_work


def test_all_that_a_step_takes_up_is_scheduled_at_one_instant() -> None:
    scheduler = Scheduler(Limits(step_tokens=10, running_requests=8, block_count=100))
    together = [make_request(1, [1] * 4), make_request(2, [2] * 15)]
    for request in together:
        scheduler.add(request)

    step(scheduler)

    assert together[0].scheduled_ns == together[1].scheduled_ns >= together[1].queued_ns


def test_a_known_prefix_is_not_computed_again() -> None:
    scheduler = Scheduler(Limits(block_count=100))
    prompt = list(range(2 * BLOCK_TOKENS + 3))
    scheduler.add(make_request(1, prompt, max_tokens=1))
    step(scheduler)

    scheduler.add(make_request(2, prompt, max_tokens=1))

    assert step(scheduler)[0] == [(2, 2 * BLOCK_TOKENS, 3)]
    assert scheduler.stats()["hit_token_count"] == 2 * BLOCK_TOKENS


def test_the_last_prompt_token_is_computed_even_when_the_whole_prompt_is_known() -> None:
    scheduler = Scheduler(Limits(block_count=100))
    prompt = list(range(2 * BLOCK_TOKENS))
    for request_id in (1, 2):
        scheduler.add(make_request(request_id, prompt, max_tokens=1))
        chunks, outputs = step(scheduler)

    assert chunks == [(2, BLOCK_TOKENS, BLOCK_TOKENS)]
    assert outputs == [(2, True)]


def test_requests_wait_for_blocks_and_come_in_order() -> None:
    scheduler = Scheduler(Limits(block_count=2))
    for request_id in (1, 2):
        scheduler.add(make_request(request_id, [request_id] * (BLOCK_TOKENS + 1), max_tokens=1))

    assert step(scheduler)[1] == [(1, True)]
    assert step(scheduler)[1] == [(2, True)]


@pytest.mark.parametrize("is_running", [True, False])
def test_an_aborted_request_leaves_nothing(is_running: bool) -> None:
    scheduler = Scheduler(Limits(block_count=10))
    scheduler.add(make_request(1, [1] * 40, max_tokens=5))
    if is_running:
        step(scheduler)

    scheduler.abort(1)

    assert not scheduler.has_work
    assert scheduler.pool.usage_ratio == 0


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(1, 70), st.integers(1, 4)), min_size=1, max_size=12
    )
)
def test_every_request_finishes_and_every_block_comes_back(
    shapes: list[tuple[int, int, int]],
) -> None:
    scheduler = Scheduler(Limits(step_tokens=32, running_requests=3, block_count=12))
    for request_id, (family, token_count, max_tokens) in enumerate(shapes):
        scheduler.add(make_request(request_id, [family] * token_count, max_tokens))
    output_count = 0
    while scheduler.has_work:
        chunks, outputs = step(scheduler)
        assert 0 < sum(token_count for _, _, token_count in chunks) <= 32
        output_count += len(outputs)

    assert output_count == sum(max_tokens for _, _, max_tokens in shapes)
    assert scheduler.pool.usage_ratio == 0


def test_a_shared_block_stays_while_one_request_uses_it() -> None:
    pool = BlockPool(4)
    hashes = hash_blocks(array("I", range(2 * BLOCK_TOKENS)))
    first = pool.allocate(hashes, 2 * BLOCK_TOKENS, 2 * BLOCK_TOKENS)
    second = pool.allocate(hashes, 2 * BLOCK_TOKENS, 2 * BLOCK_TOKENS)
    assert first is not None
    assert second is not None
    assert second.block_ids[0] == first.block_ids[0]

    pool.free(first)

    assert pool.usage_ratio == pytest.approx(2 / 4)
