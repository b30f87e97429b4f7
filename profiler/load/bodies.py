"""What the requests of a plan say: their prompts, and the fields around them."""

from __future__ import annotations

from typing import Any

from profiler.load.plan import Plan
from profiler.load.prompts import make_prompt
from profiler.load.scenario import Kind, WarmUp
from profiler.load.words import WordPrompts


class Bodies:
    """Makes the JSON fields of each request; some ten microseconds each."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._scenario = plan.scenario
        self._seed = f"{plan.nonce}-{plan.scenario.seed}"
        self._words: WordPrompts | None = None
        if plan.pool is not None:
            sizes = (plan.scenario.prompt_tokens, plan.scenario.warm_up.prompt_tokens)
            self._words = WordPrompts(plan.pool, max(size or 0 for size in sizes), self._seed)

    def make(self, key: str, warm_up: WarmUp | None = None) -> dict[str, Any]:
        """Return the fields of request ``key``, in the sizes of ``warm_up`` if it is one."""
        scenario = self._scenario
        max_tokens = warm_up.max_tokens if warm_up else None
        fields: dict[str, Any] = {
            "max_tokens": max_tokens or scenario.max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if scenario.ignore_eos:
            fields["ignore_eos"] = True
        if self._plan.endpoint.model is not None:
            fields["model"] = self._plan.endpoint.model
        prompt = self._prompt(key, warm_up)
        if scenario.kind is Kind.CHAT:
            fields["messages"] = [{"role": "user", "content": prompt}]
        else:
            fields["prompt"] = prompt
        return fields

    def _prompt(self, key: str, warm_up: WarmUp | None) -> str:
        scenario, pool = self._scenario, self._plan.pool
        if scenario.shared_prompt:
            key = "shared"
        if self._words is None or pool is None:
            return make_prompt(scenario.prompt_chars or 0, f"{self._seed}-{key}")
        token_count = scenario.prompt_tokens or 0
        if warm_up is not None and warm_up.prompt_tokens is not None:
            # Scaled down, a warm-up may be smaller than what the server adds to any prompt.
            token_count = max(warm_up.prompt_tokens, pool.overhead_tokens)
        return self._words.make(token_count, key)
