"""A real byte-level BPE tokenizer behind one thread, as vLLM's renderer pool has it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import queue
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import tokenizers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from profiler.load.prompts import stdlib_text
from profiler.oracle.model_card import VOCABULARY
from profiler.oracle.stages import Stage
from profiler.oracle.truth.ledger import released, staged
from profiler.oracle.truth.timed import wait_item

_TRAINING_CHARS: Final = 1_500_000
# How the tokenizers of today's models split text: letters, up to three digits, punctuation, space.
_SPLIT: Final = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
# A byte-level token may end inside a character; no character has more than four bytes.
_UNFINISHED_TOKENS_MAX: Final = 4
_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"


def load_tokenizer() -> Tokenizer:
    """The trained tokenizer; trained once (under a second) and kept in the temporary directory."""
    corpus = stdlib_text(_TRAINING_CHARS)
    recipe = f"{tokenizers.__version__} {VOCABULARY} {_SPLIT} {os.getuid()}".encode()
    key = hashlib.sha256(recipe + corpus.encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"cputax-oracle-tokenizer-{key}.json"
    if path.is_file() and path.stat().st_uid == os.getuid():
        return Tokenizer.from_file(str(path))
    tokenizer = _train(corpus)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(tokenizer.to_str())
    Path(file.name).replace(path)
    return tokenizer


def _train(corpus: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(corpus.splitlines(keepends=True), trainer)
    return tokenizer


def encode_releases_gil(tokenizer: Tokenizer) -> bool:
    """Whether ``encode_batch`` of the installed version lets other threads run meanwhile.

    Measured, with forced switches off (`own_the_gil`): a thread that waits for nothing but the GIL
    looks at the clock, and saw it before the encoding was done only if the GIL was free in between.
    """
    text = stdlib_text(100_000)
    go = threading.Event()
    seen_ns: list[int] = []

    def look() -> None:
        go.wait()
        seen_ns.append(time.monotonic_ns())

    thread = threading.Thread(target=look, name="gil check")
    thread.start()
    go.set()
    tokenizer.encode_batch([text])
    ended_ns = time.monotonic_ns()
    thread.join()
    return seen_ns[0] < ended_ns


@dataclass(slots=True)
class TokenizeTimes:
    """When a request's prompt waited and was tokenized; ns."""

    submitted_ns: int = 0
    started_ns: int = 0
    ended_ns: int = 0
    cpu_ns: int = 0


@dataclass(frozen=True, slots=True)
class _Job:
    render: Callable[[], str]
    times: TokenizeTimes
    loop: asyncio.AbstractEventLoop
    result: asyncio.Future[list[int]]


class TokenizerThread(threading.Thread):
    """One thread and its queue: prompts are rendered and encoded one after another."""

    def __init__(self, tokenizer: Tokenizer, *, releases_gil: bool) -> None:
        super().__init__(name="tokenizer", daemon=True)
        self._tokenizer = tokenizer
        self._releases_gil = releases_gil
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()

    async def encode(self, render: Callable[[], str], times: TokenizeTimes) -> list[int]:
        """Queue ``render`` (which makes the prompt's text) and its tokenization."""
        loop = asyncio.get_running_loop()
        result: asyncio.Future[list[int]] = loop.create_future()
        times.submitted_ns = time.monotonic_ns()
        self._jobs.put(_Job(render, times, loop, result))
        return await result

    def run(self) -> None:
        """Serve the queue for the life of the process."""
        while True:
            job = wait_item(self._jobs)
            job.times.started_ns = time.monotonic_ns()
            cpu_ns = time.thread_time_ns()
            text = job.render()
            token_ids = tokenize(self._tokenizer, text, releases_gil=self._releases_gil)
            job.times.cpu_ns = time.thread_time_ns() - cpu_ns
            job.times.ended_ns = time.monotonic_ns()
            job.loop.call_soon_threadsafe(_deliver, job.result, token_ids)


def _deliver(result: asyncio.Future[list[int]], token_ids: list[int]) -> None:
    if not result.cancelled():  # the client may have gone
        result.set_result(token_ids)


@staged(Stage.TOKENIZE)
def tokenize(tokenizer: Tokenizer, text: str, *, releases_gil: bool) -> list[int]:
    """Token ids of a text; the GIL is free while the library encodes, if it frees it."""
    if releases_gil:
        encoding = released(tokenizer.encode_batch, [text])[0]
    else:
        encoding = tokenizer.encode_batch([text])[0]
    ids: list[int] = encoding.ids
    return ids


@dataclass(slots=True)
class TextStream:
    """The text of one request's tokens, whole characters only."""

    pending: list[int] = field(default_factory=list)

    def push(self, tokenizer: Tokenizer, token: int) -> str:
        """The text that ``token`` completes; empty while a character is unfinished."""
        self.pending.append(token)
        text: str = tokenizer.decode(self.pending)
        if text.endswith(_REPLACEMENT) and len(self.pending) < _UNFINISHED_TOKENS_MAX:
            return ""
        self.pending.clear()
        return text


@staged(Stage.DETOKENIZE)
def detokenize(
    tokenizer: Tokenizer, outputs: list[dict[str, Any]], streams: dict[int, TextStream]
) -> list[str]:
    """The new text of each output of a step; outputs of forgotten requests give an empty one."""
    return [
        streams[output["id"]].push(tokenizer, output["token"]) if output["id"] in streams else ""
        for output in outputs
    ]
