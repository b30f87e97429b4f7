"""Prompts have exactly the tokens they were meant to have, and share none of their beginning."""

from __future__ import annotations

import asyncio
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.load.words import PromptInexact, WordPool, WordPrompts, check_size, find_words

TEMPLATE_TOKENS = 5
BLOCK_TOKENS = 16  # of vLLM's prefix cache, by default


class FakeTokenizer:
    """One token for each word whose length ``knows`` holds, one for each letter of others."""

    def __init__(self, knows: set[int]) -> None:
        self._knows = knows
        self.question_count = 0

    def tokens(self, text: str) -> list[str]:
        found: list[str] = []
        for word in re.findall(r" ?\S+", text):
            found += [word] if len(word.strip()) in self._knows else list(word.strip())
        return found

    async def count(self, text: str) -> int:
        self.question_count += 1
        return TEMPLATE_TOKENS + len(self.tokens(text))


def pool_for(tokenizer: FakeTokenizer) -> WordPool:
    return asyncio.run(find_words(tokenizer.count))


POOL = pool_for(FakeTokenizer(set(range(3, 8))))


@pytest.mark.parametrize("knows", [set(range(1, 20)), {3, 5}, {4}, set(range(5, 11))])
def test_only_words_of_one_token_are_taken(knows):
    tokenizer = FakeTokenizer(knows)

    pool = pool_for(tokenizer)

    assert all(len(tokenizer.tokens(f" {word}")) == 1 for word in pool.words)
    assert len(set(pool.words)) == len(pool.words) >= 32


def test_a_good_tokenizer_is_asked_a_few_times_only():
    tokenizer = FakeTokenizer(set(range(1, 20)))

    pool_for(tokenizer)

    assert tokenizer.question_count < 20


def test_a_tokenizer_of_letters_is_refused():
    with pytest.raises(PromptInexact):
        pool_for(FakeTokenizer(set()))


@given(st.integers(min_value=POOL.overhead_tokens, max_value=3_000), st.text())
def test_a_prompt_has_the_tokens_that_were_asked_for(token_count, key):
    prompt = WordPrompts(POOL, token_count, "seed").make(token_count, key)

    assert asyncio.run(FakeTokenizer(set(range(3, 8))).count(prompt)) == token_count


def test_a_prompt_smaller_than_what_the_server_adds_is_refused():
    with pytest.raises(PromptInexact, match=f"adds {POOL.overhead_tokens}"):
        WordPrompts(POOL, 100, "seed").make(POOL.overhead_tokens - 1, "key")


def test_prompts_differ_within_the_first_block_of_a_prefix_cache():
    prompts = WordPrompts(POOL, 200, "seed")
    tokenizer = FakeTokenizer(set(range(3, 8)))

    blocks = {
        tuple(tokenizer.tokens(prompts.make(200, str(number)))[: BLOCK_TOKENS - TEMPLATE_TOKENS])
        for number in range(2_000)
    }

    assert len(blocks) == 2_000


def test_the_same_seed_and_key_make_the_same_prompt_and_another_seed_does_not():
    prompts = [WordPrompts(POOL, 100, seed).make(100, "1") for seed in ("a", "a", "b")]

    assert prompts[0] == prompts[1]
    assert prompts[0][:40] != prompts[2][:40]


def test_a_shorter_prompt_of_a_key_begins_the_longer_one():
    prompts = WordPrompts(POOL, 1_000, "seed")

    assert prompts.make(1_000, "shared").startswith(prompts.make(100, "shared"))


def test_words_that_melt_together_are_noticed():
    # Given a tokenizer for which two words in a row are one token, unless they are few
    async def count(text: str) -> int:
        words = len(text.split())
        return words if words < 64 else words // 2

    # When, then
    pool = WordPool(POOL.words, 1)
    asyncio.run(check_size(count, pool, 60))
    with pytest.raises(PromptInexact, match="100 tokens"):
        asyncio.run(check_size(count, pool, 100))
