"""The oracle's tokenizer: real, and streaming whole characters only."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer

from profiler.oracle.tokenizer import TextStream, detokenize, load_tokenizer, tokenize


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer()


@pytest.mark.parametrize("releases_gil", [True, False])
def test_text_survives_the_round_trip(tokenizer: Tokenizer, releases_gil: bool) -> None:
    text = "def naïve(): return '🦊'  # 2024\n"

    assert tokenizer.decode(tokenize(tokenizer, text, releases_gil=releases_gil)) == text


def test_a_streamed_text_never_shows_half_a_character(tokenizer: Tokenizer) -> None:
    text = "🦊 in 日本"
    streams = {1: TextStream()}

    pieces = [
        detokenize(tokenizer, [{"id": 1, "token": token}], streams)[0]
        for token in tokenizer.encode(text).ids
    ]

    assert "".join(pieces) == text
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(pieces)


def test_outputs_of_forgotten_requests_have_no_text(tokenizer: Tokenizer) -> None:
    assert detokenize(tokenizer, [{"id": 9, "token": 100}], {}) == [""]


def test_bytes_that_are_no_character_are_shown_as_such_in_the_end(tokenizer: Tokenizer) -> None:
    stray = tokenizer.token_to_id("ð")  # how byte-level BPE spells the byte 0xF0
    assert stray is not None
    stream = TextStream()

    shown = "".join(stream.push(tokenizer, stray) for _ in range(4))

    assert shown == "\N{REPLACEMENT CHARACTER}" * 4
