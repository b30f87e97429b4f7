"""Numpy in place of a model: real arrays, real matrix products, an honest wait for a "device"."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from profiler.oracle.model_card import GHOST_STEP_TOKENS, VOCABULARY
from profiler.oracle.stages import Stage
from profiler.oracle.truth.ledger import released, staged

Floats = npt.NDArray[np.float32]

# One wide layer, not several: every call that releases the GIL blurs the GIL truth a little.
HIDDEN: Final = 48

# Sampling looks at the first ids only: the model babbles common tokens at a low price.
SAMPLED_VOCABULARY: Final = 2_000
STEP_TOKENS_MAX: Final = 8192

# Argmax releases the GIL, for about 0.1 us a row: too short to be worth timing up to this many
# rows, which real requests alone never exceed.
_ARGMAX_HELD_ROWS_MAX: Final = 64

# The pretended device: a step takes its base time, and this for each token, whatever the CPU does
# beside it.
DEVICE_TOKEN_NS: Final = 400


@dataclass(frozen=True, slots=True)
class StepInputs:
    """A step as the model sees it; ``last_rows`` are the rows to sample from."""

    token_ids: npt.NDArray[np.intp]
    last_rows: list[int]


@dataclass(slots=True)
class Sequences:
    """The prompts and sampled tokens of the running requests, by request id."""

    tokens: dict[int, npt.NDArray[np.uint32]] = field(default_factory=dict)
    last_token: dict[int, int] = field(default_factory=dict)


@staged(Stage.PREPARE_INPUTS)
def prepare_inputs(sequences: Sequences, header: dict[str, Any], payload: bytes) -> StepInputs:
    """Take in new prompts, drop finished requests, and lay the step's tokens in one row.

    ``header`` and ``payload`` are the step message of the EngineCore.
    """
    for request_id in header["finished"]:
        sequences.tokens.pop(request_id, None)
        sequences.last_token.pop(request_id, None)
    offset = 0
    for request_id, token_count in header["new"]:
        sequences.tokens[request_id] = np.frombuffer(payload, np.uint32, token_count, offset)
        offset += 4 * token_count
    parts: list[npt.NDArray[np.uint32]] = []
    last_rows = []
    row = 0
    for request_id, start, token_count, samples in header["chunks"]:
        prompt = sequences.tokens[request_id]
        if start < len(prompt):
            parts.append(prompt[start : start + token_count])
        else:
            # One row; a ghost repeats it.
            last_tokens = [sequences.last_token[request_id]] * token_count
            parts.append(np.array(last_tokens, np.uint32))
        row += token_count
        if samples:
            last_rows.append(row - 1)
    # Converting within holds the GIL for short parts; `astype` on the whole row would release it.
    return StepInputs(np.concatenate(parts, dtype=np.intp), last_rows)


class Model:
    """Random weights, fixed by their seed; buffers are made once, with room for the ghosts."""

    def __init__(self, ghost_count: int) -> None:
        random = np.random.default_rng(seed=1)
        self._embedding = random.standard_normal((VOCABULARY, HIDDEN), np.float32)
        scale = np.float32(HIDDEN**-0.5)
        self._layer = random.standard_normal((HIDDEN, HIDDEN), np.float32) * scale
        self._head = random.standard_normal((HIDDEN, SAMPLED_VOCABULARY), np.float32)
        row_count = STEP_TOKENS_MAX + ghost_count * GHOST_STEP_TOKENS
        self._states = np.zeros((2, row_count, HIDDEN), np.float32)

    @staged(Stage.MODEL_FORWARD)
    def forward(self, inputs: StepInputs) -> Floats:
        """Hidden states of the rows to sample from, shape (len(last_rows), HIDDEN)."""
        # After the device's wait the caches are cold, and what numpy does with the GIL held before
        # it lets go would blur the released time by tens of us. The first row alone warms them.
        self._compute(inputs.token_ids[:1], _held)
        self._compute(inputs.token_ids, released)
        return self._states[0, inputs.last_rows]

    def _compute(self, token_ids: npt.NDArray[np.intp], call: Callable[..., Any]) -> None:
        row_count = len(token_ids)
        states, spare = self._states[0, :row_count], self._states[1, :row_count]
        call(np.take, self._embedding, token_ids, axis=0, out=states, mode="clip")
        call(np.matmul, states, self._layer, out=spare)
        call(np.tanh, spare, out=states)

    @staged(Stage.SAMPLING)
    def sample(self, states: Floats) -> list[int]:
        """The likeliest token of each row."""
        if not len(states):
            return []
        np.matmul(states[:1], self._head)  # warms the caches, as in `forward`
        logits = released(np.matmul, states, self._head)
        call = released if len(states) > _ARGMAX_HELD_ROWS_MAX else _held
        best: list[int] = call(np.argmax, logits, axis=1).tolist()
        return best


def _held(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function that is too short for its releasing of the GIL to matter."""
    return function(*args, **kwargs)


@staged(Stage.DEVICE_WAIT)
def wait_for_device(started_ns: int, base_ns: int, token_count: int) -> None:
    """Wait until a device that began at ``started_ns`` would be done with the step."""
    done_ns = started_ns + base_ns + DEVICE_TOKEN_NS * token_count
    left_ns = done_ns - time.monotonic_ns()
    if left_ns > 0:
        released(time.sleep, left_ns / 1e9)
