"""Continuous batching: every step serves the running requests first, then admits waiting ones."""

from __future__ import annotations

import sys
import time
from array import array
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from profiler.oracle.block_pool import Allocation, BlockPool
from profiler.oracle.model_card import GHOST_STEP_TOKENS, VOCABULARY
from profiler.oracle.stages import Stage
from profiler.oracle.truth.ledger import staged


@dataclass(slots=True)
class EngineRequest:
    """A request inside the engine; nobody waits for the tokens of a ghost (`make_ghosts`)."""

    request_id: int
    prompt: array[int]
    block_hashes: list[bytes]
    max_tokens: int
    queued_ns: int = 0
    scheduled_ns: int = 0
    first_token_ns: int = 0
    computed_count: int = 0
    output_count: int = 0
    allocation: Allocation | None = None
    is_ghost: bool = False


@dataclass(frozen=True, slots=True)
class Chunk:
    """The part of one request that a step computes; it samples when it ends the prompt."""

    request: EngineRequest
    start: int
    token_count: int
    is_new: bool
    samples: bool


@dataclass(frozen=True, slots=True)
class Limits:
    """What one step may hold."""

    step_tokens: int = 8192
    running_requests: int = 64
    block_count: int = 32768


def make_ghosts(count: int) -> list[EngineRequest]:
    """Sequences that every step carries beside the real ones, as endless decodes.

    They make a step as heavy as a production server's, whose stages last a millisecond or more:
    those of a few real sequences last tens of microseconds, less than a sampler takes to read one
    stack without stopping the process, so it smears them. Ids are negative, out of the way of real
    requests.
    """
    return [
        EngineRequest(
            request_id=-number,
            prompt=array("I", [number % VOCABULARY] * GHOST_STEP_TOKENS),
            block_hashes=[],
            max_tokens=sys.maxsize,
            is_ghost=True,
        )
        for number in range(1, count + 1)
    ]


@dataclass(slots=True)
class Scheduler:
    """The queues of the engine; ``ghosts`` (`make_ghosts`) are in no queue and hold no blocks."""

    limits: Limits = field(default_factory=Limits)
    waiting: deque[EngineRequest] = field(default_factory=deque)
    running: list[EngineRequest] = field(default_factory=list)
    ghosts: list[EngineRequest] = field(default_factory=list)
    pool: BlockPool = field(init=False)

    def __post_init__(self) -> None:
        self.pool = BlockPool(self.limits.block_count)

    @property
    def has_work(self) -> bool:
        """Whether a step would compute anything."""
        return bool(self.waiting or self.running)

    def add(self, request: EngineRequest) -> None:
        """Queue a request; its time in the queue begins."""
        request.queued_ns = time.monotonic_ns()
        self.waiting.append(request)

    def abort(self, request_id: int) -> None:
        """Forget a request whose client has gone; unknown ones are finished already."""
        for request in self.running:
            if request.request_id == request_id:
                self._finish(request)
                return
        self.waiting = deque(item for item in self.waiting if item.request_id != request_id)

    @staged(Stage.SCHEDULE)
    def schedule(self) -> list[Chunk]:
        """Choose what the next step computes; ghosts follow the real requests, on top of limits.

        Empty without real requests: ghosts alone make no step.
        """
        now_ns = time.monotonic_ns()  # as in vLLM, one instant for all that a step takes up
        chunks = []
        budget = self.limits.step_tokens
        for request in self.running:
            if budget == 0:
                break
            chunk = _next_chunk(request, budget, is_new=False)
            budget -= chunk.token_count
            chunks.append(chunk)
        while self.waiting and budget and len(self.running) < self.limits.running_requests:
            request = self.waiting[0]
            prompt_count = len(request.prompt)
            allocation = self.pool.allocate(
                request.block_hashes, prompt_count, prompt_count + request.max_tokens
            )
            if allocation is None:
                break
            self.waiting.popleft()
            request.allocation = allocation
            request.computed_count = allocation.cached_token_count
            request.scheduled_ns = now_ns
            self.running.append(request)
            chunk = _next_chunk(request, budget, is_new=True)
            budget -= chunk.token_count
            chunks.append(chunk)
        if chunks:
            for ghost in self.ghosts:
                is_new = ghost.computed_count == 0
                chunks.append(_next_chunk(ghost, GHOST_STEP_TOKENS, is_new=is_new))
        return chunks

    @staged(Stage.OUTPUT_UPDATE)
    def update(self, chunks: list[Chunk], sampled: list[int]) -> list[dict[str, Any]]:
        """Book a finished step; returns one output per new token, with its request's times.

        Ghosts are booked like the others, but have no outputs.
        """
        now_ns = time.monotonic_ns()
        tokens = iter(sampled)
        outputs = []
        for chunk in chunks:
            request = chunk.request
            request.computed_count = chunk.start + chunk.token_count
            if not chunk.samples:
                continue
            token = next(tokens)
            request.output_count += GHOST_STEP_TOKENS if request.is_ghost else 1
            request.first_token_ns = request.first_token_ns or now_ns
            is_finished = request.output_count >= request.max_tokens
            output = {"id": request.request_id, "token": token, "finished": is_finished}
            if is_finished or request.output_count == 1:
                output |= {
                    "queued_ns": request.queued_ns,
                    "scheduled_ns": request.scheduled_ns,
                    "first_token_ns": request.first_token_ns,
                    "last_token_ns": now_ns,
                }
            if not request.is_ghost:
                outputs.append(output)
            if is_finished:
                self._finish(request)
        return outputs

    def stats(self) -> dict[str, float]:
        """What the server's gauges and prefix-cache counters show."""
        return {
            "running_count": len(self.running),
            "waiting_count": len(self.waiting),
            "kv_usage_ratio": self.pool.usage_ratio,
            "query_token_count": self.pool.query_token_count,
            "hit_token_count": self.pool.hit_token_count,
        }

    def _finish(self, request: EngineRequest) -> None:
        self.running.remove(request)
        if request.allocation is not None:
            self.pool.free(request.allocation)
            request.allocation = None


def _next_chunk(request: EngineRequest, budget: int, *, is_new: bool) -> Chunk:
    known_count = len(request.prompt) + request.output_count
    token_count = min(known_count - request.computed_count, budget)
    samples = request.computed_count + token_count == known_count
    return Chunk(request, request.computed_count, token_count, is_new, samples)
