"""Prompts of an exact token count: words that are one token each, behind what the server adds.

A prompt of N tokens is the lead, then N minus the overhead such words. So no prompt needs to be
tokenized to know its size, and the first words, drawn anew for each prompt, make it unique within
the first block of a prefix cache. All after them is a slice of one long text: cheap to make.
"""

from __future__ import annotations

import random
import re
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from collectors.errors import CputaxError, ExitCode
from profiler.load.prompts import stdlib_text

# Counts the tokens of a prompt as the server does, with all that the server puts around it.
CountTokens = Callable[[str], Awaitable[int]]

_LEAD: Final = "Say"  # what no word stands before; chat templates strip leading spaces
_WANTED_WORDS: Final = 256
_LEAST_WORDS: Final = 32
_CANDIDATES: Final = 2_048
_GROUP: Final = 32
# 16 words of at least 32: 80 bits and more, within one block of vLLM's prefix cache (16 tokens).
_HEAD_WORDS: Final = 16
_SOURCE_CHARS: Final = 1_000_000


class PromptInexact(CputaxError):
    """No prompt of the wanted token count can be made."""

    slug = "prompt-inexact"
    exit_code = ExitCode.USAGE

    def __init__(self, problem: str) -> None:
        super().__init__(
            problem, "let the size of the prompts be counted in characters: --prompt-chars 4000"
        )


@dataclass(frozen=True, slots=True)
class WordPool:
    """Words that are one token each, and the tokens of a prompt that has none of them."""

    words: tuple[str, ...]
    overhead_tokens: int


async def find_words(count_tokens: CountTokens) -> WordPool:
    """Find words that are one token each for a tokenizer, asking it a few hundred times at most.

    Raises:
        PromptInexact: there are too few of them.
    """
    overhead_tokens = await count_tokens(_LEAD)
    candidates = _frequent_words()
    found: list[str] = []
    for start in range(0, len(candidates), _GROUP):
        group = candidates[start : start + _GROUP]
        group_tokens = await count_tokens(_join(group)) - overhead_tokens
        found += await _single_tokens(group, group_tokens, count_tokens, overhead_tokens)
        if len(found) >= _WANTED_WORDS:
            break
    if len(found) < _LEAST_WORDS:
        raise PromptInexact("this tokenizer has too few words that are one token")
    return WordPool(tuple(found[:_WANTED_WORDS]), overhead_tokens)


async def _single_tokens(
    words: Sequence[str], token_count: int, count_tokens: CountTokens, overhead_tokens: int
) -> list[str]:
    """Return those of ``words``, which are ``token_count`` tokens together, that are one each.

    No word is less than one token, so a sum without excess needs no closer look; half of a group
    tells the other half.
    """
    if token_count <= len(words):
        return list(words)
    if len(words) == 1:
        return []
    left, right = words[: len(words) // 2], words[len(words) // 2 :]
    left_tokens = await count_tokens(_join(left)) - overhead_tokens
    right_tokens = token_count - left_tokens
    return [
        *await _single_tokens(left, left_tokens, count_tokens, overhead_tokens),
        *await _single_tokens(right, right_tokens, count_tokens, overhead_tokens),
    ]


async def check_size(count_tokens: CountTokens, pool: WordPool, token_count: int) -> None:
    """Have one prompt of ``token_count`` tokens counted, one that no request will carry.

    Raises:
        PromptInexact: it is not of that size: the words are no single tokens behind one another.
    """
    prompt = WordPrompts(pool, token_count, secrets.token_hex(8)).make(token_count, "check")
    counted = await count_tokens(prompt)
    if counted != token_count:
        raise PromptInexact(
            f"a prompt meant to have {token_count} tokens has {counted} for this tokenizer"
        )


class WordPrompts:
    """Makes prompts of up to ``max_tokens`` tokens, each a few microseconds' work."""

    def __init__(self, pool: WordPool, max_tokens: int, seed: str) -> None:
        self._pool = pool
        self._seed = seed
        chooser = random.Random(f"body {seed}")
        words = chooser.choices(pool.words, k=2 * max_tokens)
        self._body = _join(words)[len(_LEAD) :]
        self._starts = [0, *accumulate(len(word) + 1 for word in words)]

    def make(self, token_count: int, key: str) -> str:
        """Return a prompt of ``token_count`` tokens; the same one for the same seed and key.

        A shorter one of the same key begins like a longer one.

        Raises:
            PromptInexact: the server adds more than ``token_count`` tokens of its own.
        """
        word_count = token_count - self._pool.overhead_tokens
        if word_count < 0:
            raise PromptInexact(
                f"a prompt of {token_count} tokens cannot be made: "
                f"the server adds {self._pool.overhead_tokens} to any prompt"
            )
        chooser = random.Random(f"{self._seed} {key}")
        head = chooser.choices(self._pool.words, k=_HEAD_WORDS)
        first = chooser.randrange(len(self._starts) // 2)
        body_count = max(0, word_count - _HEAD_WORDS)
        body = self._body[self._starts[first] : self._starts[first + body_count]]
        return _join(head[:word_count]) + body


def _join(words: Sequence[str]) -> str:
    return _LEAD + "".join(f" {word}" for word in words)


def _frequent_words() -> list[str]:
    """The commonest words of Python's own sources: whole words to most tokenizers."""
    counts = Counter(re.findall(r"\b[a-z]{2,10}\b", stdlib_text(_SOURCE_CHARS)))
    return [word for word, _ in counts.most_common(_CANDIDATES)]
