"""A server that scenarios are run against: what has to be known of it is asked once."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from profiler.load.endpoint import Endpoint
from profiler.load.scenario import Kind, Scenario

if TYPE_CHECKING:
    from profiler.load.words import WordPool


class Site:
    """An endpoint with its model's name and its token counts.

    ``tokenizer`` is the file that counts tokens instead of the server. ``is_repeatable`` makes the
    prompts of a seed the same in each run, so that a second run finds the first one's in the
    server's prefix cache.
    """

    def __init__(
        self, endpoint: Endpoint, *, tokenizer: Path | None = None, is_repeatable: bool = False
    ) -> None:
        self.endpoint = endpoint
        self._tokenizer = tokenizer
        self._is_repeatable = is_repeatable
        self._pools: dict[Kind, WordPool] = {}
        self._checked: set[tuple[Kind, int]] = set()

    def make_nonce(self) -> str:
        """Return what makes a run's prompts its own; nothing when they are to be repeatable."""
        return "" if self._is_repeatable else secrets.token_hex(8)

    def prepare(self, scenario: Scenario) -> WordPool | None:
        """Ask what ``scenario`` needs: the model, and words to make exact prompts of.

        None when its prompts are counted in characters.

        Raises:
            ServerRefuses: the server is not there, or refuses a prompt of this size.
            PromptInexact: no prompt of this size can be made for its tokenizer.
            TokenizerInvalid: the tokenizer file is none.
            ApiKeyMissing: the key's variable is not set.
        """
        return asyncio.run(self._prepare(scenario))

    async def _prepare(self, scenario: Scenario) -> WordPool | None:
        from profiler.load.token_count import ServerQuestions, file_counter
        from profiler.load.words import check_size, find_words

        if self.endpoint.model is None:
            async with ServerQuestions(self.endpoint) as server:
                self.endpoint = replace(self.endpoint, model=await server.model())
        if scenario.prompt_tokens is None:
            return None
        size = (scenario.kind, scenario.prompt_tokens)
        if size not in self._checked:
            async with ServerQuestions(self.endpoint) as server:
                if self._tokenizer is not None:
                    count_tokens = file_counter(self._tokenizer)
                else:
                    count_tokens = await server.counter(scenario.kind)
                if scenario.kind not in self._pools:
                    self._pools[scenario.kind] = await find_words(count_tokens)
                await check_size(count_tokens, self._pools[scenario.kind], scenario.prompt_tokens)
            self._checked.add(size)
        return self._pools[scenario.kind]
